"""Every threat of docs/threat-model.md has a test that carries its id, or says when.

A row whose status is ``planned: …`` needs none yet. An id on a test that the document
does not have is a slip too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "threat-model.md"
_ROW = re.compile(r"^\| (T-\d\d) \|.*\| ([^|]+) \|$", re.MULTILINE)
_MARK = re.compile(r"""\bthreat\(\s*["'](T-\d\d)["']""")
_PLANNED = re.compile(r"planned: notary")


def documented() -> dict[str, str]:
    rows = _ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len(rows) == len(dict(rows)), "an id stands in two rows"
    return dict(rows)


def marked() -> dict[str, list[str]]:
    """Give the test files of each id."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        if file != Path(__file__):
            for threat in set(_MARK.findall(file.read_text(encoding="utf-8"))):
                found.setdefault(threat, []).append(str(file.relative_to(ROOT)))
    return found


def test_ids_run_from_t_01_without_a_hole() -> None:
    ids = list(documented())

    assert ids == [f"T-{number:02}" for number in range(1, len(ids) + 1)]


@pytest.mark.parametrize("threat", documented())
def test_a_threat_has_a_test_or_says_when(threat: str) -> None:
    status = documented()[threat]

    if status == "tested":
        assert threat in marked(), f'no test carries @pytest.mark.threat("{threat}")'
    else:
        assert _PLANNED.fullmatch(status), status


def test_tests_name_only_threats_of_the_document() -> None:
    assert marked().keys() <= documented().keys()
