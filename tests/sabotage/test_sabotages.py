"""A suite that misses a wrong build proves nothing: `make sabotage`, the quick part."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.sabotage.listing import SABOTAGES, Edit, Sabotage
from tests.sabotage.running import ROOT, SabotageError, apply, run

if TYPE_CHECKING:
    from pathlib import Path

FAST = [one for one in SABOTAGES if one.fast]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be broken."""
    copy = tmp_path / "stream_executor"
    shutil.copytree(
        ROOT / "stream_executor", copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    return copy


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda one: one.name)
def test_every_sabotage_still_applies_and_names_tests(
    sabotage: Sabotage, package: Path
) -> None:
    apply(sabotage, package)
    assert all((ROOT / test.partition("::")[0]).exists() for test in sabotage.caught_by)


def test_a_line_that_is_gone_is_said(package: Path) -> None:
    gone = Sabotage("gone", "lane/lane.py", (Edit("no such line", ""),), ())
    with pytest.raises(SabotageError, match="0 times"):
        apply(gone, package)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quick_ones_are_caught() -> None:
    """And what is not broken is not called broken."""
    tests = tuple(dict.fromkeys(test for one in FAST for test in one.caught_by))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        right = pool.submit(run, None, tests)
        caught = list(pool.map(lambda one: run(one, one.caught_by), FAST))
    assert right.result().by is None, right.result().output
    missed = [one.name for one, by in zip(FAST, caught, strict=True) if by.by is None]
    assert missed == []
