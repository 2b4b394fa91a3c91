"""Each kind of damage halts the lane; the order it proposes lets it run, on record."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.report import Verdict
from stream_executor.audit.segments import SegmentParser
from stream_executor.audit.signing import certify, public_bytes, signed
from stream_executor.auth.replay import ReplayBudget, ReplayWindow
from stream_executor.lane.damage import Damage, DamagedError, WayBack, ranges_of
from stream_executor.lane.head import CLOCKS_APART_MS, LEAST_HORIZON_MS
from stream_executor.lane.intake import QUIET_SEAL_S
from stream_executor.lane.recovery import recover
from stream_executor.model.audit import ZERO32, LaneReleased, Seal
from stream_executor.model.control import DenySubject, KeyPurpose
from stream_executor.model.errors import HoleError
from stream_executor.model.lanes import LaneState
from stream_executor.model.record import Range
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.services.audit_reading import AuditSource
from stream_executor.services.audit_verification import Thoroughness, verify
from stream_executor.services.lane_diagnosis import hold_waiting
from stream_executor.services.worker_settings import Topics
from stream_executor.wire.avro import encode
from stream_executor.wire.results import decode_result
from tests.lane_driver import answers, feed, owned, request, submit, until
from tests.lane_world import (
    AUDIENCE,
    AUDIT,
    DEPLOYMENT,
    FLEET,
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

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from stream_executor.audit.chain import ChainHead
    from stream_executor.audit.report import PartitionReport
    from stream_executor.model.control import ResumeOrdered
    from stream_executor.model.record import Record

CONTROL = "wasm.control"


class OnePartition(MemoryReader):
    """The lane's world has one partition; its requests may begin late."""

    async def partition_count(self, topic: str) -> int:
        """Give it."""
        del topic
        return 1


@dataclass
class TrimmedReader(OnePartition):
    """A reader of a broker that removed the beginning of a topic."""

    begins: dict[str, int] = field(default_factory=dict)

    async def begin_offset(self, topic: str, partition: int) -> int:
        """Give the first offset that is kept."""
        del partition
        return self.begins.get(topic, 0)

    async def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[Record]]:
        """Ask for nothing that is gone."""
        assert start >= self.begins.get(topic, 0)
        async for records in super().read(topic, partition, start, end):
            yield records


@dataclass
class HoledReader(MemoryReader):
    """A reader of a broker that lost a part of the requests."""

    hole: Range = field(default_factory=lambda: Range(0, 0))

    async def prove_gap(
        self, topic: str, partition: int, start: int, end: int
    ) -> list[Range]:
        """No batch covers the hole."""
        if start < self.hole.end and end > self.hole.start:
            first, last = max(start, self.hole.start), min(end, self.hole.end)
            message = f"no batch covers offset {first}"
            raise HoleError(message, first, last)
        return await super().prove_gap(topic, partition, start, end)


class Worker(MemoryWorld):
    """Reads through what was done to the broker."""

    def __init__(self, broker: MemoryBroker, **begins: int) -> None:
        super().__init__(broker)
        self.begins = {f"wasm.{name}": begin for name, begin in begins.items()}

    def reader(self) -> MemoryReader:
        """A reader."""
        return TrimmedReader(self.broker, begins=self.begins)


async def damage_of(world: MemoryWorld) -> DamagedError:
    """What the next owner finds."""
    window = ReplayWindow(ReplayBudget(1 << 20), LEAST_HORIZON_MS)
    with pytest.raises(DamagedError) as caught:
        await recover(world.reader(), world.expected(0), window)
    return caught.value


def torn(broker: MemoryBroker, orders: Sequence[ResumeOrdered] = ()) -> None:
    """A leaf that continues the chain, and no seal."""
    head = head_of(broker, orders)
    broker.append(AUDIT, 0, encode(LaneReleased(head.seq, head.hash, 1, 3, "drain")))


def head_of(broker: MemoryBroker, orders: Sequence[ResumeOrdered] = ()) -> ChainHead:
    """Give the chain's head."""
    parser = SegmentParser(None, None, MemoryWorld(broker).believe, orders)
    for record in broker.records(AUDIT, 0):
        parser.feed(record.offset, record.value)
    assert parser.head is not None
    return parser.head


def tail_lost(broker: MemoryBroker) -> None:
    """The last answered request's transaction and all after it are gone."""
    del broker.log(AUDIT, 0)[4:]


def made_anew(broker: MemoryBroker) -> None:
    """Another topic of that name, with fewer records."""
    broker.logs[REQUESTS, 0] = []
    broker.now_ms += 1
    submit(broker, 9)


