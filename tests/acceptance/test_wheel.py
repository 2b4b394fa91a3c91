"""The wheel: the same bytes twice, nothing but the package, only allowed licences."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> Path:
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
            "--no-build-isolation", "-w", folder, ROOT,
        ],
        check=True,
        env={"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "1764000000"},
        timeout=100,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_is_reproducible_and_holds_the_package_alone(tmp_path: Path) -> None:
    first, second = build(tmp_path / "a"), build(tmp_path / "b")

    assert first.read_bytes() == second.read_bytes()
    names = zipfile.ZipFile(first).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"stream_executor"}
    assert any(name.endswith("schemas/Seal.v1.avsc") for name in names)


def test_every_licence_is_allowed() -> None:
    done = subprocess.run(
        ["make", "licences"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wasmtime" in done.stdout
