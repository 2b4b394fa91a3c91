"""The history that every deployment of the tests must have at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.appender import Appender
from stream_executor.model.result import ExecutionResult
from stream_executor.wire.results import encode_json
from tests.deployment import TestDeployment, deployment

if TYPE_CHECKING:
    from pathlib import Path

STRAY = {
    "phantom": "nobody asked for what is answered",
    "unaudited": "no executor answered it",
}
TWICE = STRAY | {"doubled": "the answer is there twice", "reordered": "one behind it"}


async def answer(made: TestDeployment, times: int) -> None:
    """Append the same result so many times, for an offset that holds no request."""
    result = ExecutionResult(
        made.topics.requests, 0, 5, 1, None, "FAILED", "trap", "", None, None, b"", b"",
        stdout_truncated=False, stderr_truncated=False, exit_code=None,
        fuel_consumed=1, fuel_exact=True, memory_bytes=0, duration_us=0,
        module_s256=None, engine=None, salt=None, log_id=bytes(16), seq=1,
    )  # fmt: skip
    async with Appender(made.connection) as appender:
        for _ in range(times):
            await appender.append(made.topics.results, 0, encode_json(result))


async def test_a_fault_fails_whoever_does_not_say_that_he_made_it(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    ending = deployment(kafka_bootstrap, tmp_path, 1, damaged=STRAY)
    made = await ending.__aenter__()
    await answer(made, 2)
    with pytest.raises(AssertionError, match="'doubled': 1"):
        await ending.__aexit__(None, None, None)


async def test_who_says_it_must_have_made_it(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with deployment(kafka_bootstrap, tmp_path / "a", 1, damaged=TWICE) as made:
        await answer(made, 2)
    with pytest.raises(AssertionError, match="the answer is there twice"):
        async with deployment(kafka_bootstrap, tmp_path / "b", 1, damaged=TWICE):
            pass


async def test_what_nobody_answered_yet_is_no_fault_and_what_was_passed_over_is(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async def ask(made: TestDeployment) -> None:
        async with Appender(made.connection) as appender:
            await made.ask(appender, 0, b"request")

    async with deployment(kafka_bootstrap, tmp_path / "a", 1) as made:
        await ask(made)
    lost = STRAY | {"lost": "a later offset is answered"}
    async with deployment(kafka_bootstrap, tmp_path / "b", 1, damaged=lost) as made:
        await ask(made)
        await answer(made, 1)
