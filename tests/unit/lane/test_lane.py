"""One lane on an in-memory log: exactly one answer for each record, through faults."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from stream_executor.audit.chain import ChainHead, leaf_hash
from stream_executor.audit.digests import BODY_TAG, Salter, content_digest
from stream_executor.lane.conclusion import conclude
from stream_executor.lane.intake import QUIET_SEAL_S
from stream_executor.lane.lane import Lane
from stream_executor.model.audit import (
    Context,
    LaneAcquired,
    LaneReleased,
    RequestExecuted,
    RequestRefused,
    Seal,
)
from stream_executor.model.control import DenySubject
from stream_executor.model.errors import (
    BrokerRefusedError,
    IntegrityError,
    UnavailableError,
)
from stream_executor.model.lanes import LaneState
from stream_executor.model.record import EmptyRun, PlainRecord, Range
from stream_executor.model.request import (
    ModuleName,
)
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.modules.orders import Orders
from stream_executor.wire.results import decode_result
from tests.lane_driver import (
    answers,
    feed,
    intake,
    leaves,
    owned,
    request,
    submit,
    until,
)
from tests.lane_world import (
    AUDIT,
    DEPLOYMENT,
    LOG_ID,
    OPERATOR,
    REQUESTS,
    RESULTS,
    MemoryWorld,
    authorization,
    begun_broker,
)
from tests.memory_log import MemoryBroker, MemoryReader
from tests.model.virtual_time import VirtualTimeLoop, settle


async def test_every_record_gets_one_result_and_one_event() -> None:
    broker = begun_broker()
    world = MemoryWorld(broker)
    for number in range(120):
        submit(broker, number)

    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 120)

    assert set(answers(broker).values()) == {"SUCCEEDED"}
    log = leaves(broker)
    executed = [leaf for leaf in log if isinstance(leaf, RequestExecuted)]
    assert [leaf.offset for leaf in executed] == list(range(120))
    assert isinstance(log[1], LaneAcquired)
    assert isinstance(log[-2], LaneReleased)
    last = log[-1]
    assert isinstance(last, Seal)
    assert last.next == 120
    assert sum(world.inline.values()) == 0


@pytest.mark.parametrize("crash", ["before", "after"])
async def test_a_commit_in_doubt_is_decided_by_the_log(crash: str) -> None:
    """Whether the broker took the transaction or not, nothing is doubled or lost."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    for number in range(10):
        submit(broker, number)

    async with owned(world) as lane:
        broker.crash_next = crash
        feed(world, lane)
        await until(lambda: len(world.seeks) == 2)
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 10)

    seals = [leaf for leaf in leaves(broker) if isinstance(leaf, Seal)]
    assert seals[-1].next == 10
    assert seals[-1].term == 2


async def test_a_new_owner_fences_the_old_one() -> None:
    """Two owners: the later one works, the earlier one stops and does not fight."""
    broker = begun_broker()
    first, second = MemoryWorld(broker), MemoryWorld(broker)

    async with owned(first, crash=True) as old:
        submit(broker)
        async with owned(second) as new:
            feed(first, old)
            await until(lambda: old.state is LaneState.WAITING)
            feed(second, new)
            await until(lambda: answers(broker) == {0: "SUCCEEDED"})
            assert new.state is LaneState.RUNNING
        assert old.state is LaneState.WAITING


@pytest.mark.threat("T-05")
async def test_replay_is_refused_after_a_takeover() -> None:
    """The replay window is rebuilt from the seals."""
    broker = begun_broker()
    first = MemoryWorld(broker)
    value = request()
    header = authorization(broker, value, jti="the-one-and-only-jti")
    broker.append(REQUESTS, 0, value, header)
    async with owned(first, crash=True) as lane:
        feed(first, lane)
        await until(lambda: len(answers(broker)) == 1)
    broker.append(REQUESTS, 0, value, header)

    second = MemoryWorld(broker)
    async with owned(second) as lane:
        feed(second, lane)
        await until(lambda: len(answers(broker)) == 2)

    assert answers(broker) == {0: "SUCCEEDED", 1: "REJECTED"}
    assert second.sandbox.entered == 0
    refused = [leaf for leaf in leaves(broker) if isinstance(leaf, RequestRefused)]
    assert [(leaf.code, leaf.request_id) for leaf in refused] == [
        ("auth_replayed", "r-0")
    ]


