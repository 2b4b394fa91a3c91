"""What commands print: stdout is contract, stderr is for people.

Data goes to stdout: a table or, with ``--json``, one object or JSON Lines. Progress
and hints go to stderr, colours and progress bars only to a terminal; rich is imported
when a table is drawn and not before.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def print_json(value: Any, *, schema: str | None = None) -> None:
    """Print one JSON object on one line.

    Args:
        value: what to print; bytes in it are an error.
        schema: its stable name and version, put in front as ``schema``.
    """
    import orjson

    if schema is not None:
        value = {"schema": f"wasm-executor/{schema}/v1"} | value
    write(orjson.dumps(value) + b"\n")


def write(data: bytes) -> None:
    """Write bytes to stdout as they are, now."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(text: str = "") -> None:
    """Print one line of data to stdout, flushed (someone may be following)."""
    print(text, flush=True)  # noqa: T201 - this is where printing happens


def hint(text: str) -> None:
    """Tell a person something; no program reads it."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - as above


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings, plain and aligned, as wide as they are.

    No box and no cutting: what a person sees can be piped into awk.
    """
    lines = [list(columns), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for number, line in enumerate(lines):
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        text = "  ".join(cells).rstrip()
        say(_bold(text) if number == 0 else text)


@contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal's stderr that something takes time; nothing elsewhere.

    Yields:
        A function that replaces the text.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


def _bold(text: str) -> str:
    if not sys.stdout.isatty() or _no_colour():
        return text
    return f"\x1b[1m{text}\x1b[0m"


def _no_colour() -> bool:
    import os  # a convention of terminals, no setting of ours

    return bool(os.environ.get("NO_COLOR"))
