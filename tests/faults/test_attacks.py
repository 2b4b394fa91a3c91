"""Attacks on the design, on a whole executor: what each breaks, and that it does not.

The numbers are those of the table in ``test_hazards``: what each is, which test is for
it, and why some have none here.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.appender import Appender, Outgoing
from stream_executor.model.audit import (
    AttemptStarted,
    Context,
    Genesis,
    LaneAcquired,
    LaneReleased,
    RequestExecuted,
    RequestRefused,
    Seal,
)
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.requests import encode_json
from tests.deployment import ADD, Executor, TestDeployment, deployment
from tests.faults.load import load, start_behind
from tests.faults.proxy import Api, Do, FaultProxy
from tests.integration.test_exactly_once import all_answered, outgoing, request

if TYPE_CHECKING:
    from pathlib import Path

SUM = Call("add", pack_value(ValueType.I32, 1) * 2)
LANE = "lane-0"
HICCUPS = 4  # twice as many as processes that must die before anybody is suspect
MANY = 1_000_000
OUT_OF_TOUCH_S = 30.0
# The least memory for spent tokens that the settings allow, and what surely exceeds it.
LEAST_REPLAY_BYTES, TOO_MANY_TOKENS = 1 << 20, 44_500


async def leaves(made: TestDeployment, partition: int) -> list[tuple[type, bytes]]:
    """Give a lane's audit log: of which kind each record is, and the record."""
    values = [r.value or b"" for r in await made.records(made.topics.audit, partition)]
    return [(kind, value) for value in values if (kind := class_of(value)) is not None]


@pytest.mark.slow
async def test_a_brokers_hiccups_make_nobody_suspect(
    proxy: FaultProxy, kafka_bootstrap: str, tmp_path: Path
) -> None:
    """A10: one process acquires again and again at one offset; it has not died."""
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        await made.publish("add@1", ADD)
        executor = await start_behind(proxy, made)
        await executor.serving(1)
        fault = proxy.rule(Do.CUT_BEFORE, Api.END_TXN, client=LANE)
        async with Appender(made.connection) as appender, asyncio.timeout(60):
            offset = await made.ask(appender, 0, request(1))
            for _ in range(HICCUPS - 1):
                await fault.met.wait()
                # The lane's next transaction says that it was acquired; the one after
                # it is the request's again.
                fault = proxy.rule(Do.CUT_BEFORE, Api.END_TXN, client=LANE, after=1)
            await fault.met.wait()
            assert (await made.result(0, offset)).status == "SUCCEEDED"
        log = await leaves(made, 0)
        terms = [CODECS[LaneAcquired].decode(v) for k, v in log if k is LaneAcquired]
        assert [one.next for one in terms] == [0] * (1 + HICCUPS)
        assert len({one.incarnation for one in terms}) == 1
        assert AttemptStarted not in {kind for kind, _ in log}
        assert await executor.stop() == 0