@pytest.mark.threat("T-19")
async def test_a_flood_of_unsigned_records_shares_few_answers() -> None:
    """Adjacent refusals of one code cost one result and one event together."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    for _ in range(40):
        broker.append(REQUESTS, 0, b"")
    submit(broker)

    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 41)

    refused = [leaf for leaf in leaves(broker) if isinstance(leaf, RequestRefused)]
    assert [(leaf.offset, leaf.count, leaf.code) for leaf in refused] == [
        (0, 40, "auth_missing")
    ]
    assert answers(broker)[40] == "SUCCEEDED"


@pytest.mark.threat("T-19")
async def test_a_run_of_a_million_records_costs_as_much_as_one() -> None:
    """As one value it is refused as one; it shares with what lies around it."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    stamp = broker.now_ms
    before, behind = PlainRecord(0, stamp, b""), PlainRecord(1_000_001, stamp, b"")

    async with owned(world) as lane:
        intake(lane).feed([before, EmptyRun(1, 1_000_001, stamp, 1), behind])
        assert intake(lane).in_flight == 3
        await until(lambda: intake(lane).in_flight == 0)
        assert intake(lane).fetch_position == 1_000_002

    refused = [leaf for leaf in leaves(broker) if isinstance(leaf, RequestRefused)]
    assert [(leaf.offset, leaf.count, leaf.code) for leaf in refused] == [
        (0, 1_000_002, "auth_missing")
    ]
    seals = [leaf for leaf in leaves(broker) if isinstance(leaf, Seal)]
    assert (seals[-1].next, seals[-1].anchor_offset) == (1_000_002, 1_000_001)
    assert sum(seal.answered for seal in seals) == 1_000_002
    assert [t.by_code for t in world.tallies if t.by_code] == [
        {"auth_missing": 1_000_002}
    ]


@pytest.mark.parametrize("as_run", [False, True])
async def test_a_run_leaves_what_its_records_leave_one_by_one(*, as_run: bool) -> None:
    """The next owner believes the anchor, and reads the records one by one."""
    broker = begun_broker()
    first, second = MemoryWorld(broker), MemoryWorld(broker)
    for _ in range(40):
        broker.append(REQUESTS, 0, b"")
    run = EmptyRun(0, 40, broker.now_ms, 1)

    async with owned(first, crash=True) as lane:
        intake(lane).feed([run] if as_run else broker.records(REQUESTS, 0))
        await until(lambda: len(answers(broker)) == 40)
    async with owned(second) as lane:
        assert lane.state is LaneState.RUNNING

    (seal,) = [one for one in leaves(broker) if isinstance(one, Seal) and one.answered]
    assert (seal.next, seal.lane_time) == (40, run.timestamp)
    salt = Salter(DEPLOYMENT, LOG_ID).salt(39)
    assert (seal.anchor_offset, seal.anchor_timestamp, seal.anchor_digest) == (
        39, run.timestamp, content_digest(BODY_TAG, salt, b""),
    )  # fmt: skip


async def test_of_a_run_that_comes_again_only_the_rest_is_answered() -> None:
    broker = begun_broker()
    world = MemoryWorld(broker)
    stamp = broker.now_ms

    async with owned(world) as lane:
        intake(lane).feed([EmptyRun(0, 10, stamp, 1)])
        intake(lane).feed([EmptyRun(4, 30, stamp, 1), EmptyRun(2, 25, stamp, 1)])
        await until(lambda: len(answers(broker)) == 30)