def truncated(broker: MemoryBroker) -> None:
    """The last answered request is gone, and others stand in its place."""
    del broker.log(REQUESTS, 0)[2:]
    broker.now_ms += 1
    submit(broker, 8)
    submit(broker, 9)


def cut(broker: MemoryBroker) -> None:
    """The last two answered requests are gone."""
    del broker.log(REQUESTS, 0)[1:]


def removed(broker: MemoryBroker) -> None:
    """Two requests go before anybody answered them."""
    submit(broker, 3)
    submit(broker, 4)
    submit(broker, 5)


def sealed_by_the_fleet(broker: MemoryBroker, log_id: bytes) -> None:
    """A seal that is believed and follows no leaf of this log."""
    key = Ed25519PrivateKey.generate()
    by = certify(public_bytes(key), FLEET, 1)
    seal = Seal(
        20, bytes(range(32)), log_id, 0, 9, 3, 3, 0, [], -1, 0, ZERO32,
        broker.now_ms, 20, 0, b"", 2, 1, 0, 0, 0, 0, 0,
        by.process_key, by.fleet_key, by.certified_ms, by.certificate,
    )  # fmt: skip
    broker.append(AUDIT, 0, signed(seal, key))


def forked(broker: MemoryBroker) -> None:
    """A seal that follows no leaf of its log."""
    sealed_by_the_fleet(broker, LOG_ID)


def strayed(broker: MemoryBroker) -> None:
    """A seal of another lane's log."""
    sealed_by_the_fleet(broker, bytes(16))


def control_values(orders: list[WayBack], evidence: str) -> list[bytes]:
    """What operators said, in order."""
    view = ControlView(public_bytes(OPERATOR))
    said = Orders(view, OPERATOR, 1)
    values: list[bytes] = []

    def say(value: bytes) -> None:
        values.append(value)
        view.apply(len(values) - 1, 1, value)

    say(said.genesis("d", "c1", AUDIENCE))
    say(said.enrol(KeyPurpose.FLEET, public_bytes(FLEET), "fleet"))
    for back in orders:
        say(
            said.resume(
                log_id=back.log_id, partition=0, next_offset=back.next,
                head_seq=back.head.seq - 1, head=back.head.hash, evidence=evidence,
                lost=list(back.lost), skipped=list(back.skipped),
                refused=list(back.refused),
            )
        )  # fmt: skip
    return values


async def audited(broker: MemoryBroker) -> PartitionReport:
    source = AuditSource(OnePartition(broker), Topics(), public_bytes(OPERATOR), "c1")
    report = await verify(
        source,
        Thoroughness(
            results=True, requests=True, prover=OnePartition(broker),
            secret=DEPLOYMENT,
        ),
    )  # fmt: skip
    (one,) = report.partitions
    return one


@pytest.mark.threat("T-12")
@pytest.mark.parametrize(
    ("harm", "begins", "damage", "next_offset", "lost"),
    [
        (torn, 0, Damage.TORN_TRANSACTION, 3, []),
        (tail_lost, 0, Damage.AUDIT_TAIL_LOST, 3, [Range(0, 3)]),
        (made_anew, 0, Damage.REQUESTS_REPLACED, 0, []),
        (truncated, 0, Damage.REQUESTS_REPLACED, 2, []),
        (cut, 0, Damage.REQUESTS_REPLACED, 1, []),
        (removed, 5, Damage.REQUESTS_REMOVED, 5, [Range(3, 5)]),
        (forked, 0, Damage.CHAIN_BROKEN, 3, []),
        (strayed, 0, Damage.OTHER_LOG, 3, []),
    ],
)
async def test_what_halts_a_lane_says_how_it_goes_on_and_verify_says_what_it_cost(
    harm: Callable[[MemoryBroker], None],
    begins: int,
    damage: Damage,
    next_offset: int,
    lost: list[Range],
) -> None:
    broker = begun_broker()
    first = MemoryWorld(broker)
    for number in range(3):
        submit(broker, number)
    async with owned(first) as lane:
        feed(first, lane)
        await until(lambda: len(answers(broker)) == 3)
    harm(broker)
    before = set(answers(broker))

    second = Worker(broker, requests=begins)
    async with owned(second) as lane:
        assert lane.state is LaneState.HALTED
        assert "wasm-executor lane resume 0`" in lane.reason
        window = ReplayWindow(ReplayBudget(1 << 20), LEAST_HORIZON_MS)
        with pytest.raises(DamagedError) as caught:
            await recover(second.reader(), second.expected(0), window)
        assert caught.value.damage is damage
        back = caught.value.way_back
        assert back is not None
        assert (back.next, list(back.lost)) == (next_offset, lost)

        values = control_values([back], str(caught.value))
        second.control(values[-1])
        lane.ordered()
        await until(lambda: lane.state is LaneState.RUNNING)
        submit(broker, 7)
        feed(second, lane)
        end = len(broker.log(REQUESTS, 0))
        await until(lambda: lane.head is not None and lane.head.next == end)

    for value in values:
        broker.append(CONTROL, 0, value)
    report = await audited(broker)
    assert report.findings == []
    assert report.verdict is Verdict.OK
    assert report.lost == lost
    assert list(ranges_of(report.foreign)) == list(back.skipped)
    if damage is not Damage.REQUESTS_REPLACED:
        assert len(answers(broker)) == len(before) + end - next_offset
    results = [decode_result(r.value or b"") for r in broker.records(RESULTS, 0)]
    assert [r.offset for r in results if r.offset < next_offset] == [
        offset for offset in sorted(before) if offset < next_offset
    ]  # what still stands is answered once
    assert {r.status for r in results} == {"SUCCEEDED"}

    # An order holds once: the next owner just goes on.
    third = Worker(broker, requests=begins)
    third.control(values[-1])
    async with owned(third) as lane:
        assert lane.state is LaneState.RUNNING


