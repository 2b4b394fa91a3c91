"""The runbook names every kind of damage, and nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stream_executor.cli.app import app
from stream_executor.lane.damage import MEANINGS, Damage

PAGE = Path(__file__).parents[3] / "docs" / "recovery.md"


def test_every_kind_of_damage_has_a_row() -> None:
    halted, _, _ = PAGE.read_text().partition("## What the service says")
    rows = re.findall(r"^\| `([a-z_]+)` \| (.*) \| (.*) \|$", halted, re.MULTILINE)
    assert {name: (happened, resume) for name, happened, resume in rows} == {
        damage.value: (MEANINGS[damage].happened, MEANINGS[damage].resume)
        for damage in Damage
    }


def test_its_commands_exist() -> None:
    from typer.main import get_command  # noqa: PLC0415 - here only

    root: Any = get_command(app)
    named = set(re.findall(r"`wasm-executor ([a-z]+) ([a-z]+)", PAGE.read_text()))
    assert ("lane", "resume") in named
    assert ("audit", "doctor") in named
    for group, command in named:
        found = root.commands[group]
        assert command in getattr(found, "commands", {command: None})
