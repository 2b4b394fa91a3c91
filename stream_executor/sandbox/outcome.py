"""What a guest's end means: engine trap codes to our codes, and our own words.

Pure tables. Of a run, the text of an engine error is never used: it carries names that
the guest chose. Why a module does not compile is told in the engine's words, escaped.
A code that the engine adds later becomes ``trap``/``unknown``.

Source: ``wasmtime_trap_code_enum`` of wasmtime 50.
"""

from __future__ import annotations

from typing import NamedTuple

from stream_executor.model.codes import Code, TrapKind
from stream_executor.model.job import Report


class Ending(NamedTuple):
    """How a trap is reported; ``exact`` says whether the fuel figure is exact."""

    code: Code
    trap: TrapKind | None
    message: str
    exact: bool = False


def _trapped(kind: TrapKind, message: str) -> Ending:
    return Ending(Code.TRAP, kind, message)


UNKNOWN_TRAP = _trapped(TrapKind.UNKNOWN, "the guest trapped")
UNCAUGHT_EXCEPTION = _trapped(
    TrapKind.UNCAUGHT_EXCEPTION, "the guest threw an exception that it did not catch"
)
OUT_OF_FUEL = Ending(
    Code.FUEL_EXHAUSTED, None, "the guest used all of its fuel", exact=True
)
OUT_OF_MEMORY = Ending(
    Code.MEMORY_LIMIT, None, "the guest needs more memory than it may have"
)
INTERRUPTED = Ending(Code.TIMEOUT, None, "the guest ran past its deadline")
# An instantiation that fails although the shape fits: the process is at its end.
NOT_INSTANTIATED = Ending(Code.INTERNAL, None, "the sandbox could not start the guest")
HOST_FAILED = Ending(Code.INTERNAL, None, "the sandbox failed in a host call")

OUT_OF_FUEL_CODE = 11

ENDINGS: dict[int, Ending] = {
    0: Ending(Code.STACK_OVERFLOW, None, "the guest's call stack was exhausted"),
    1: _trapped(TrapKind.MEMORY_OUT_OF_BOUNDS, "a memory access was out of bounds"),
    3: _trapped(TrapKind.TABLE_OUT_OF_BOUNDS, "a table access was out of bounds"),
    4: _trapped(TrapKind.INDIRECT_CALL_TO_NULL, "an indirect call hit a null entry"),
    5: _trapped(TrapKind.BAD_SIGNATURE, "an indirect call had another signature"),
    6: _trapped(TrapKind.INTEGER_OVERFLOW, "an integer operation overflowed"),
    7: _trapped(TrapKind.INTEGER_DIVIDE_BY_ZERO, "an integer was divided by zero"),
    8: _trapped(TrapKind.BAD_CONVERSION, "a float does not fit the integer"),
    9: _trapped(TrapKind.UNREACHABLE, "the guest executed `unreachable`"),
    10: INTERRUPTED,
    OUT_OF_FUEL_CODE: OUT_OF_FUEL,
    15: OUT_OF_MEMORY,
    49: UNCAUGHT_EXCEPTION,
}
"""By engine trap code; every other code is ``UNKNOWN_TRAP``."""

_MAX_NAME_CHARS = 80
_MAX_TEXT_CHARS = 300


def refusal(code: Code, message: str) -> Report:
    """Give the report of a job that was never started."""
    return Report(code=code, message=message)


def quote(name: str) -> str:
    """Give a foreign name as safe text: ASCII, printable, quoted, at most 80 long."""
    cut = name[:_MAX_NAME_CHARS]
    return ascii(cut) + ("..." if len(name) > len(cut) else "")


def escape(text: str) -> str:
    """Give text that may hold foreign names as ASCII, printable, at most 300 long."""
    escaped = ascii(text[:_MAX_TEXT_CHARS])[1:-1][:_MAX_TEXT_CHARS]
    return escaped or "no reason given"