@pytest.mark.parametrize(
    ("harm", "damage"),
    [(forked, Damage.CHAIN_BROKEN), (strayed, Damage.OTHER_LOG)],
)
async def test_before_the_first_seal_the_lane_goes_on_at_genesis(
    harm: Callable[[MemoryBroker], None], damage: Damage
) -> None:
    broker = begun_broker()
    submit(broker, 1)
    harm(broker)
    world = MemoryWorld(broker)
    window = ReplayWindow(ReplayBudget(1 << 20), LEAST_HORIZON_MS)
    with pytest.raises(DamagedError) as caught:
        await recover(world.reader(), world.expected(0), window)
    back = caught.value.way_back
    assert caught.value.damage is damage
    assert back is not None
    assert (back.next, back.head.seq, back.skipped) == (0, 1, (Range(1, 2),))
    world.control(control_values([back], "")[-1])
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)


async def test_a_lost_events_result_is_not_held_against_who_uses_its_seq() -> None:
    broker = begun_broker()
    world = MemoryWorld(broker)
    for number in range(12):
        submit(broker, number)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 12)
    tail_lost(broker)
    back = (await damage_of(world)).way_back
    assert back is not None
    values = control_values([back], "")
    world.control(values[-1])
    async with owned(world) as lane:
        for number in range(12, 15):
            submit(broker, number)
            feed(world, lane)
            await until(lambda: len(answers(broker)) > number)  # noqa: B023 - at once
    for value in values:
        broker.append(CONTROL, 0, value)
    report = await audited(broker)
    assert (report.findings, report.results) == ([], 3)
    assert report.lost == [Range(0, 12)]


async def test_an_order_skips_nothing_behind_another_head() -> None:
    """A log that lost its tail uses the skipped offsets again."""
    broker = begun_broker()
    world = MemoryWorld(broker)
    for number in range(3):
        submit(broker, number)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 3)

    async def harmed() -> WayBack:
        strayed(broker)
        window = ReplayWindow(ReplayBudget(1 << 20), LEAST_HORIZON_MS)
        with pytest.raises(DamagedError) as caught:
            await recover(world.reader(), world.expected(0), window)
        assert caught.value.damage is Damage.OTHER_LOG
        assert caught.value.way_back is not None
        return caught.value.way_back

    end = len(broker.log(AUDIT, 0))
    world.control(control_values([await harmed()], "")[-1])
    tail_lost(broker)
    while len(broker.log(AUDIT, 0)) < end:
        broker.append(AUDIT, 0, b"no leaf")
    again = await harmed()
    assert again.skipped[-1].end == end + 1


async def test_a_stray_seal_that_is_the_first_one_left_does_not_name_the_log() -> None:
    """Retention took all before it; an order had skipped it."""
    broker = begun_broker()
    world = Worker(broker)

    async def answer(number: int) -> None:
        submit(broker, number)
        async with owned(world) as lane:
            feed(world, lane)
            await until(lambda: len(answers(broker)) == number + 1)
        broker.now_ms += LEAST_HORIZON_MS + 1

    await answer(0)
    stray = len(broker.log(AUDIT, 0))
    strayed(broker)
    back = (await damage_of(world)).way_back
    assert back is not None
    world.control(control_values([back], "")[-1])
    await answer(1)
    await answer(2)
    world.begins["wasm.audit"] = stray
    await answer(3)
    results = [decode_result(r.value or b"") for r in broker.records(RESULTS, 0)]
    assert {result.log_id for result in results} == {LOG_ID}


