"""``explain``: what a word of ours means; offline.

Codes, statuses, traps, audit findings, kinds of damage, exit codes and error names.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer

from stream_executor.cli.failures import EXITS, KINDS, CommandError
from stream_executor.cli.options import Json  # noqa: TC001 - typer reads it
from stream_executor.cli.output import print_json, say, table

_STATUSES = {
    "SUCCEEDED": "The guest ran to its end; outputs are in the result.",
    "FAILED": "The guest ran, or was about to, and did not come to a good end.",
    "REJECTED": "A worker decided not to run it; the sandbox was never entered.",
    "EXPIRED": "Its own not_after had passed; it was not run.",
    "QUARANTINED": "Workers died while it was in flight; it is not tried again.",
}


def explain(
    *,
    word: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|EXIT]",
            help="All of them if left out.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say what a code, status, finding, exit code or error name means; what to do."""
    entries = _entries()
    if word is None:
        _print_all(entries, as_json=json)
        return
    key = word.strip().removeprefix("error[").rstrip("]:")
    found = entries.get(key) or entries.get(key.lower()) or entries.get(key.upper())
    if found is None:
        near = difflib.get_close_matches(key.lower(), [n.lower() for n in entries], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CommandError(
            "NOT_FOUND",
            f"{key[:64]!r} is no code, status, finding, exit code or error name{hint}",
            remedy="wasm-executor explain",
        )
    if json:
        print_json(found, schema="explanation")
        return
    say(f"{found['name']}  ({found['kind']})")
    say(found["meaning"])
    for label in ("status", "exit", "resume"):
        if label in found:
            say(f"{label}: {found[label]}")
    if "remedy" in found:
        say(f"try: {found['remedy']}")
    for code in found.get("codes", ()):
        say(f"  {code}")


def _entries() -> dict[str, dict[str, Any]]:
    """Give every explanation by name; names of different kinds never collide."""
    from stream_executor.audit.findings import MEANINGS as FINDINGS
    from stream_executor.lane.damage import MEANINGS as DAMAGES
    from stream_executor.model.codes import CODES, Status, TrapKind

    entries: dict[str, dict[str, Any]] = {}
    for code, row in CODES.items():
        entries[code.value] = {
            "name": code.value,
            "kind": "code",
            "status": row.status.value,
            "meaning": row.meaning,
            "remedy": row.remedy,
        }
    for status in Status:
        codes = [c.value for c, row in CODES.items() if row.status is status]
        entries[status.value] = {
            "name": status.value,
            "kind": "status",
            "meaning": _STATUSES[status.value],
            "codes": codes,
        }
    for trap in TrapKind:
        entries.setdefault(
            trap.value,
            {
                "name": trap.value,
                "kind": "trap",
                "meaning": f"The guest trapped: {trap.value.replace('_', ' ')}.",
                "remedy": "Debug the guest with `wasm-executor invoke`.",
            },
        )
    for exit_code, meaning in EXITS.items():
        entries[str(int(exit_code))] = {
            "name": str(int(exit_code)),
            "kind": "exit code",
            "meaning": meaning,
        }
    for finding, meaning in FINDINGS.items():
        entries[finding.value] = {
            "name": finding.value,
            "kind": "audit finding",
            "meaning": meaning,
            "remedy": "wasm-executor audit doctor; keep what may be evidence",
        }
    for damage, told in DAMAGES.items():
        entries[damage.value] = {
            "name": damage.value,
            "kind": "damage",
            "meaning": f"A lane halts: {told.happened}.",
            "resume": told.resume,
            "remedy": "wasm-executor audit doctor",
        }
    for name, kind in KINDS.items():
        entries[name] = {
            "name": name,
            "kind": "error",
            "exit": int(kind.exit),
            "meaning": kind.meaning,
            "remedy": kind.remedy,
        }
    return entries


def _print_all(entries: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for entry in entries.values():
            print_json(entry, schema="explanation")
        return
    table(
        ("NAME", "KIND", "MEANING"),
        [(e["name"], e["kind"], e["meaning"]) for e in entries.values()],
    )
