"""``request show`` and ``results follow``: what became of a request."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.options import Json
from stream_executor.cli.output import hint, print_json, progress, say, write
from stream_executor.cli.reach import Reach, with_reach
from stream_executor.cli.results import summary

if TYPE_CHECKING:
    from stream_executor.client.logs import ResultFetch
    from stream_executor.services.request_story import Story

request = typer.Typer(help="What became of a request.", no_args_is_help=True)
results = typer.Typer(help="Results as they come.", no_args_is_help=True)

_LOOK_S = 1.0
_PLACE = re.compile(
    r"(?:(?P<topic>[A-Za-z0-9._-]+)/)?(?P<partition>\d+)/(?P<offset>\d+)"
)


@request.command()
@with_reach
def show(
    *,
    name: Annotated[
        str,
        typer.Argument(metavar="ID", help="topic/partition/offset, or a request id."),
    ],
    reach: Reach,
    json: Json = False,
) -> int:
    """Tell a request's story: produced, verified, run, committed, sealed.

    A request id is looked for in the audit log, where several may have the same; a
    place is exact and quicker.
    """
    from stream_executor.services.request_story import Places, tell

    place = _PLACE.fullmatch(name)
    topics = reach.topics
    if place is not None and place["topic"] not in (None, topics.requests):
        raise CommandError(
            "NOT_FOUND",
            f"{place['topic']} is not the requests topic",
            cause=f"requests are in {topics.requests}",
        )
    places = Places(topics.requests, topics.results, topics.audit)
    with progress(f"looking for {name}"):
        stories = asyncio.run(
            tell(
                reach.connection,
                places,
                name
                if place is None
                else (int(place["partition"]), int(place["offset"])),
            )
        )
    if not stories:
        raise CommandError(
            "NOT_FOUND",
            f"no request {name} was found",
            cause="it was never appended, was not answered yet, or is gone",
            remedy="wasm-executor request show TOPIC/PARTITION/OFFSET",
        )
    for story in stories:
        if json:
            print_json(story.document(), schema="request")
        else:
            _print_story(story)
    return 0


@results.command()
@with_reach
def follow(*, reach: Reach, json: Json = False) -> None:
    """Print every result from now on, until Ctrl-C."""
    asyncio.run(_follow(reach, as_json=json))


async def _follow(reach: Reach, *, as_json: bool) -> None:
    from stream_executor.client.logs import ResultFetch
    from stream_executor.client.reading import ResultReader

    topics = reach.topics
    fetch = ResultFetch(reach.connection, topics.results)
    reader = ResultReader(fetch, topics.requests)
    await reader.start()
    hint(f"following {topics.results}; Ctrl-C ends it")
    watching = asyncio.create_task(_tell_interruptions(fetch))
    try:
        async for result in reader.follow():
            if as_json:
                write(result.to_json() + b"\n")
            else:
                count = result.record.count
                more = f" (+{count - 1})" if count > 1 else ""
                say(
                    f"{result.position}{more}  {result.status}  {summary(result)}  "
                    f"{result.request_id or '-'}"
                )
    finally:
        watching.cancel()
        await reader.close()


async def _tell_interruptions(fetch: ResultFetch) -> None:
    """Say when the brokers go away, and when they are back."""
    told = False
    while True:
        await asyncio.sleep(_LOOK_S)
        if fetch.interrupted != told:
            told = fetch.interrupted
            hint(
                "the brokers do not answer; waiting for them (`wasm-executor dev` has "
                "another address at each start)"
                if told
                else "the brokers answer again"
            )


def _print_story(story: Story) -> None:
    say(f"{story.position}  {story.request_id or '(no id)'}")
    width = max(len(step.name) for step in story.steps)
    for step in story.steps:
        say(f"  {step.name:{width}}  {step.time or '-':24}  {step.text}")
    if story.result is not None:
        say(f"  {'result':{width}}  {summary(story.result)}")
    if story.code is not None:
        hint(f"  try: wasm-executor explain {story.code}")
