"""A lane's writer under faults that a network or a broker can really do.

Every fault strikes at one request of a transaction, through the proxy. Afterwards the
next owner fences and reads: what is visible must be whole transactions, in order, each
at most once, and every one that was reported as committed.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream_executor.kafka import writer as writer_module
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.writer import LaneWriter, WriterOptions
from stream_executor.model.errors import (
    BrokerRefusedError,
    FencedError,
    IndefiniteError,
    IntegrityError,
    TransientError,
)
from stream_executor.model.record import OutRecord
from stream_executor.services.home_cluster import HomeCluster
from tests.faults.proxy import Api, Do, FaultProxy

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from tests.integration.kafka.conftest import MakeTopic

# Small batches, so that a transaction has several Produce requests to be cut between.
OPTIONS = WriterOptions(
    max_batch_bytes=2_000, commit_deadline_s=4.0, close_deadline_s=1.0
)
RECORDS = 3  # of each topic in a transaction, each in a batch of its own
LANE = "lane-0"  # what the client id of a writer ends in


def values(name: str) -> list[bytes]:
    return [f"{name}:{number}:".encode() + bytes(1_200) for number in range(RECORDS)]


class Logs:
    """A lane's two topics, its writers, and what readers of them see."""

    def __init__(
        self, proxied: KafkaConnection, plain: KafkaConnection, results: str, audit: str
    ) -> None:
        self.proxied, self.plain = proxied, plain
        self.results, self.audit = results, audit

    def writer(
        self,
        connection: KafkaConnection | None = None,
        options: WriterOptions = OPTIONS,
    ) -> LaneWriter:
        return LaneWriter(
            connection or self.proxied,
            results_topic=self.results,
            audit_topic=self.audit,
            partition=0,
            options=options,
        )

    async def transactions(self) -> list[str]:
        """Fence, then name what is visible; fail if a transaction is not whole."""
        async with self.writer(self.plain), PartitionReader(self.plain) as reader:
            names = [
                [
                    (record.value or b"").rpartition(b":")[0].decode()
                    async for records in reader.read(
                        topic, 0, 0, await reader.end_offset(topic, 0)
                    )
                    for record in records
                ]
                for topic in (self.results, self.audit)
            ]
        assert names[0] == names[1]
        found = [name.rpartition(":")[0] for name in names[0][::RECORDS]]
        assert names[0] == [f"{name}:{n}" for name in found for n in range(RECORDS)]
        return found

    async def decided(self) -> None:
        """Return once every record that is there now is behind a marker."""
        async with PartitionReader(self.plain) as reader:
            for topic in (self.results, self.audit):
                end = await reader.end_offset(topic, 0)
                async for _ in reader.read(topic, 0, 0, end):
                    pass


async def commit(writer: LaneWriter, name: str) -> None:
    await writer.commit([OutRecord(value) for value in values(name)], values(name))


@pytest.fixture
async def logs(
    connection: KafkaConnection, plain: KafkaConnection, make_topic: MakeTopic
) -> Logs:
    return Logs(
        connection, plain, await make_topic("results"), await make_topic("audit")
    )


async def test_nobody_is_fenced_where_another_cluster_answers(
    proxy: FaultProxy, logs: Logs
) -> None:
    """Whoever asked over a connection that was open asked elsewhere."""
    home = HomeCluster(cast("Any", None))
    home.cluster_id = "ours"
    writer = LaneWriter(
        logs.proxied, results_topic=logs.results, audit_topic=logs.audit, partition=0,
        compare=home.compare,
    )  # fmt: skip
    with pytest.raises(BrokerRefusedError, match="this worker belongs to ours"):
        await writer.fence()
    asked = {api for client, api in proxy.seen if client.endswith(LANE)}
    assert Api.METADATA in asked
    assert not asked & {Api.FIND_COORDINATOR, Api.INIT_PRODUCER_ID}
    await writer.close()


@pytest.mark.parametrize(
    "api", [Api.ADD_PARTITIONS, Api.PRODUCE, Api.END_TXN], ids=lambda api: api.name
)
@pytest.mark.parametrize(
    "do",
    [Do.CUT_BEFORE, Do.CUT_AFTER, Do.DROP_RESPONSE, Do.FREEZE],
    ids=lambda do: do.name,
)
async def test_a_lost_request_or_answer_is_doubt_and_the_log_decides(
    proxy: FaultProxy, logs: Logs, do: Do, api: Api
) -> None:
    """At every step, lost on the way there or back: never torn, never believed."""
    async with logs.writer() as writer:
        await commit(writer, "first")
        fault = proxy.rule(do, api, client=LANE, after=1 if api is Api.PRODUCE else 0)
        with pytest.raises(IndefiniteError):
            await commit(writer, "second")
        assert fault.met.is_set()
        with pytest.raises(IndefiniteError, match="in doubt since"):
            await commit(writer, "never")
    decided = api is Api.END_TXN and do in {Do.CUT_AFTER, Do.DROP_RESPONSE}
    expected = ["first", "second"] if decided else ["first"]
    assert await logs.transactions() == expected
    proxy.clear()  # what was frozen arrives now, after the fence
    assert await logs.transactions() == expected


