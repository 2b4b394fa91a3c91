"""Applies a sabotage to a copy of the package, and runs what must catch it there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.sabotage.listing import Sabotage

ROOT = Path(__file__).parents[2]
_COPIED = ("stream_executor", "schemas", "tests", "docs")
_FILES = ("pyproject.toml",)
_HISTORIES = "400"
_LIMIT_S = 240.0
# pytest's exit code for tests that ran and failed; others mean that none ran.
_FAILED = 1


class SabotageError(Exception):
    """The sabotage says nothing: its line is gone, or its tests did not run."""


class Caught(NamedTuple):
    """Which test failed first, or None; and what pytest said."""

    by: str | None
    output: str


def apply(sabotage: Sabotage, package: Path) -> None:
    """Change the lines in a copy.

    Raises:
        SabotageError: a line is not there exactly once.
    """
    path = package / sabotage.file
    text = path.read_text(encoding="utf-8")
    for edit in sabotage.edits:
        if text.count(edit.old) != 1:
            message = (
                f"{sabotage.name}: {sabotage.file} has {text.count(edit.old)} times "
                f"{edit.old!r}; say anew what a wrong build would look like"
            )
            raise SabotageError(message)
        text = text.replace(edit.old, edit.new)
    compile(text, str(path), "exec")
    path.write_text(text, encoding="utf-8")


def run(sabotage: Sabotage | None, tests: tuple[str, ...]) -> Caught:
    """Run tests against a copy with this sabotage, or with none.

    Raises:
        SabotageError: as ``apply``, or the tests were not run against the copy.
    """
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        copy = Path(folder)
        for name in _COPIED:
            ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        for name in _FILES:
            shutil.copyfile(ROOT / name, copy / name)
        if sabotage is not None:
            apply(sabotage, copy / "stream_executor")
        # The copy comes first on the path; that it does is asked for each time.
        guard = (
            "import pytest, stream_executor, sys\n"
            f"assert stream_executor.__file__.startswith({folder!r})\n"
            "sys.exit(pytest.main(sys.argv[1:]))"
        )
        command = [
            sys.executable, "-c", guard, "-x", "-q", "-p", "no:randomly",
            "-p", "no:cacheprovider", "--no-header", "--tb=line", *tests,
        ]  # fmt: skip
        environment = {
            **os.environ,
            "PYTHONPATH": folder,
            "PYTHONDONTWRITEBYTECODE": "1",
            "WASM_EXECUTOR_TEST_HISTORIES": _HISTORIES,
        }
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True,
                check=False, timeout=_LIMIT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            message = f"its tests did not end within {_LIMIT_S:.0f} s"
            raise SabotageError(message) from error
    output = done.stdout + done.stderr
    if done.returncode == 0:
        return Caught(None, output)
    failed = [line for line in output.splitlines() if line.startswith("FAILED ")]
    if done.returncode != _FAILED or not failed:
        message = f"pytest ended with {done.returncode}:\n{output[-3000:]}"
        raise SabotageError(message)
    return Caught(failed[0].split()[1], output)