async def test_records_of_a_run_are_refused_by_order_one_by_one() -> None:
    """An order's answer says nothing of tokens, so no other record shares it."""
    broker = begun_broker()
    world = MemoryWorld(broker)

    async with owned(world) as lane:
        intake(lane)._admission._refused_by_order = (Range(7, 9), Range(3, 4))
        intake(lane).feed([EmptyRun(0, 12, broker.now_ms, 1)])
        await until(lambda: len(answers(broker)) == 12)

    refused = [leaf for leaf in leaves(broker) if isinstance(leaf, RequestRefused)]
    assert [(leaf.offset, leaf.count, leaf.code) for leaf in refused] == [
        (0, 3, "auth_missing"),
        (3, 1, "invalid_request"),
        (4, 3, "auth_missing"),
        (7, 1, "invalid_request"),
        (8, 1, "invalid_request"),
        (9, 3, "auth_missing"),
    ]


async def test_what_waits_to_be_admitted_is_counted_wherever_its_bytes_are() -> None:
    """A lane that waits must not be filled with keys and headers."""
    size = MemoryWorld(begun_broker()).settings.window_bytes
    for heavy in (
        PlainRecord(1, 0, None, (), bytes(size)),
        PlainRecord(1, 0, None, (("h", bytes(size)),)),
        PlainRecord(1, 0, bytes(size)),
    ):
        async with owned(MemoryWorld(begun_broker())) as lane:
            assert not intake(lane).congested
            intake(lane).feed([heavy])  # behind a gap that is yet to be proven
            assert intake(lane).congested


async def test_refusals_of_different_codes_do_not_share_an_answer() -> None:
    """What the answer says must be true of every record that it covers."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    for header in ([], [], [("authorization", b"Bearer x")], []):
        broker.append(REQUESTS, 0, b"", header)

    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 4)

    refused = [leaf for leaf in leaves(broker) if isinstance(leaf, RequestRefused)]
    assert [(leaf.offset, leaf.count, leaf.code) for leaf in refused] == [
        (0, 2, "auth_missing"),
        (2, 1, "auth_malformed"),
        (3, 1, "auth_missing"),
    ]


async def test_markers_are_attested_as_gaps() -> None:
    """answered + gaps = next - from, whatever transactional producers leave behind."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    submit(broker, 0)
    broker.marker(REQUESTS, 0)
    broker.marker(REQUESTS, 0)
    submit(broker, 1)
    broker.marker(REQUESTS, 0)

    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 2)
        intake(lane).reached(5)
        await until(lambda: intake(lane).expected == 5)

    seals = [leaf for leaf in leaves(broker) if isinstance(leaf, Seal)]
    gaps = [(g.start, g.end) for seal in seals for g in seal.gaps]
    assert gaps == [(1, 3), (4, 5)]
    assert seals[-1].next == 5


