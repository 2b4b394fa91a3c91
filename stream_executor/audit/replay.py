"""Which events an auditor asked for, and how they look as lines. Pure.

A row is a terminal event, projected (``audit.project``). Rows come one by one, so
memory is one row's whatever the range.

Not here: reading the log (``services.audit_reading``), and running a request again.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import msgspec

from stream_executor.audit.project import JsonObject, line
from stream_executor.model.audit import RequestExecuted
from stream_executor.model.request import DIGEST_PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from stream_executor.audit.coverage import TerminalEvent

TABLE_COLUMNS = (
    "time", "partition", "request_offset", "request_id", "outcome", "code", "sub",
    "module", "function", "fuel_consumed", "duration_us",
)  # fmt: skip
CSV_COLUMNS = (
    "time", "partition", "audit_offset", "seq", "kind", "status", "outcome", "code",
    "request_id", "request_offset", "count", "iss", "sub", "role", "kid", "key_id",
    "token_s256", "jti_hash", "module", "module_s256", "invocation", "function",
    "trap", "exit_code", "fuel_consumed", "fuel_exact", "memory_bytes", "duration_us",
    "lane_time", "decided_ms", "context_seq", "body_digest", "input_digest",
    "output_digest", "result_s256",
)  # fmt: skip
_DIGEST_DIGITS = 64
# What a spreadsheet would take for a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class ReplayFilter(msgspec.Struct, frozen=True):
    """Which events; None asks for all.

    Attributes:
        since_ms: append time at or after, milliseconds since 1970 UTC.
        until_ms: append time before.
        subject: the token's sub.
        module: ``name@version``, a bare name (all its versions), or a digest in hex
            with or without ``sha256:``.
        status: finer status word (SUCCEEDED, FAILED, REJECTED, …).
        code: code of failure.
        request_id: the request's id.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    subject: str | None = None
    module: str | None = None
    status: str | None = None
    code: str | None = None
    request_id: str | None = None

    def matches(self, event: TerminalEvent) -> bool:
        """Say whether an event is asked for."""
        return (
            (self.since_ms is None or event.timestamp >= self.since_ms)
            and (self.until_ms is None or event.timestamp < self.until_ms)
            and self.status in (None, event.status)
            and self.code in (None, event.code)
            and self.request_id in (None, event.request_id)
            and self._matches_subject(event)
            and (self.module is None or _is_module(self.module, event))
        )

    def _matches_subject(self, event: TerminalEvent) -> bool:
        if self.subject is None:
            return True
        return event.principal is not None and event.principal.sub == self.subject


def _is_module(asked: str, event: TerminalEvent) -> bool:
    if not isinstance(event, RequestExecuted):
        return False
    digest = asked.removeprefix(DIGEST_PREFIX)
    if len(digest) == _DIGEST_DIGITS or digest != asked:
        return event.module_s256.hex() == digest.lower()
    name = event.module_name or ""
    return asked in (name, name.partition("@")[0])


async def json_lines(rows: AsyncIterable[JsonObject]) -> AsyncIterator[bytes]:
    """Give rows as JSON Lines."""
    async for row in rows:
        yield line(row)


async def csv_lines(rows: AsyncIterable[JsonObject]) -> AsyncIterator[bytes]:
    """Give rows as CSV (RFC 4180) with a header line.

    Text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    yield _csv_line(dict(zip(CSV_COLUMNS, CSV_COLUMNS, strict=True)))
    async for row in rows:
        yield _csv_line(row)


def _csv_line(row: JsonObject) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow([_cell(row.get(name)) for name in CSV_COLUMNS])
    return out.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def table_row(row: JsonObject) -> list[str]:
    """Give the cells of ``TABLE_COLUMNS``, as text."""
    return ["" if (cell := row.get(n)) is None else str(cell) for n in TABLE_COLUMNS]
