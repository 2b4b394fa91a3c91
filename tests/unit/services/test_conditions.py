"""A condition is one line when it begins and one when it ends, whoever sees it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stream_executor.http import metrics
from stream_executor.model.conditions import REMEDIES, Condition, Trouble
from stream_executor.services.conditions import Conditions

PAGE = Path(__file__).parents[3] / "docs" / "recovery.md"


def test_what_many_retries_find_is_said_once() -> None:
    now = [1_000]
    conditions = Conditions(lambda: now[0])
    with capture_logs() as lines:
        for number in range(3):
            conditions.see("lane 0", {Condition.BROKERS_AWAY: f"refused {number}"})
            conditions.see("lane 1", {Condition.BROKERS_AWAY: "refused"})
        (trouble,) = conditions.troubles
        assert trouble == Trouble(Condition.BROKERS_AWAY, "refused 2", 1_000)
        now[0] = 601_000
        conditions.see("lane 0", {})
        assert conditions.holds(Condition.BROKERS_AWAY)
        conditions.see("lane 1", {})
    begun, ended = lines
    assert begun["event"] == "condition.begun"
    assert begun["log_level"] == "error"
    assert begun["condition"] == "brokers_away"
    assert begun["reason"] == "refused 0"
    assert begun["remedy"] == REMEDIES[Condition.BROKERS_AWAY]
    assert (ended["event"], ended["lasted_s"]) == ("condition.ended", 600)
    assert conditions.troubles == ()


def test_a_source_that_sees_something_else_ends_what_it_saw() -> None:
    conditions = Conditions()
    conditions.see("start", {Condition.NAME_UNRESOLVED: "no such name"})
    conditions.see("start", {Condition.CREDENTIALS_REFUSED: "no such user"})
    assert [one.condition for one in conditions.troubles] == ["credentials_refused"]


def test_a_trouble_in_words_ends_with_its_remedy() -> None:
    words = str(Trouble(Condition.DISK_FULL, "no room.", 0))
    assert words == f"disk_full: no room; {REMEDIES[Condition.DISK_FULL]}"


@pytest.mark.parametrize("condition", Condition)
def test_each_has_a_remedy_a_metric_and_a_row_in_the_page(condition: Condition) -> None:
    assert REMEDIES[condition]
    assert condition in metrics.CONDITIONS.values
    assert f"| `{condition}` |" in PAGE.read_text()


def test_the_page_names_nothing_that_does_not_exist() -> None:
    text = PAGE.read_text()
    section = text[text.index("## What the service says") :]
    code = "\n".join(path.read_text() for path in Path("stream_executor").rglob("*.py"))
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\|$", section, re.MULTILINE)
    assert {row[0] for row in rows} == set(Condition)
    checks = re.findall(r"`((?:kafka|disk|clock)(?:\.\w+)?|service)`", section)
    assert checks
    for check in checks:
        assert f'"{check}"' in code, check
    for metric in re.findall(r"`(wasm_executor_\w+)", section):
        assert metric in metrics.BY_NAME, metric
