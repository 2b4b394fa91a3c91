"""``audit``: verify, tail and replay the log that nobody can change unseen."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_executor.cli.failures import CommandError, Exit
from stream_executor.cli.options import Json
from stream_executor.cli.orders import OperatorKey
from stream_executor.cli.output import hint, print_json, progress, say, table, write
from stream_executor.cli.reach import Reach, with_reach

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.audit.report import PartitionReport
    from stream_executor.services.audit_reading import AuditSource
    from stream_executor.services.audit_verification import VerifyReport

audit = typer.Typer(help="Verify and read the audit log.", no_args_is_help=True)

Partition = Annotated[
    list[int] | None,
    typer.Option("--partition", metavar="N", help="Only this one; repeat it."),
]
Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="From: 2h, 30m, 7d or RFC 3339.")
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_FORMS = ("table", "json", "csv")


@audit.command()
@with_reach
def verify(
    *,
    reach: Reach,
    operator_key: OperatorKey = None,
    partition: Partition = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The log alone, not the topics beside it.")
    ] = False,
    json: Json = False,
) -> int:
    """Verify chain, seals and completeness; results and requests beside them.

    Exit code 1: something is not as it must be. 3: could not tell.
    """
    root = reach.operator_public_key(operator_key)
    with progress("verifying") as show:
        report = asyncio.run(_verify(reach, root, partition, quick=quick, show=show))
    ok = report.verdict.value != "finding"
    if json:
        import msgspec

        document = msgspec.to_builtins(report, builtin_types=(bytes,))
        print_json(
            {"verdict": report.verdict.value} | _hex(document), schema="verification"
        )
    else:
        _print_report(report)
    return Exit.OK if ok else Exit.FINDING


@audit.command()
@with_reach
def tail(
    *,
    reach: Reach,
    operator_key: OperatorKey = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes.")
    ] = False,
    lines: Annotated[
        int,
        typer.Option("--lines", "-n", metavar="N", help="Of each partition.", min=0),
    ] = 20,
    json: Json = False,
) -> None:
    """Print the last sealed leaves of every partition."""
    root = reach.operator_public_key(operator_key)
    asyncio.run(_tail(reach, root, lines, follow=follow, as_json=json))


@audit.command()
@with_reach
def replay(
    *,
    reach: Reach,
    operator_key: OperatorKey = None,
    since: Since = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Up to.")] = None,
    subject: Annotated[str | None, typer.Option(help="The token's sub.")] = None,
    module: Annotated[
        str | None, typer.Option(help="name, name@version or digest.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="SUCCEEDED, FAILED, REJECTED, …")
    ] = None,
    code: Annotated[str | None, typer.Option(help="Code of failure.")] = None,
    request_id: Annotated[str | None, typer.Option(help="The request's id.")] = None,
    partition: Partition = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORM", help="table, json or csv.")
    ] = "table",
    json: Json = False,
) -> None:
    """Print terminal events: who asked what, when, and how it ended."""
    from stream_executor.audit.replay import ReplayFilter

    if form not in _FORMS:
        raise CommandError("USAGE", f"--format: expected {', '.join(_FORMS)}")
    asked = ReplayFilter(
        since_ms=_time(since),
        until_ms=_time(until),
        subject=subject,
        module=module,
        status=None if status is None else status.upper(),
        code=code,
        request_id=request_id,
    )
    root = reach.operator_public_key(operator_key)
    asyncio.run(_replay(reach, root, asked, partition, "json" if json else form))


async def source_of(reach: Reach, operator_key: bytes, reader: Any) -> AuditSource:
    """Give what audit commands read from."""
    from stream_executor.cli.signing import cluster_id
    from stream_executor.services.audit_reading import AuditSource

    return AuditSource(reader, reach.topics, operator_key, await cluster_id(reach))


async def _verify(
    reach: Reach,
    root: bytes,
    partitions: list[int] | None,
    *,
    quick: bool,
    show: Callable[[str], None],
) -> VerifyReport:
    from stream_executor.kafka.gaps import GapProver
    from stream_executor.kafka.reader import PartitionReader
    from stream_executor.services.audit_verification import (
        Progress,
        Thoroughness,
        verify,
    )

    def tell(at: Progress) -> None:
        show(f"partition {at.partition + 1} of {at.partitions}: {at.position}/{at.end}")

    async with PartitionReader(reach.connection) as reader:
        source = await source_of(reach, root, reader)
        if quick:
            return await verify(source, Thoroughness(), tell, partitions)
        async with GapProver(reach.connection) as prover:
            thorough = Thoroughness(results=True, requests=True, prover=prover)
            return await verify(source, thorough, tell, partitions)


async def _tail(
    reach: Reach, root: bytes, last: int, *, follow: bool, as_json: bool
) -> None:
    from stream_executor.audit.project import line
    from stream_executor.kafka.reader import PartitionReader
    from stream_executor.services.audit_reading import tail

    async with PartitionReader(reach.connection) as reader:
        source = await source_of(reach, root, reader)
        async for row in tail(source, last, follow=follow):
            if as_json:
                write(line(row))
            else:
                say(_leaf_line(row))


async def _replay(
    reach: Reach, root: bytes, asked: Any, partitions: list[int] | None, form: str
) -> None:
    from stream_executor.audit.replay import (
        TABLE_COLUMNS,
        csv_lines,
        json_lines,
        table_row,
    )
    from stream_executor.kafka.reader import PartitionReader
    from stream_executor.services.audit_reading import replay

    async with PartitionReader(reach.connection) as reader:
        source = await source_of(reach, root, reader)
        rows = replay(source, asked, partitions)
        if form != "table":
            async for text in (csv_lines if form == "csv" else json_lines)(rows):
                write(text)
            return
        # Row by row: a table that waits for its widths would hold the whole range.
        say("\t".join(name.upper() for name in TABLE_COLUMNS))
        async for row in rows:
            say("\t".join(table_row(row)))


def _print_report(report: VerifyReport) -> None:
    table(
        ("PARTITION", "VERDICT", "LEAVES", "ANSWERED", "GAPS", "NEXT", "TERMS",
         "RESULTS", "REQUESTS", "FOREIGN"),
        [_cells(one) for one in report.partitions],
    )  # fmt: skip
    for one in report.partitions:
        for finding in one.findings:
            say(
                f"finding: {finding.code.value} partition {finding.partition} "
                f"offset {finding.offset} seq {finding.seq}: expected "
                f"{finding.expected}, found {finding.found}"
            )
        if one.lost:
            say(f"partition {one.partition}: {len(one.lost)} range(s) declared lost")
        if one.torn:
            hint(f"partition {one.partition}: {len(one.torn)} leaves not sealed yet")
    leaves = sum(one.size for one in report.partitions)
    answered = sum(one.answered for one in report.partitions)
    say(f"verify: {report.verdict.value} ({leaves} leaves, {answered} requests)")
    if report.control_ignored:
        hint(f"control records that do not count: {report.control_ignored}")


def _cells(one: PartitionReport) -> list[str]:
    def count(number: int | None) -> str:
        return "-" if number is None else str(number)

    return [
        str(one.partition), one.verdict.value, str(one.size), str(one.answered),
        str(one.gaps), str(one.next), str(one.terms), count(one.results),
        count(one.requests), str(one.foreign_count),
    ]  # fmt: skip


def _leaf_line(row: dict[str, Any]) -> str:
    outcome = row.get("outcome", "")
    code = row.get("code") or ""
    who = row.get("sub") or ""
    what = row.get("module") or row.get("module_s256") or ""
    about = f"request {row['request_offset']}" if "request_offset" in row else ""
    # Before its first request a lane has no time.
    moment = "-" if row.get("lane_time") == 0 else row["time"] or ""
    cells = [moment, f"{row['partition']}/{row['seq']}", row["kind"], about,
             outcome, code, who, what]  # fmt: skip
    return "  ".join(cell for cell in cells if cell)


def _time(text: str | None) -> int | None:
    """Read ``2h`` (ago) or RFC 3339; give milliseconds since 1970 UTC."""
    if text is None:
        return None
    ago = re.fullmatch(r"(\d+)([smhd])", text)
    if ago:
        moment = time.time() - int(ago[1]) * _UNITS[ago[2]]
    else:
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            raise CommandError(
                "USAGE", f"expected 2h, 30m, 7d or 2026-11-23T14:00:00Z, got {text!r}"
            ) from None
        moment = (parsed if parsed.tzinfo else parsed.astimezone()).timestamp()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    hint(f"{text} is {stamp}")
    return int(moment * 1000)


def _hex(value: Any) -> Any:
    """Give bytes inside a document as lower hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _hex(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_hex(one) for one in value]
    return value