async def test_records_that_the_client_skipped_are_fetched_again() -> None:
    """A hole that holds records is never sealed; the second time the lane halts."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    for number in range(3):
        submit(broker, number)

    async with owned(world) as lane:
        intake(lane).feed([broker.records(REQUESTS, 0)[2]])
        await until(lambda: world.seeks == [0, 0])
        intake(lane).feed([broker.records(REQUESTS, 0)[2]])
        await until(lambda: lane.state is LaneState.HALTED)

    assert answers(broker) == {}


async def test_results_keep_offset_order_whatever_finishes_first() -> None:
    broker = begun_broker()
    world = MemoryWorld(broker)
    world.sandbox.held = True
    for number in range(3):
        submit(broker, number)

    async with owned(world) as lane:
        for record in broker.records(REQUESTS, 0):
            intake(lane).feed([record])
        world.sandbox.waiting.reverse()
        world.sandbox.run()
        await until(lambda: len(answers(broker)) == 3)

    results = [decode_result(r.value or b"") for r in broker.records(RESULTS, 0)]
    assert [r.offset for r in results] == [0, 1, 2]


async def test_a_result_over_the_limit_becomes_output_limit() -> None:
    broker = begun_broker()
    world = MemoryWorld(broker)
    normal = world.sandbox.answer
    world.sandbox.answer = lambda job: type(normal(job))(
        output=pack_value(ValueType.I64, 1) * 20_000
    )
    submit(broker)

    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)

    result = decode_result(broker.records(RESULTS, 0)[0].value or b"")
    assert (result.status, result.code) == ("FAILED", "output_limit")
    assert lane.state is not LaneState.HALTED


async def test_an_audit_partition_without_genesis_halts_the_lane() -> None:
    """An empty audit partition is not a first start."""
    broker = MemoryBroker()
    world = MemoryWorld(broker)

    async with owned(world) as lane:
        assert lane.state is LaneState.HALTED
        assert "genesis" in lane.reason


@pytest.mark.threat("T-14")
async def test_a_requests_topic_made_anew_halts_the_lane() -> None:
    """The anchor: the last answered record must still be what was answered."""
    broker = begun_broker()
    first = MemoryWorld(broker)
    submit(broker, 1)
    async with owned(first) as lane:
        feed(first, lane)
        await until(lambda: len(answers(broker)) == 1)
    broker.logs[REQUESTS, 0] = []
    broker.now_ms += 1
    submit(broker, 2)

    second = MemoryWorld(broker)
    async with owned(second) as lane:
        assert lane.state is LaneState.HALTED
        assert "made anew" in lane.reason


@pytest.mark.threat("T-12")
async def test_an_audit_log_that_lost_its_tail_halts_the_lane() -> None:
    """Results that are ahead of the audit log betray the loss."""
    broker = begun_broker()
    first = MemoryWorld(broker)
    async with owned(first) as lane:
        kept = len(broker.log(AUDIT, 0))
        submit(broker)
        feed(first, lane)
        await until(lambda: len(answers(broker)) == 1)
    del broker.log(AUDIT, 0)[kept:]

    second = MemoryWorld(broker)
    async with owned(second) as lane:
        assert lane.state is LaneState.HALTED
        assert "lost its tail" in lane.reason


@pytest.mark.threat("T-08")
async def test_a_record_with_its_producers_time_halts_the_lane() -> None:
    """Rejecting it would make an admin's slip terminal for every request."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    submit(broker)
    record = broker.records(REQUESTS, 0)[0]

    async with owned(world) as lane:
        mine = type(record)(0, record.timestamp, record.value, timestamp_type=0)
        intake(lane).feed([mine])
        await until(lambda: lane.state is LaneState.HALTED)
        assert "LogAppendTime" in lane.reason

    assert answers(broker) == {}


async def test_a_release_recovers_what_a_later_one_wrote() -> None:
    """Recovery reads seals and links only: N takes lanes back from N + 1."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    submit(broker, 0)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)
    head = lane.head
    assert head is not None
    # What a later release might write: an event of a schema that this one lacks.
    unknown = (
        b"\xc3\x01newevent"
        + bytes([head.chain.seq << 1])
        + head.chain.hash
        + b"whatever it says"
    )
    tail = ChainHead(head.chain.seq + 1, leaf_hash(unknown))
    later = msgspec.structs.replace(head, chain=tail)
    identity = world.identity(0, LOG_ID, 2, 1 << 16)
    transaction = conclude(identity, world.process_key, later, (), ())
    broker.append(AUDIT, 0, unknown)
    broker.append(AUDIT, 0, transaction.audit[0])

    second = MemoryWorld(broker)
    submit(broker, 1)
    async with owned(second) as lane:
        feed(second, lane)
        await until(lambda: len(answers(broker)) == 2)

    assert lane.term == 3
    assert answers(broker) == {0: "SUCCEEDED", 1: "SUCCEEDED"}


async def test_a_control_change_is_written_before_what_it_decides() -> None:
    """Events cite the context they were decided under."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    submit(broker, 0)

    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)
        orders = Orders(world.view, OPERATOR, 1)
        world.control(orders.publish(ModuleName("add", "1"), bytes(32), 4, 0))
        submit(broker, 1)
        intake(lane).feed(broker.records(REQUESTS, 0)[1:])
        await until(lambda: len(answers(broker)) == 2)

    log = leaves(broker)
    context = next(leaf for leaf in log if isinstance(leaf, Context))
    executed = [leaf for leaf in log if isinstance(leaf, RequestExecuted)]
    assert executed[0].context_seq == 1
    assert executed[1].context_seq == context.seq
    assert log.index(context) < log.index(executed[1])


