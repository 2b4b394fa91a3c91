from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.cli_runner import Cli

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_demonstration_keeps_every_promise(cli: Cli) -> None:
    ran = cli("demo", timeout_s=170)
    assert ran.code == 0, ran.out + ran.err
    for words in (
        "SIGNED, SEALED",
        "1000 bytes",
        "auth_bad_signature",
        "auth_wrong_binding",
        "auth_replayed",
        "verify: ok; 7 of 7 requests answered",
    ):
        assert words in ran.out
    assert "NOT AS PROMISED" not in ran.out


def test_make_demo_is_that_command() -> None:
    ran = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo"],  # noqa: S607 - whose make it is
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert ran.stdout.decode().splitlines()[-1] == ".venv/bin/wasm-executor demo"