async def test_a_log_without_genesis_names_the_command_that_begins_another() -> None:
    async def remedy(broker: MemoryBroker) -> str:
        world = MemoryWorld(broker)
        window = ReplayWindow(ReplayBudget(1 << 20), LEAST_HORIZON_MS)
        with pytest.raises(DamagedError) as caught:
            await recover(world.reader(), world.expected(0), window)
        assert caught.value.damage is Damage.NO_GENESIS
        assert caught.value.way_back is None
        return caught.value.remedy

    broker = begun_broker()
    world = MemoryWorld(broker)
    submit(broker, 0)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)
    log = broker.logs.pop((AUDIT, 0))
    assert f"`wasm-executor init --previous-log 0={LOG_ID.hex()}`" in await remedy(
        broker
    )
    broker.logs.clear()
    assert (await remedy(broker)).startswith("`wasm-executor init`")
    broker.logs[AUDIT, 0] = [None for _ in log]
    assert f"--previous-log 0={bytes(16).hex()}`" in await remedy(broker)


async def test_records_with_a_foreign_time_are_refused_by_order() -> None:
    broker = begun_broker()
    submit(broker, 0)
    bad = submit(broker, 1)
    log = broker.log(REQUESTS, 0)
    record = log[bad]
    assert record is not None
    log[bad] = msgspec.structs.replace(record, timestamp=broker.now_ms + 10_000_000)
    submit(broker, 2)
    world = MemoryWorld(broker)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: lane.state is LaneState.HALTED)
        assert "ahead of this worker's clock" in lane.reason
        back = WayBack(LOG_ID, head_of(broker), 0, refused=(Range(bad, bad + 1),))
        values = control_values([back], "clock")
        world.control(values[-1])
        lane.ordered()
        await until(lambda: lane.state is LaneState.RUNNING)
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 3)
    for value in values:
        broker.append(CONTROL, 0, value)
    report = await audited(broker)
    assert report.findings == []
    assert answers(broker) == {0: "SUCCEEDED", 1: "REJECTED", 2: "SUCCEEDED"}


async def test_what_was_refused_in_a_topic_is_not_refused_in_the_next_one() -> None:
    """Offsets begin anew with a topic that is made anew; an old order is no word."""
    broker = begun_broker()
    world = Worker(broker)
    submit(broker, 0)
    early = submit(broker, 1)
    log = broker.log(REQUESTS, 0)
    record = log[early]
    assert record is not None
    log[early] = msgspec.structs.replace(record, timestamp=broker.now_ms + 10_000_000)
    async with owned(world) as lane:
        await until(lambda: lane.running)
    orders = [WayBack(LOG_ID, head_of(broker), 0, refused=(Range(early, early + 1),))]
    world.control(control_values(orders, "clock")[-1])
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 2)

    broker.logs[REQUESTS, 0] = []
    broker.now_ms += 1
    submit(broker, 8)
    submit(broker, 9)
    back = (await damage_of(world)).way_back
    assert back is not None
    assert (back.next, back.refused) == (0, ())
    world.control(control_values([*orders, back], "clock")[-1])
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(broker.records(RESULTS, 0)) == 4)
    results = [decode_result(r.value or b"") for r in broker.records(RESULTS, 0)]
    assert [r.status for r in results] == [
        "SUCCEEDED", "REJECTED", "SUCCEEDED", "SUCCEEDED",
    ]  # fmt: skip


async def test_a_later_way_back_repeats_what_is_still_to_be_refused() -> None:
    broker = begun_broker()
    world = Worker(broker)
    for number in range(3):
        submit(broker, number)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 3)
    refused = (Range(1, 2), Range(5, 7))
    orders = [WayBack(LOG_ID, head_of(broker), 3, refused=refused)]
    world.control(control_values(orders, "clock")[-1])
    for number in range(3, 8):  # two of them go before anybody answers
        submit(broker, number)
    world.begins = {REQUESTS: 5}
    back = (await damage_of(world)).way_back
    assert back is not None
    assert (back.next, back.refused) == (5, (Range(5, 7),))
    world.begins = {}
    async with owned(world):
        pass
    torn(broker, world.view.orders(LOG_ID))
    back = (await damage_of(world)).way_back
    assert back is not None
    assert (back.next, back.refused) == (3, (Range(5, 7),))


