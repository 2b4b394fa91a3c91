"""``submit`` and ``invoke``: run a module there, or here."""

from __future__ import annotations

import asyncio
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

import typer

from stream_executor.cli import session
from stream_executor.cli.failures import CommandError
from stream_executor.cli.invocation import (
    Asked,
    ModuleArgument,
    read_module,
    reference,
    with_invocation,
)
from stream_executor.cli.options import Json  # noqa: TC001 - typer reads it
from stream_executor.cli.output import hint, print_json, progress, say
from stream_executor.cli.reach import EnvFile, Reach, with_reach
from stream_executor.cli.results import print_result

if TYPE_CHECKING:
    from stream_executor.client.result import Result
    from stream_executor.client.submission import Submission
    from stream_executor.model.request import ExecutionRequest
    from stream_executor.services.local import LocalLimits


@with_invocation
@with_reach
def submit(
    *,
    module: ModuleArgument,
    asked: Asked,
    reach: Reach,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long --wait waits.")
    ] = 30.0,
    partition: Annotated[
        int | None, typer.Option(metavar="N", help="Which partition; else any.")
    ] = None,
    json: Json = False,
) -> int:
    """Sign a request and send it; --wait prints its result, else where it was put.

    Exit code 5: the execution did not succeed.
    """
    request = asked.request(reference(module))
    submission, result = asyncio.run(
        _submit(reach, request, partition, timeout if wait else None)
    )
    if result is not None:
        hint(f"{submission.position} {submission.request_id}")
        return print_result(result, module, as_json=json)
    if json:
        print_json(
            {
                "topic": submission.topic,
                "partition": submission.partition,
                "offset": submission.offset,
                "request_id": submission.request_id,
            },
            schema="submission",
        )
    else:
        say(submission.position)
        hint(f"  try: wasm-executor request show {submission.position}")
    return 0


async def _submit(
    reach: Reach,
    request: ExecutionRequest,
    partition: int | None,
    timeout_s: float | None,
) -> tuple[Submission, Result | None]:
    from stream_executor.cli.signing import client_of

    async with await client_of(reach, results=timeout_s is not None) as client:
        submission = await client.submit(request, partition=partition)
        if timeout_s is None:
            return submission, None
        with progress(f"waiting for the result of {submission.position}"):
            return submission, await client.result(submission, timeout_s=timeout_s)


@with_invocation
def invoke(
    *,
    module: Annotated[
        Path, typer.Argument(metavar="FILE", help="A module (.wasm or .wat).")
    ],
    asked: Asked,
    env_file: EnvFile = None,
    json: Json = False,
) -> int:
    """Run a module here, without Kafka: same sandbox, same limits, same result.

    Exit code 5: the execution did not succeed.
    """
    from stream_executor.client.result import Result
    from stream_executor.services.local import run_local

    if not module.is_file() and str(module) != "-":
        raise CommandError(
            "NOT_FOUND",
            f"{module}: no such file",
            cause="invoke runs files; published modules run with submit",
            remedy="wasm-executor submit MODULE --wait",
        )
    binary = read_module(module)
    # Files may be larger than what travels inline: the name stands for any bytes.
    request = asked.request("local@0")
    session.silence_sandbox()
    result = run_local(request, binary, _ceilings(env_file))
    return print_result(Result(result), str(module), as_json=json)


def _ceilings(env_file: Path | None) -> LocalLimits | None:
    """Give the limits of a configuration file; None is the service's defaults."""
    if env_file is None:
        return None
    from stream_executor.model.job import Limits
    from stream_executor.services.local import LocalLimits
    from stream_executor.settings import load

    settings = load(env_file)
    return LocalLimits(
        Limits(
            settings.max_fuel,
            settings.max_memory_bytes,
            round(settings.timeout_seconds * 1000),
        ),
        settings.max_result_bytes,
        settings.max_stack_bytes,
    )
