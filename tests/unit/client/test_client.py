"""The SDK against logs in memory."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from stream_executor.client import (
    ArgumentError,
    ExecutionError,
    ExecutorClient,
    OutcomeUnknownError,
    ResultTimeoutError,
    SyncExecutorClient,
    call,
    command,
    transform,
)
from stream_executor.client.values import i32, pack_arguments
from stream_executor.model.errors import (
    BrokerRefusedError,
    IndefiniteError,
    MisuseError,
    UnavailableError,
)
from stream_executor.model.job import InvocationKind
from stream_executor.wire.requests import decode_request
from tests.unit.client.fakes import (
    TOPIC,
    FakeRequests,
    FakeResults,
    FakeSigner,
    Headers,
    result,
)

if TYPE_CHECKING:
    from pathlib import Path


class World:
    """A client on logs in memory; ``answering`` puts an executor behind them."""

    def __init__(self, partitions: int = 2) -> None:
        self.requests = FakeRequests(partitions)
        self.results = FakeResults()
        self.signer = FakeSigner()

    def client(self, *, results: bool = True) -> ExecutorClient:
        return ExecutorClient(
            bootstrap_servers="nowhere:1",
            signer=self.signer,
            results=results,
            timeout_s=5,
            _logs=(self.requests, self.results),
        )

    def answering(self) -> World:
        def answer(
            partition: int, base: int, records: list[tuple[bytes, Headers]]
        ) -> None:
            for offset, _ in enumerate(records, base):
                packed = pack_arguments([i32(partition * 1000 + offset)])
                self.results.publish(result(partition, offset, output=packed))

        self.requests.on_append = answer
        return self


async def test_execute_gives_the_result_of_its_own_append() -> None:
    world = World().answering()
    async with world.client() as client:
        answers = [await client.execute("add@1", function="add") for _ in range(4)]
    assert [a.value for a in answers] == [0, 1000, 1, 1001]
    assert all(a.ok and a.raise_for_status() is a for a in answers)
    assert world.requests.closed
    assert world.results.closed


@pytest.mark.threat("T-11")
async def test_a_result_with_the_same_request_id_from_elsewhere_is_not_ours() -> None:
    world = World(partitions=1)
    async with world.client() as client:
        submission = await client.submit(call("add@1", "add", request_id="mine"))
        world.results.publish(result(0, 99, request_id="mine"))
        world.results.publish(result(0, 0, topic="other.requests", request_id="mine"))
        with pytest.raises(ResultTimeoutError) as caught:
            await client.result(submission, timeout_s=0.05)
        assert caught.value.submission == submission
        world.results.publish(result(0, 0, request_id="mine"))
        assert (await client.result(submission)).record.offset == 0


async def test_each_record_is_signed_for_its_partition_and_body_at_that_moment() -> (
    None
):
    world = World(partitions=3)
    before = int(time.time())
    async with world.client() as client:
        submissions = await client.submit_many(call("add@1", "add") for _ in range(6))
    assert [(s.partition, s.offset) for s in submissions] == [
        (0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1),
    ]  # fmt: skip
    assert {topic for topic, *_ in world.signer.signed} == {TOPIC}
    for _, partition, value, now_s in world.signer.signed:
        assert (value, [("authorization", b"Bearer token-%d" % partition)]) in (
            world.requests.logs[partition]
        )
        assert before <= now_s <= time.time()


async def test_requests_of_one_turn_share_a_batch_and_large_ones_are_split() -> None:
    world = World(partitions=1)
    async with world.client() as client:
        await asyncio.gather(*(client.submit(call("m@1", "f")) for _ in range(20)))
        assert world.requests.batches == [(0, 20)]
        world.requests.batches.clear()
        await client.submit_many(transform("m@1", bytes(200_000)) for _ in range(5))
        assert world.requests.batches == [(0, 2), (0, 2), (0, 1)]


async def test_submissions_keep_the_order_in_which_they_were_given() -> None:
    world = World(partitions=3).answering()
    async with world.client() as client:
        asked = [call("m@1", "f", request_id=f"r{i}") for i in range(2000)]
        submissions = await client.submit_many(asked)
        assert [s.request_id for s in submissions] == [r.request_id for r in asked]
        got = {s async for s, r in client.results(submissions) if r.ok}
    assert got == set(submissions)


async def test_one_partition_can_be_chosen() -> None:
    world = World(partitions=3)
    async with world.client() as client:
        submissions = await client.submit_many(
            [call("m@1", "f"), call("m@1", "f")], partition=2
        )
        assert {s.partition for s in submissions} == {2}
        with pytest.raises(ArgumentError, match="0 to 2"):
            await client.submit(call("m@1", "f"), partition=3)
        assert await client.submit_many([]) == []


async def test_what_may_have_been_sent_is_not_sent_twice() -> None:
    world = World(partitions=1)

    def doubt(*_: object) -> None:
        raise IndefiniteError("no answer")

    world.requests.on_append = doubt
    async with world.client() as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.submit(call("m@1", "f", request_id="r-1"))
    assert caught.value.request_ids == ["r-1"]
    assert len(world.requests.batches) == 1


@pytest.mark.parametrize(
    "error", [UnavailableError("away"), BrokerRefusedError("no", "not_authorised")]
)
async def test_other_failures_come_as_they_are_and_the_client_lives_on(
    error: Exception,
) -> None:
    world = World(partitions=1)

    def fail(*_: object) -> None:
        world.answering()
        raise error

    world.requests.on_append = fail
    async with world.client() as client:
        with pytest.raises(type(error)):
            await client.execute("m@1", function="f")
        assert (await client.execute("m@1", function="f")).ok


async def test_a_request_that_cannot_be_signed_fails_alone() -> None:
    world = World(partitions=1).answering()
    sign, calls = world.signer.sign, []

    def sometimes(topic: str, partition: int, value: bytes, *, now_s: int) -> bytes:
        calls.append(value)
        if len(calls) == 1:
            raise ValueError("no key")
        return sign(topic, partition, value, now_s=now_s)

    world.signer.sign = sometimes  # type: ignore[method-assign]
    async with world.client() as client:
        first, second = await asyncio.gather(
            client.execute("m@1", function="f"),
            client.execute("m@1", function="f"),
            return_exceptions=True,
        )
    assert isinstance(first, ValueError)
    assert not isinstance(second, BaseException)


async def test_the_reader_survives_what_is_no_result_and_brokers_that_are_away() -> (
    None
):
    world = World(partitions=1)
    async with world.client() as client:
        submission = await client.submit(call("m@1", "f"))
        world.results.publish_bytes(0, b"not a result")
        world.results.queue.put_nowait(UnavailableError("away"))
        world.results.publish(result(0, 0))
        assert (await client.result(submission)).ok


async def test_waiters_learn_that_the_results_cannot_be_read() -> None:
    world = World(partitions=1)
    async with world.client() as client:
        submission = await client.submit(call("m@1", "f"))
        waiting = asyncio.create_task(client.result(submission))
        await asyncio.sleep(0)
        world.results.queue.put_nowait(BrokerRefusedError("no", "not_authorised"))
        with pytest.raises(BrokerRefusedError):
            await waiting
        with pytest.raises(BrokerRefusedError):
            await client.result(submission)


async def test_an_unsuccessful_execution_is_a_result_until_asked_to_raise() -> None:
    world = World(partitions=1)
    async with world.client() as client:
        submission = await client.submit(call("m@1", "f"))
        world.results.publish(
            result(0, 0, status="FAILED", code="trap", trap="unreachable", message="x")
        )
        answer = await client.result(submission)
    assert (answer.ok, answer.code, answer.trap) == (False, "trap", "unreachable")
    assert answer.outputs == []
    with pytest.raises(ExecutionError, match="FAILED trap: x") as caught:
        answer.raise_for_status()
    assert caught.value.result is answer


async def test_a_client_without_results_only_submits() -> None:
    world = World(partitions=1)
    async with world.client(results=False) as client:
        submission = await client.submit(call("m@1", "f"))
        with pytest.raises(MisuseError, match="without results"):
            await client.result(submission)
    assert not world.results.started


async def test_a_closed_client_sends_nothing_more() -> None:
    world = World(partitions=1)
    client = world.client()
    with pytest.raises(MisuseError, match="open the client"):
        await client.submit(call("m@1", "f"))
    await client.open()
    with pytest.raises(MisuseError, match="open already"):
        await client.open()
    await client.close()
    await client.close()
    with pytest.raises(MisuseError, match="open the client"):
        await client.submit(call("m@1", "f"))


async def test_closing_wakes_who_waits_and_finishes_what_is_under_way() -> None:
    world = World(partitions=1)
    world.requests.delay_s = 0.02
    client = world.client()
    await client.open()
    sending = asyncio.create_task(client.submit(call("m@1", "f")))
    await asyncio.sleep(0.01)
    queued = asyncio.create_task(client.submit(call("m@1", "f")))
    await asyncio.sleep(0)
    await client.close()
    assert (await sending).offset == 0
    with pytest.raises(MisuseError, match="closed before"):
        await queued


async def test_followers_see_everybodys_results() -> None:
    world = World(partitions=1)
    async with world.client() as client:
        follower = client.follow()
        first = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0)
        world.results.publish(result(0, 41), result(0, 42))
        assert (await first).record.offset == 41
        assert (await anext(follower)).record.offset == 42


async def test_the_kind_follows_from_what_is_given(tmp_path: Path) -> None:
    world = World(partitions=1).answering()
    module = tmp_path / "m.wasm"
    module.write_bytes(b"\0asm\1\0\0\0")
    async with world.client() as client:
        await client.execute("m@1", function="f", args=[2, 0.5])
        await client.execute("m@1", input=b"abc")
        await client.execute(module, stdin=b"abc", argv=["m", "-v"], env={"A": "b"})
        for wrong in ({}, {"function": "f", "input": b""}, {"args": [1], "stdin": b""}):
            with pytest.raises(ArgumentError):
                await client.execute("m@1", **wrong)
    values = [value for value, _ in world.requests.logs[0]]
    kinds = [type(decode_request(value).invocation).__name__ for value in values]
    assert kinds == ["Call", "Bytes", "Wasi"]
    assert json.loads(values[0])["invocation"]["args"] == [{"i32": 2}, {"f64": 0.5}]


def test_what_is_no_module_or_id_is_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    for module in (
        "add",
        b"(module)",
        tmp_path / "none.wasm",
        b"\0asm" + bytes(655360),
    ):
        with pytest.raises(ArgumentError):
            call(module, "f")
    with pytest.raises(ArgumentError, match="request_id"):
        call("m@1", "f", request_id="no spaces")
    ids = {call("m@1", "f").request_id for _ in range(1000)}
    assert len(ids) == 1000


def test_bytes_go_as_avro_and_calls_as_json() -> None:
    from stream_executor.client.request import encode  # noqa: PLC0415

    assert encode(call("m@1", "f"))[:1] == b"{"
    assert encode(transform("m@1", b"short"))[:1] == b"{"
    for heavy in (
        transform("m@1", bytes(2000)),
        command("m@1", files={"/a": bytes(2000)}),
        call(b"\0asm" + bytes(2000), "f"),
    ):
        value = encode(heavy)
        assert value[:2] == b"\xc3\x01"
        assert decode_request(value) == heavy


def test_the_synchronous_client_does_the_same() -> None:
    world = World(partitions=2).answering()
    with SyncExecutorClient(
        bootstrap_servers="nowhere:1",
        signer=world.signer,
        timeout_s=5,
        _logs=(world.requests, world.results),
    ) as client:
        assert client.execute("m@1", function="f").value == 0
        submissions = client.submit_many([call("m@1", "f") for _ in range(4)])
        assert {s for s, _ in client.results(submissions)} == set(submissions)
        submission = client.submit(call("m@1", "f"))
        assert client.result(submission).ok
    with pytest.raises(MisuseError):
        client.execute("m@1", function="f")


def test_bytes_and_wasi_results_read_as_such() -> None:
    from stream_executor.client.result import Result  # noqa: PLC0415

    data = Result(result(0, 0, kind=int(InvocationKind.BYTES), output=b"out"))
    assert (data.output, data.stdout, data.outputs, data.value) == (
        b"out",
        b"",
        [],
        None,
    )
    wasi = Result(
        result(0, 0, kind=int(InvocationKind.WASI), output=b"hi", exit_code=0)
    )
    assert (wasi.stdout, wasi.output, wasi.exit_code) == (b"hi", b"", 0)
    assert json.loads(wasi.to_json())["stdout"] == "aGk="
    assert repr(wasi) == "Result(wasm.requests/0/0 SUCCEEDED)"