async def with_its_beginning_removed(broker: MemoryBroker) -> Worker:
    """Two answers of which the log keeps the last one, and a replay of the first."""
    world = MemoryWorld(broker)
    value = request(0)
    headers = authorization(broker, value)
    broker.append(REQUESTS, 0, value, headers)
    async with owned(world, crash=True) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)
        submit(broker, 1)
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 2)
    # RequestExecuted, its seal and the marker remain; the first token's hash does not.
    worker = Worker(broker, audit=len(broker.log(AUDIT, 0)) - 3)
    broker.append(REQUESTS, 0, value, headers)
    return worker


@pytest.mark.threat("T-05")
async def test_a_replay_is_not_run_because_the_log_lost_its_beginning() -> None:
    """Attack: whoever may delete audit records makes the fleet forget spent tokens."""
    broker = begun_broker()
    world = await with_its_beginning_removed(broker)
    async with owned(world) as lane:
        assert lane.state is LaneState.HALTED
        error = await damage_of(world)  # another replay may come
        assert (error.damage, error.way_back) == (Damage.REPLAY_WINDOW_LOST, None)
        assert error.remedy.startswith("wait until ")
        broker.now_ms += LEAST_HORIZON_MS + 1
        submit(broker, 3)  # no token of before can run again here
        error = await damage_of(world)
        assert error.damage is Damage.REPLAY_WINDOW_LOST
        assert error.way_back is not None
        assert (error.way_back.next, error.way_back.refused) == (2, (Range(2, 3),))
        world.control(control_values([error.way_back], "trimmed")[-1])
        lane.ordered()
        await until(lambda: lane.state is LaneState.RUNNING)
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 4)
    assert answers(broker) == {
        0: "SUCCEEDED", 1: "SUCCEEDED", 2: "REJECTED", 3: "SUCCEEDED",
    }  # fmt: skip
    async with owned(world) as lane:
        assert lane.state is LaneState.RUNNING


async def test_leaves_that_are_older_than_any_token_may_go() -> None:
    """Retention needs no operator where nothing that waits could be a replay."""
    broker = begun_broker()
    world = await with_its_beginning_removed(broker)
    broker.log(REQUESTS, 0).pop()
    broker.now_ms += LEAST_HORIZON_MS + CLOCKS_APART_MS + 1
    async with owned(world, crash=True) as lane:  # nothing waits
        assert lane.state is LaneState.RUNNING
    submit(broker, 3)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 3)


def test_a_hole_in_the_requests_is_lost_by_order_and_nothing_before_it() -> None:
    """What lies before it is answered and sealed first, however long that takes."""
    broker = begun_broker()
    submit(broker, 0)
    broker.marker(REQUESTS, 0)
    broker.log(REQUESTS, 0).extend([None, None])
    last = submit(broker, 1)
    hole = Range(2, last)

    async def lives() -> PartitionReport:
        world = MemoryWorld(broker)
        world.prover = HoledReader(broker, hole=hole)
        async with owned(world) as lane:
            for _ in range(2):  # once it may be the client's own state
                feed(world, lane)
                await settle()
            await asyncio.sleep(QUIET_SEAL_S + 1)
            assert str(lane.state) == "halted"
            assert "requests were lost" in lane.reason
            assert "wasm-executor lane resume 0`" in lane.reason
            window = ReplayWindow(ReplayBudget(1 << 20), LEAST_HORIZON_MS)
            at = await recover(world.reader(), world.expected(0), window)
            assert at.head.next == hole.start
            with pytest.raises(DamagedError) as caught:
                await hold_waiting(world.reader(), world.prover, REQUESTS, at, 0)
            assert caught.value.damage is Damage.REQUESTS_HOLE
            back = caught.value.way_back
            assert back is not None
            assert (back.next, back.lost) == (hole.end, (hole,))
            values = control_values([back], "hole")
            world.control(values[-1])
            lane.ordered()
            await settle()
            assert lane.state is LaneState.RUNNING
            feed(world, lane)
            await settle()
        for value in values:
            broker.append(CONTROL, 0, value)
        return await audited(broker)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        report = runner.run(lives())
    assert report.findings == []
    assert report.lost == [hole]
    assert answers(broker) == {0: "SUCCEEDED", last: "SUCCEEDED"}


async def test_a_control_topic_that_lost_its_end_halts_every_lane_that_used_it() -> (
    None
):
    broker = begun_broker()
    world = MemoryWorld(broker)
    world.control(Orders(world.view, OPERATOR, 1).deny(DenySubject.SUB, "x", "y"))
    submit(broker, 0)
    async with owned(world) as lane:
        feed(world, lane)
        await until(lambda: len(answers(broker)) == 1)
    async with owned(MemoryWorld(broker)) as lane:
        assert lane.state is LaneState.HALTED
        assert "bring the control topic back" in lane.reason
