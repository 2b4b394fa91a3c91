from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.cli_runner import Cli
from tests.lacking import lacking
from tests.own_host import OwnHost

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[OwnHost]:
    shared = tmp_path / "shared"
    shared.mkdir()
    tmp_path.chmod(0o755)
    try:
        own = OwnHost(shared)
    except OSError as error:
        lacking(str(error))
    yield own
    own.close()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    folder = tmp_path / "shared" / "dist"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
            "--no-build-isolation", "-w", folder, ROOT,
        ],
        check=True,
    )  # fmt: skip
    (made,) = folder.glob("*.whl")
    return made
