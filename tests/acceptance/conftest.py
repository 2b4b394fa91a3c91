from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.cli_runner import Cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)
