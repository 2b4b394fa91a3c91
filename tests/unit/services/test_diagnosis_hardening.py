"""What ``doctor`` says of the sandbox: in force, and missing on this kernel."""

from __future__ import annotations

import pytest

from stream_executor.services import diagnosis


@pytest.mark.parametrize(
    ("applied", "missing", "state", "found"),
    [
        (["landlock", "seccomp"], [], "ok", "landlock, seccomp"),
        (["rlimits"], ["landlock"], "warning", "rlimits; not: landlock"),
        ([], ["landlock", "seccomp"], "warning", "nothing; not: landlock, seccomp"),
    ],
)
def test_doctor_names_what_is_in_force_and_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    applied: list[str],
    missing: list[str],
    state: str,
    found: str,
) -> None:
    monkeypatch.setattr(diagnosis, "_sandbox_report", lambda: (applied, missing))
    check = diagnosis.hardening()
    assert (check.state, check.found) == (state, found)
