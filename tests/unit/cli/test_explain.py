"""Every word that an operator may meet is explained."""

from __future__ import annotations

import pytest

from stream_executor.audit.findings import FindingCode
from stream_executor.cli import explain, main
from stream_executor.lane.damage import Damage
from stream_executor.model.codes import CODES, Status


@pytest.mark.parametrize("words", [CODES, Status, FindingCode, Damage])
def test_words_of_every_kind_are_explained_and_none_hides_another(
    words: type[Status] | dict[str, object],
) -> None:
    entries = explain._entries()
    kinds = {entries[str(word)]["kind"] for word in words}
    assert len(kinds) == 1


def test_a_kind_of_damage_says_what_happened_and_what_a_resume_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main(["explain", "audit_tail_lost"]) == 0
    said = capsys.readouterr().out
    assert "results cite events that the audit log no longer holds" in said
    assert "goes on after the answered ones" in said