@pytest.mark.threat("T-06")
async def test_a_request_that_is_no_utf8_is_refused_and_ends_nobody() -> None:
    """A poison pill: the JSON decoder has another exception for this one."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    value = b'{"request_id":"\xff"}'
    broker.append(REQUESTS, 0, value, authorization(broker, value))

    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)

    refused = [leaf for leaf in leaves(broker) if isinstance(leaf, RequestRefused)]
    assert [leaf.code for leaf in refused] == ["invalid_request"]


async def test_a_recovery_that_fails_gives_its_replay_memory_back() -> None:
    """Else a partition that is away would use up the budget of all others."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    submit(broker)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)
    before = world.replay_budget.used_bytes
    broker.logs[REQUESTS, 0] = []

    async with owned(world) as lane:
        assert lane.state is LaneState.HALTED

    assert world.replay_budget.used_bytes == before


async def test_a_release_during_a_module_look_up_keeps_what_is_finished() -> None:
    """What waits for the control view is the next owner's; the rest is committed."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    look = asyncio.Event()
    look.set()
    world.confirm_view = look.wait  # type: ignore[method-assign, assignment]
    lane = Lane(0, world)
    lane.start()
    await until(lambda: lane.running)
    look.clear()
    world.sandbox.held = True
    submit(broker, 0)
    submit(broker, 1, ModuleName("not-yet", "1"))
    feed(world, lane)

    release = asyncio.create_task(lane.release("rebalance", 2.0))
    await until(lambda: not lane.running)
    look.set()
    world.sandbox.run()
    await release

    assert answers(broker) == {0: "SUCCEEDED"}
    assert isinstance(leaves(broker)[-2], LaneReleased)


@pytest.mark.threat("T-15")
async def test_a_denial_learnt_while_waiting_for_a_module_is_applied() -> None:
    """The request is decided under the newer context, so the newer list counts."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    async with owned(world) as lane:

        async def learn() -> None:
            orders = Orders(world.view, OPERATOR, 1)
            world.control(orders.deny(DenySubject.SUB, "agent-7", "test"))
            orders = Orders(world.view, OPERATOR, 1)
            world.control(orders.publish(ModuleName("late", "1"), bytes(32), 4, 0))

        world.confirm_view = learn  # type: ignore[method-assign]
        submit(broker, 1, ModuleName("late", "1"))
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)

    assert world.sandbox.entered == 0
    refused = [leaf for leaf in leaves(broker) if isinstance(leaf, RequestRefused)]
    assert [leaf.code for leaf in refused] == ["auth_revoked"]


@pytest.mark.parametrize("requests", [49, 50, 51, 100])
def test_a_gap_that_its_transaction_could_not_carry_is_sealed_soon(
    requests: int,
) -> None:
    """Else the watchdog would take an idle lane for one that stands still."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    world.sandbox.held = True

    async def lives() -> None:
        async with owned(world) as lane:
            for number in range(requests):
                submit(broker, number)
            broker.marker(REQUESTS, 0)  # a requester's own transaction ends
            feed(world, lane)
            intake(lane).reached(requests + 1)
            await settle()
            world.sandbox.run()
            await asyncio.sleep(QUIET_SEAL_S + 1)
            assert lane.in_flight == 0
            assert lane.head is not None
            assert lane.head.next == requests + 1

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(lives())


async def test_a_look_that_failed_replays_nobody() -> None:
    """The token was spent in memory, before the lane began anew, but not on the log."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    async with owned(world) as lane:
        away = [UnavailableError("the control topic does not answer")]

        async def confirm() -> None:
            if away:
                raise away.pop()

        world.confirm_view = confirm  # type: ignore[method-assign]
        submit(broker, 1, ModuleName("not-yet", "1"))
        feed(world, lane)
        await until(lambda: len(world.seeks) == 2)
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)

    refused = [leaf for leaf in leaves(broker) if isinstance(leaf, RequestRefused)]
    assert [leaf.code for leaf in refused] == ["module_not_found"]


