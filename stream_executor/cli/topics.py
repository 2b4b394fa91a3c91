"""``topics``: what they must be, what they are, and who may do what."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.options import Json
from stream_executor.cli.output import hint, print_json, say, table
from stream_executor.cli.reach import Reach, with_reach

if TYPE_CHECKING:
    from stream_executor.kafka.topics import Change, TopicSpec

topics = typer.Typer(help="Create and check the topics.", no_args_is_help=True)

Partitions = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Of requests, results and audit; as they are, else 4."
    ),
]
_FORMS = ("table", "kafka-topics", "strimzi")
DEFAULT_PARTITIONS = 4


@topics.command()
@with_reach
def plan(
    *,
    reach: Reach,
    partitions: Partitions = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORM", help="table, kafka-topics or strimzi."
        ),
    ] = "table",
    json: Json = False,
) -> None:
    """Print what `apply` would change; or all topics for other tools to create."""
    from stream_executor.kafka.topics import kafka_topics_commands, strimzi_yaml

    if form not in _FORMS:
        raise CommandError("USAGE", f"--format: expected {', '.join(_FORMS)}")
    specs, changes = asyncio.run(_plan(reach, partitions))
    if form == "kafka-topics":
        say(kafka_topics_commands(specs, reach.connection.bootstrap_servers).rstrip())
    elif form == "strimzi":
        say(strimzi_yaml(specs).rstrip())
    else:
        _print(changes, as_json=json)
        if not changes:
            hint("nothing to change")


@topics.command()
@with_reach
def apply(
    *,
    reach: Reach,
    partitions: Partitions = None,
    json: Json = False,
) -> int:
    """Create missing topics and correct settings; never adds partitions.

    Exit code 4: something is left that only a person may change.
    """
    left = asyncio.run(_apply(reach, partitions))
    _print(left, as_json=json)
    if any(change.matters for change in left):
        raise CommandError(
            "TOPICS",
            f"{len(left)} difference(s) are left",
            cause="they need a person",
            remedy="see REMEDY above",
        )
    hint("the topics are as they must be")
    return 0


@topics.command()
@with_reach
def check(*, reach: Reach, json: Json = False) -> int:
    """Compare the topics with what they must be, as every start does.

    Exit code 4: a difference matters.
    """
    _, changes = asyncio.run(_plan(reach, None))
    _print(changes, as_json=json)
    grave = [change for change in changes if change.matters]
    if grave:
        raise CommandError(
            "TOPICS",
            f"{len(grave)} difference(s) matter",
            cause=str(grave[0]),
            remedy="wasm-executor topics apply",
        )
    hint("the topics are as they must be")
    return 0


@topics.command()
@with_reach
def acls(
    *,
    reach: Reach,
    group: Annotated[str, typer.Option(help="The workers' group.")] = "wasm-executor",
    json: Json = False,
) -> None:
    """Print the exact rights each principal needs, as kafka-acls commands."""
    import msgspec

    from stream_executor.kafka.acls import Principals, kafka_acls_commands
    from stream_executor.kafka.acls import acls as rights

    rows = rights(reach.topics, Principals(), group)
    if json:
        for row in rows:
            print_json(msgspec.to_builtins(row), schema="acl")
        return
    say(kafka_acls_commands(rows, reach.connection.bootstrap_servers).rstrip())


async def specs_of(
    reach: Reach, partitions: int | None, admin: Any
) -> tuple[TopicSpec, ...]:
    """Give the topics as they must be; partitions as they are if they exist."""
    from stream_executor.kafka.topics import desired

    names = reach.topics
    if partitions is None:
        # One of the three may be missing: the others still say how many there were.
        lanes = (names.requests, names.results, names.audit)
        states = [s for s in (await admin.describe(lanes)).values() if s is not None]
        partitions = states[0].partitions if states else DEFAULT_PARTITIONS
    cluster = await admin.cluster()
    return desired(names, partitions=partitions, brokers=cluster.brokers)


async def _plan(
    reach: Reach, partitions: int | None
) -> tuple[tuple[TopicSpec, ...], list[Change]]:
    from stream_executor.kafka.admin import KafkaAdmin

    async with KafkaAdmin(reach.connection) as admin:
        specs = await specs_of(reach, partitions, admin)
        return specs, await admin.plan(specs)


async def _apply(reach: Reach, partitions: int | None) -> list[Change]:
    from stream_executor.kafka.admin import KafkaAdmin

    async with KafkaAdmin(reach.connection) as admin:
        return await admin.apply(await specs_of(reach, partitions, admin))


def _print(changes: list[Change], *, as_json: bool) -> None:
    if as_json:
        for change in changes:
            print_json(
                {
                    "topic": change.topic,
                    "action": change.action.value,
                    "what": change.what,
                    "actual": change.actual,
                    "wanted": change.wanted,
                    "matters": change.matters,
                    "why": change.why,
                    "remedy": change.remedy,
                },
                schema="topic-change",
            )
    elif changes:
        table(
            ("TOPIC", "ACTION", "WHAT", "IS", "MUST BE", "MATTERS", "REMEDY"),
            [
                (
                    change.topic,
                    change.action.value,
                    change.what,
                    change.actual or "-",
                    change.wanted,
                    "yes" if change.matters else "no",
                    change.remedy,
                )
                for change in changes
            ],
        )
