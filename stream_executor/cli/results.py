"""Printing results: for people, or as the result record's own JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_executor.cli.failures import Exit
from stream_executor.cli.output import hint, say, write
from stream_executor.model.codes import Code

if TYPE_CHECKING:
    from stream_executor.client.result import Result


def print_result(result: Result, module: str, *, as_json: bool) -> Exit:
    """Print one result of ``module``; give the exit code that tells if it succeeded.

    For people: outputs or bytes alone on stdout, as a program would print them, and
    everything else on stderr.
    """
    if as_json:
        write(result.to_json() + b"\n")
    else:
        _print_plain(result, module)
    return Exit.OK if result.ok else Exit.UNSUCCESSFUL


def summary(result: Result) -> str:
    """Give one line: what came out, or why nothing did."""
    if not result.ok:
        kind = f" ({result.trap})" if result.trap else ""
        message = f": {result.message}" if result.message else ""
        return f"{result.code}{kind}{message}"
    if result.outputs:
        return " ".join(str(value) for value in result.outputs)
    data = result.output or result.stdout
    return shorten(data)


def shorten(data: bytes, most: int = 48) -> str:
    """Give bytes as one short printable line."""
    text = data.decode(errors="replace").rstrip("\n")
    text = "".join(c if c.isprintable() else "·" for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _print_plain(result: Result, module: str) -> None:
    for scalar in result.typed_outputs:
        say(f"{scalar.type}:{scalar.value}")
    write(result.output + result.stdout)
    if result.stderr:
        hint(result.stderr.decode(errors="backslashreplace").rstrip("\n"))
    cost = f"{result.fuel_consumed} fuel, {result.record.duration_us} µs"
    if result.ok:
        hint(f"{result.status}, {cost}")
        return
    # The result's own text is the same for whatever was not found.
    missing = result.code == Code.MODULE_NOT_FOUND
    which = f": {module[:80]}" if missing else ""
    hint(f"{result.status} {summary(result)}{which} ({cost})")
    remedy = "module list" if missing else f"explain {result.code}"
    hint(f"  try: wasm-executor {remedy}")