async def test_a_lane_goes_on_by_itself_when_the_clock_is_right_again() -> None:
    """Nothing was decided on the record from the future, so nobody need order it."""
    broker = begun_broker()
    submit(broker)
    world = MemoryWorld(broker)
    wrong = -90_000

    def now_ms() -> int:
        return broker.now_ms + wrong

    world.now_ms = now_ms  # type: ignore[method-assign]
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: lane.state is LaneState.HALTED)
        lane.look_at_clock()
        assert lane.state is LaneState.HALTED
        wrong = 0
        lane.look_at_clock()
        await until(lambda: lane.state is LaneState.RUNNING)
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)
    assert answers(broker) == {0: "SUCCEEDED"}


async def test_a_blocked_lane_stays_blocked_until_a_try_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trying again is no news: no line in the log, no flapping metric."""
    monkeypatch.setattr("stream_executor.lane.lane._BLOCKED_RETRY_S", 0.0)
    world = MemoryWorld(begun_broker())
    refusals = 0
    writer = world.writer

    def refused(partition: int, batch_bytes: int) -> object:
        nonlocal refusals
        if refusals < 5:
            refusals += 1
            raise BrokerRefusedError("no such topic", "unknown_topic")
        return writer(partition, batch_bytes)

    monkeypatch.setattr(world, "writer", refused)
    lane = Lane(0, world)
    lane.start()
    await until(lambda: lane.state is LaneState.RUNNING)
    await lane.release("drain", 1.0)
    assert refusals == 5
    assert world.states == [LaneState.BLOCKED, LaneState.RUNNING, LaneState.RELEASING]


@pytest.mark.parametrize("away", ["before the fence", "while the log is read"])
async def test_a_lane_waits_while_another_cluster_answers(
    monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    """It fences nobody there, and what it finds there halts it not."""
    monkeypatch.setattr("stream_executor.lane.lane._BLOCKED_RETRY_S", 0.0)
    broker = begun_broker()
    world = MemoryWorld(broker)
    asked = 0

    async def hold() -> None:
        nonlocal asked
        asked += 1
        if asked <= 4 and (asked % 2 == 0 or away == "before the fence"):
            raise BrokerRefusedError("cluster b answers", "cluster_changed")

    def reader() -> MemoryReader:
        elsewhere = away != "before the fence" and asked <= 4
        return MemoryReader(MemoryBroker() if elsewhere else broker)

    monkeypatch.setattr(world, "hold_cluster", hold)
    monkeypatch.setattr(world, "reader", reader)
    lane = Lane(0, world)
    lane.start()
    await until(lambda: lane.state is LaneState.RUNNING)
    assert [*broker.epochs.values()] == [1 if away == "before the fence" else 3]
    await lane.release("drain", 1.0)
    assert world.states == [LaneState.BLOCKED, LaneState.RUNNING, LaneState.RELEASING]


async def test_a_running_lane_waits_while_another_cluster_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What looks like records that were skipped may lie in the other one."""
    monkeypatch.setattr("stream_executor.lane.lane._BLOCKED_RETRY_S", 0.0)
    world = MemoryWorld(begun_broker())
    lane = Lane(0, world)
    lane.start()
    await until(lambda: lane.state is LaneState.RUNNING)
    asked = 0

    async def hold() -> None:
        nonlocal asked
        asked += 1
        if asked <= 3:
            raise BrokerRefusedError("cluster b answers", "cluster_changed")

    monkeypatch.setattr(world, "hold_cluster", hold)
    intake(lane).fail(IntegrityError("offset 3 holds a record that was not fetched"))
    await until(lambda: asked > 3 and lane.state is LaneState.RUNNING)
    await lane.release("drain", 1.0)
    assert LaneState.HALTED not in world.states
    assert LaneState.BLOCKED in world.states


async def test_a_blocked_lane_closes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain does not wait for its next try."""
    monkeypatch.setattr("stream_executor.lane.lane._BLOCKED_RETRY_S", 3_600.0)
    world = MemoryWorld(begun_broker())

    async def hold() -> None:
        raise BrokerRefusedError("cluster b answers", "cluster_changed")

    monkeypatch.setattr(world, "hold_cluster", hold)
    lane = Lane(0, world)
    lane.start()
    await until(lambda: lane.state is LaneState.BLOCKED)
    async with asyncio.timeout(60.0):
        await lane.release("drain", 3_600.0)
    assert lane.state is LaneState.RELEASING