@pytest.mark.slow
async def test_a_deployment_beside_the_first_answers_nothing_twice(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """A1, A2: another group, from the start, as a blue one would beside a green."""
    async with deployment(kafka_bootstrap, tmp_path, 2) as made:
        await made.publish("add@1", ADD)
        green = made.start()
        await green.ready()
        async with load(made) as running:
            await running.progress()
            blue = made.start(WASM_EXECUTOR_APP_ID=f"{made.prefix}-blue")
            await blue.ready()
            for _ in range(3):
                await running.progress()
        history = await all_answered(made)
        assert history.faults == {}
        assert history.codes == {"succeeded": history.requests}
        terms = [
            CODECS[LaneAcquired].decode(value)
            for partition in range(2)
            for kind, value in await leaves(made, partition)
            if kind is LaneAcquired
        ]
        assert len({one.incarnation for one in terms}) == 2, "nobody was fenced"
        for executor in (green, blue):
            assert await executor.stop() == 0


async def code(made: TestDeployment, partition: int, offset: int) -> str:
    """Give ``succeeded`` or the code."""
    return (await made.result(partition, offset)).code or "succeeded"


async def test_what_strangers_copy_forge_and_misplace_is_refused(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """A11, A12, A13: nobody is answered in another's name, nor twice for one token."""
    async with deployment(kafka_bootstrap, tmp_path, 2) as made:
        await made.publish("add@1", ADD)
        executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
        await executor.ready()
        good = outgoing(made, 0, 1)
        topic, headers = made.topics.requests, list(good.headers)
        async with Appender(made.connection) as appender:

            async def send(partition: int, *, signed: bool = True) -> int:
                return (
                    await appender.append(
                        topic, partition, good.value, headers if signed else []
                    )
                ).offset

            first = await send(0)
            forged = await send(0, signed=False)
            copied = await send(0)
            misplaced = await send(1)
            assert await code(made, 0, first) == "succeeded"
            assert await code(made, 0, forged) == "auth_missing"
            assert await code(made, 0, copied) == "auth_replayed"
            assert await code(made, 1, misplaced) == "auth_wrong_binding"
            # Who waits for r-1 is not answered by a record that nobody signed, nor by
            # one that was signed for another place.
            assert (await made.result(0, first)).request_id == "r-1"
            assert (await made.result(0, forged)).request_id is None
            assert (await made.result(1, misplaced)).request_id is None

            executor.kill()
            executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
            await executor.ready()
            assert await code(made, 0, await send(0)) == "auth_replayed"
        assert await executor.stop() == 0


@pytest.mark.slow
async def test_spent_tokens_beyond_their_memory_are_refused_and_none_forgotten(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """A11: also by the next owner, who must read them all before it decides.

    A token is spent whatever becomes of its request, so nothing needs to run here.
    """
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        made.settings["WASM_EXECUTOR_REPLAY_BYTES"] = str(LEAST_REPLAY_BYTES)
        await deny(made, "culprit")
        executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
        await executor.ready()
        topic, value, culprit = made.topics.requests, request(1), made.signer("culprit")

        def signed() -> Outgoing:
            token = culprit.sign(topic, 0, value, now_s=int(time.time()))
            return Outgoing(value, headers=[("authorization", b"Bearer " + token)])

        first = signed()
        async with Appender(made.connection) as appender:
            await appender.append_many(topic, 0, [first])
            for _ in range(0, TOO_MANY_TOKENS, 500):
                await appender.append_many(topic, 0, [signed() for _ in range(500)])
            last = await made.ask(appender, 0, value)
            assert await code(made, 0, last) == "rate_limited"
            assert await code(made, 0, 0) == "auth_revoked"
            executor.kill()
            executor = made.start(WASM_EXECUTOR_INSTANCE_ID="one")
            await executor.ready()
            again = await appender.append_many(topic, 0, [first])
            assert await code(made, 0, again[0].offset) == "auth_replayed"
        assert await executor.stop() == 0


async def deny(made: TestDeployment, subject: str) -> None:
    """Refuse a subject from now on."""
    key = made.folder / "keys" / "administrator.pem"
    done, _, err = await made.command(
        "deny", "add", "sub", subject, "--reason", "stolen", "--key", str(key)
    )
    assert done == 0, err


async def test_what_was_published_before_a_request_is_there_for_it(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """A14: however little earlier. A16: and it is no event of a lane without requests.

    The lane that decides by it says first how far it had read.
    """
    async with deployment(kafka_bootstrap, tmp_path, 2) as made:
        executor = made.start()
        await executor.serving(2)
        async with Appender(made.connection) as appender:
            for number in range(5):
                await made.publish(f"add@{number}", ADD)
                named = ModuleName("add", str(number))
                value = encode_json(ExecutionRequest("r", named, SUM))
                offset = await made.ask(appender, 0, value)
                assert await code(made, 0, offset) == "succeeded"
        assert await executor.stop() == 0
        # A lane whose every leaf is its own: nothing of the process, nothing of others.
        idle = {kind for kind, _ in await leaves(made, 1)}
        assert idle == {Genesis, LaneAcquired, LaneReleased, Seal}
        said = await leaves(made, 0)
        assert {kind for kind, _ in said} == idle | {Context, RequestExecuted}
        read = [
            CODECS[Context].decode(v).control_offset for k, v in said if k is Context
        ]
        assert read == sorted(set(read))
        assert len(read) == 5


@pytest.mark.slow
async def test_out_of_touch_with_the_control_topic_nothing_is_decided(
    proxy: FaultProxy, kafka_bootstrap: str, tmp_path: Path
) -> None:
    """A14: who is denied meanwhile does not get through to a worker that is cut off."""
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        await made.publish("add@1", ADD)
        executor = await start_behind(proxy, made)
        await executor.serving(1)
        proxy.rule(Do.DROP_RESPONSE, Api.FETCH, client="reader", times=MANY)
        await not_ready(executor)
        await deny(made, "culprit")
        async with Appender(made.connection) as appender:
            offset = await made.ask(appender, 0, request(1), made.signer("culprit"))
        await looked(proxy, 2)  # in vain
        assert await made.records(made.topics.results, 0) == []
        proxy.clear()
        assert await code(made, 0, offset) == "auth_revoked"
        assert RequestRefused in {kind for kind, _ in await leaves(made, 0)}
        await executor.ready()
        assert await executor.stop() == 0


async def looked(proxy: FaultProxy, times: int) -> None:
    """Wait until the control topic was asked so many times more."""

    def asked() -> int:
        return sum(
            count
            for (client, api), count in proxy.seen.items()
            if api == Api.FETCH and client.endswith("reader")
        )

    until = asked() + times
    async with asyncio.timeout(OUT_OF_TOUCH_S):
        while asked() < until:  # noqa: ASYNC110 - the proxy counts, it does not tell
            await asyncio.sleep(0.05)


async def not_ready(executor: Executor) -> None:
    """Wait until it says so."""
    until = time.monotonic() + OUT_OF_TOUCH_S
    while (await asyncio.to_thread(executor.http, "/ready"))[0] != 503:
        assert time.monotonic() < until, "it still believes its view"
        await asyncio.sleep(0.2)
