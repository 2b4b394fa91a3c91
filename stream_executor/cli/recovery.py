"""``audit doctor`` and ``lane resume``: why a lane halted, and the way back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from stream_executor.cli.failures import CommandError, Exit
from stream_executor.cli.options import Json  # noqa: TC001 - typer reads it
from stream_executor.cli.orders import OperatorKey, OperatorPrivateKey, private_key
from stream_executor.cli.output import hint, print_json, say
from stream_executor.cli.reach import Reach, with_reach

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream_executor.model.record import Range
    from stream_executor.services.lane_diagnosis import Deployment, Diagnosis


@with_reach
def doctor(
    *,
    reach: Reach,
    operator_key: OperatorKey = None,
    partition: Annotated[
        list[int] | None,
        typer.Option("--partition", metavar="N", help="Only this one; repeat it."),
    ] = None,
    json: Json = False,
) -> int:
    """Say which lanes cannot run, what is wrong where, and the command to try.

    Changes nothing. Exit code 1: something is wrong.
    """
    from stream_executor.services.lane_diagnosis import diagnose

    found = asyncio.run(diagnose(_deployment(reach, operator_key), partition))
    for one in found:
        if json:
            print_json(_facts(one), schema="diagnosis")
        else:
            _print(one)
    healthy = all(one.damage is None for one in found)
    return Exit.OK if healthy else Exit.FINDING


@with_reach
def resume(
    *,
    partition: Annotated[int, typer.Argument(metavar="PARTITION", help="Which lane.")],
    reach: Reach,
    key: OperatorPrivateKey,
    evidence: Annotated[
        str, typer.Option(metavar="TEXT", help="What else is known; it is kept.")
    ] = "",
    operator_key: OperatorKey = None,
    json: Json = False,
) -> None:
    """Let a halted lane go on as `audit doctor` proposes; the operator's signed word.

    What is lost by it stays on record: `audit verify` reports it for ever.
    """
    from stream_executor.services import lane_diagnosis

    deployment = _deployment(reach, operator_key)
    (found,) = asyncio.run(lane_diagnosis.diagnose(deployment, [partition]))
    if found.damage is not None and found.way_back is None:
        raise CommandError(
            "CONFIG",
            f"no order can help lane {partition}",
            cause=f"{found.damage} in {found.where}: {found.finding}",
            remedy=found.remedy,
        )
    if found.damage is not None:
        asyncio.run(
            lane_diagnosis.resume(deployment, private_key(key), found, evidence)
        )
    if json:
        ordered = {"ordered": found.damage is not None}
        print_json(_facts(found) | ordered, schema="resume")
    elif found.damage is None:
        hint(f"lane {partition} needs no order: it can run")
    else:
        _print(found)
        hint(f"ordered: lane {partition} goes on at offset {found.next}")


def _deployment(reach: Reach, operator_key: str | None) -> Deployment:
    from stream_executor.services.lane_diagnosis import Deployment

    secret = b""
    if reach.credentials is None and reach.bootstrap_server is None:
        secret = reach.settings.deployment_secret_bytes
    return Deployment(
        reach.connection,
        reach.topics,
        reach.operator_public_key(operator_key),
        secret,
    )


def _print(one: Diagnosis) -> None:
    if one.damage is None:
        say(f"lane {one.partition}: nothing is wrong")
        return
    say(f"lane {one.partition}: {one.damage}")
    say(f"  where    {one.where}")
    say(f"  finding  {one.finding}")
    if one.way_back is not None:
        for name in ("lost", "skipped", "refused"):
            if ranges := getattr(one.way_back, name):
                say(f"  {name:<8} {_spans(ranges)}")
        say(f"  next     {one.way_back.next}")
        say(f"  try      wasm-executor lane resume {one.partition} --key operator.pem")
    else:
        say(f"  try      {one.remedy}")


def _spans(ranges: Iterable[Range]) -> str:
    return ", ".join(f"[{one.start}, {one.end})" for one in ranges)


def _facts(one: Diagnosis) -> dict[str, object]:
    back = one.way_back
    return {
        "partition": one.partition,
        "damage": one.damage,
        "where": one.where,
        "finding": one.finding,
        "remedy": one.remedy,
        "next": one.next,
        "can_resume": back is not None,
        **{
            name: [[r.start, r.end] for r in getattr(back, name, ())]
            for name in ("lost", "skipped", "refused")
        },
    }