# No deadline is part of this story, on however slow a machine.
PATIENT = replace(OPTIONS, commit_deadline_s=30.0)


async def test_a_late_end_txn_ends_no_later_transaction(
    proxy: FaultProxy, logs: Logs
) -> None:
    """EndTxn is held, the client cut off; it arrives inside the next transaction."""
    late = proxy.rule(Do.DELIVER_LATE, Api.END_TXN, client=LANE)
    async with logs.writer(options=PATIENT) as writer:
        first = asyncio.create_task(commit(writer, "first"))
        await late.met.wait()
        with pytest.raises(IndefiniteError):
            await first
    async with logs.writer(options=PATIENT) as writer:
        second = await half_written(proxy, writer)
        late.release()
        await late.answered.wait()
        proxy.clear()
        await second
    assert await logs.transactions() == ["second"]


async def test_a_late_end_txn_tears_a_transaction_of_aiokafka_alone(
    proxy: FaultProxy,
    connection: KafkaConnection,
    plain: KafkaConnection,
    make_topic: MakeTopic,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fault is real: without our hook it happens, if not at every try.

    aiokafka alone reconnects, sends EndTxn again and goes on with the same epoch, so
    the held one then commits half of the next transaction.
    """
    monkeypatch.setattr(writer_module, "watch", lambda *_: None)
    for attempt in range(6):
        topics = [await make_topic(f"{name}-{attempt}") for name in ("r", "a")]
        if await torn(proxy, Logs(connection, plain, *topics)):
            return
        proxy.clear()
    pytest.fail("a late EndTxn tore nothing")


async def torn(proxy: FaultProxy, logs: Logs) -> bool:
    """Let a late EndTxn arrive inside the next transaction; say whether it tore it."""
    late = proxy.rule(Do.DELIVER_LATE, Api.END_TXN, client=LANE)
    writer = logs.writer(options=PATIENT)
    await writer.fence()
    try:
        await commit(writer, "first")
        second = await half_written(proxy, writer)
        late.release()
        await late.answered.wait()
        # What comes before the markers would still be part of what they end.
        await logs.decided()
        proxy.clear()
        await second
    except (TransientError, FencedError):
        pass
    finally:
        await writer.close()
    try:
        await logs.transactions()
    except AssertionError:
        return True
    return False


async def half_written(proxy: FaultProxy, writer: LaneWriter) -> asyncio.Task[None]:
    """Begin a transaction; return when it stands with one batch of each topic."""
    middle = proxy.rule(Do.HOLD_REQUEST, Api.PRODUCE, client=LANE, after=1)
    second = asyncio.create_task(commit(writer, "second"))
    await middle.met.wait()
    return second


@pytest.mark.parametrize(
    ("api", "code", "expected"),
    [
        # INVALID_PRODUCER_ID_MAPPING: an id unused for seven days.
        (Api.ADD_PARTITIONS, 49, IndefiniteError),
        (Api.END_TXN, 49, IndefiniteError),
        # INVALID_PRODUCER_EPOCH and PRODUCER_FENCED: someone else has the lane.
        (Api.ADD_PARTITIONS, 47, FencedError),
        (Api.PRODUCE, 47, FencedError),
        (Api.PRODUCE, 90, FencedError),
        (Api.END_TXN, 47, IndefiniteError),
        # Refused for what it is: never again unchanged.
        (Api.PRODUCE, 10, BrokerRefusedError),
        (Api.PRODUCE, 29, BrokerRefusedError),
        (Api.ADD_PARTITIONS, 53, BrokerRefusedError),
        # OUT_OF_ORDER_SEQUENCE_NUMBER, UNKNOWN_PRODUCER_ID, INVALID_TXN_STATE.
        (Api.PRODUCE, 45, IndefiniteError),
        (Api.PRODUCE, 59, IndefiniteError),
        (Api.ADD_PARTITIONS, 48, IndefiniteError),
        # TRANSACTION_COORDINATOR_FENCED; and one that nobody knows yet.
        (Api.END_TXN, 52, IndefiniteError),
        (Api.END_TXN, 999, IndefiniteError),
    ],
)
async def test_each_error_falls_into_its_class_of_failure(
    proxy: FaultProxy,
    logs: Logs,
    api: Api,
    code: int,
    expected: type[Exception],
) -> None:
    async with logs.writer() as writer:
        await commit(writer, "first")
        proxy.rule(Do.ANSWER, api, client=LANE, code=code)
        with pytest.raises(expected):
            await commit(writer, "second")
        with pytest.raises(IndefiniteError, match="in doubt since"):
            await commit(writer, "never")
    assert await logs.transactions() == ["first"]


@pytest.mark.parametrize(
    ("api", "code"),
    [
        (Api.ADD_PARTITIONS, 51),  # CONCURRENT_TRANSACTIONS
        (Api.ADD_PARTITIONS, 14),  # COORDINATOR_LOAD_IN_PROGRESS
        (Api.ADD_PARTITIONS, 16),  # NOT_COORDINATOR: it has moved
        (Api.PRODUCE, 6),  # NOT_LEADER_OR_FOLLOWER
        (Api.PRODUCE, 13),  # NETWORK_EXCEPTION, which aiokafka reads as fatal
        (Api.PRODUCE, 19),  # NOT_ENOUGH_REPLICAS
        (Api.END_TXN, 51),
        (Api.FIND_COORDINATOR, 15),  # COORDINATOR_NOT_AVAILABLE
    ],
)
async def test_what_the_broker_certainly_did_not_do_is_asked_again(
    proxy: FaultProxy, logs: Logs, api: Api, code: int
) -> None:
    """An answer that leaves no doubt costs no take-over."""
    fault = proxy.rule(Do.ANSWER, api, client=LANE, code=code)
    async with logs.writer() as writer:
        await commit(writer, "first")
        await commit(writer, "second")
        assert writer.tainted is None
    assert fault.met.is_set()
    assert await logs.transactions() == ["first", "second"]


async def test_a_leader_that_stays_away_runs_into_the_deadline(
    proxy: FaultProxy, logs: Logs
) -> None:
    """aiokafka drops an expired batch and its sequence number; we drop aiokafka."""
    async with logs.writer() as writer:
        await commit(writer, "first")
        proxy.rule(Do.ANSWER, Api.PRODUCE, client=LANE, code=6, times=100_000)
        with pytest.raises(IndefiniteError):
            await commit(writer, "second")
    proxy.clear()
    async with logs.writer() as writer:
        await commit(writer, "third")
    assert await logs.transactions() == ["first", "third"]


@pytest.mark.parametrize("do", [Do.CUT_BEFORE, Do.CUT_AFTER, Do.DROP_RESPONSE])
async def test_a_fence_in_doubt_is_no_fence(
    proxy: FaultProxy, logs: Logs, do: Do
) -> None:
    proxy.rule(do, Api.INIT_PRODUCER_ID, client=LANE)
    writer = logs.writer()
    with pytest.raises(IndefiniteError):
        await writer.fence()
    await writer.close()
    async with logs.writer() as writer:
        await commit(writer, "first")
    assert await logs.transactions() == ["first"]


async def test_fenced_before_its_first_transaction_is_still_fenced(logs: Logs) -> None:
    """aiokafka's own handler fails there, inside a callback that only logs."""
    async with logs.writer() as zombie, logs.writer() as owner:
        with pytest.raises(FencedError):
            await commit(zombie, "zombie")
        await commit(owner, "owner")
    assert await logs.transactions() == ["owner"]


@pytest.mark.parametrize("anew", ["results", "audit"])
async def test_a_topic_made_anew_under_a_running_writer_stops_it(
    proxy: FaultProxy, logs: Logs, anew: str
) -> None:
    """A new partition takes any sequence number; its offsets begin at 0 again."""
    topic = getattr(logs, anew)
    async with logs.writer(options=PATIENT) as writer:
        await commit(writer, "first")
        admin = AIOKafkaAdminClient(bootstrap_servers=logs.plain.bootstrap_servers)
        await admin.start()
        await admin.delete_topics([topic])
        await created(admin, topic)
        await admin.close()
        with pytest.raises(IntegrityError, match=f"{topic}-0: expected an offset from"):
            await commit(writer, "second")
        with pytest.raises(IndefiniteError, match="in doubt since"):
            await commit(writer, "never")
    async with PartitionReader(logs.plain) as reader, logs.writer(logs.plain):
        end = await reader.end_offset(topic, 0)
        assert [r async for r in reader.read(topic, 0, 0, end) if r] == []


async def created(admin: AIOKafkaAdminClient, topic: str) -> None:
    """Create a topic as soon as its name is free, and wait until it is led."""
    async with asyncio.timeout(20):
        while True:
            response = await admin.create_topics([NewTopic(topic, 1, 1)])
            if response.topic_errors[0][1] in {0, 36}:
                (described,) = await admin.describe_topics([topic])
                if described["error_code"] == 0 and described["partitions"]:
                    return
            await asyncio.sleep(0.05)
