"""What is wrong with a lane, found as its next owner would find it, and the way back.

``audit doctor`` reads with ``lane.recovery`` itself, without fencing anybody, so what
it proposes is what lets the lane run. ``lane resume`` finds it again and signs that.

Not here: what can be wrong (``lane.damage``); checking all that was ever written
(``services.audit_verification``).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from stream_executor.auth.replay import ReplayBudget, ReplayWindow
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.gaps import GapProver
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames
from stream_executor.lane.admission import MAX_CLOCK_LEAD_MS
from stream_executor.lane.audit_log import Expected
from stream_executor.lane.crosschecks import hold_control, way_back
from stream_executor.lane.damage import (
    BRING_BACK,
    Damage,
    DamagedError,
    WayBack,
    ranges_of,
    span,
    within,
)
from stream_executor.lane.head import LEAST_HORIZON_MS
from stream_executor.lane.recovery import recover
from stream_executor.model.errors import (
    FencedError,
    HoleError,
    IntegrityError,
    MalformedError,
)
from stream_executor.model.record import LOG_APPEND_TIME
from stream_executor.services.speaking import read_view, speaking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.lane import ports
    from stream_executor.lane.recovery import Recovered
    from stream_executor.model.audit import Seal
    from stream_executor.modules.view import ControlView
    from stream_executor.services.speaking import Speaker

# Spent tokens do not matter here, but reading them needs room.
_REPLAY_BYTES = 64 << 20


class Deployment(msgspec.Struct, frozen=True):
    """Where the logs are and whose they must be.

    Attributes:
        connection, topics: the brokers and names.
        operator_key: the deployment's trust root (32 bytes).
        secret: the deployment secret; without it a changed one is not noticed.
    """

    connection: KafkaConnection
    topics: TopicNames
    operator_key: bytes
    secret: bytes = b""


class Diagnosis(msgspec.Struct, frozen=True):
    """One lane's state as its log tells it.

    Attributes:
        partition: which lane.
        damage: None if the next owner would run.
        where, finding: topic and partition, and what was expected and found there.
        remedy: what to do.
        way_back: what a resume would order, if one can help.
        next: where the lane stands or would go on; -1 if nobody can tell.
    """

    partition: int
    damage: str | None
    where: str
    finding: str
    remedy: str
    way_back: WayBack | None
    next: int


async def diagnose(
    deployment: Deployment, partitions: Sequence[int] | None = None
) -> list[Diagnosis]:
    """Diagnose the lanes, all of them by default; changes nothing.

    Raises:
        UnavailableError, BrokerRefusedError: Kafka's.
    """
    view = await read_view(
        deployment.connection, deployment.topics.control, deployment.operator_key
    )
    async with KafkaAdmin(deployment.connection) as admin:
        cluster_id = (await admin.cluster()).cluster_id
        count = await admin.partition_count(deployment.topics.requests)
    async with (
        PartitionReader(deployment.connection) as reader,
        GapProver(deployment.connection) as prover,
    ):
        return [
            await _diagnose(deployment, view, cluster_id, reader, prover, partition)
            for partition in (range(count) if partitions is None else partitions)
        ]


async def _diagnose(
    deployment: Deployment,
    view: ControlView,
    cluster_id: str,
    reader: PartitionReader,
    prover: GapProver,
    partition: int,
) -> Diagnosis:
    topics = deployment.topics

    def believe(seal: Seal) -> None:
        if not view.fleet_key_valid(seal.fleet_key, seal.control_offset):
            message = f"seal {seal.seq}: its fleet key was not enrolled"
            raise IntegrityError(message)

    expected = Expected(
        topics.requests, topics.results, topics.audit, partition, cluster_id,
        deployment.operator_key, believe, deployment.secret, LEAST_HORIZON_MS,
        _now_ms(), view.resumes,
    )  # fmt: skip
    window = ReplayWindow(ReplayBudget(_REPLAY_BYTES), LEAST_HORIZON_MS)
    try:
        recovered = await recover(reader, expected, window)
        hold_control(recovered, partition, view.next_offset)
        await hold_waiting(reader, prover, topics.requests, recovered, partition)
    except DamagedError as error:
        back = error.way_back
        return Diagnosis(
            partition, error.damage, error.where, error.finding, error.remedy, back,
            -1 if back is None else back.next,
        )  # fmt: skip
    except (IntegrityError, MalformedError) as error:
        return Diagnosis(
            partition, Damage.UNREADABLE, f"{topics.audit}-{partition}", str(error),
            BRING_BACK, None, -1,
        )  # fmt: skip
    except FencedError:
        pass  # somebody writes it while we read: it runs
    else:
        return Diagnosis(partition, None, "", "", "", None, recovered.head.next)
    return Diagnosis(partition, None, "", "", "", None, -1)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def hold_waiting(
    reader: ports.LogReader,
    prover: ports.GapProver,
    topic: str,
    recovered: Recovered,
    partition: int,
) -> None:
    """Hold the requests that wait: is there a hole before the first, are times right?

    Raises:
        DamagedError: offsets are missing, or a time is not the broker's or lies ahead
            of this clock.
    """
    latest = _now_ms() + MAX_CLOCK_LEAD_MS
    end = await reader.end_offset(topic, partition)
    refused, head = recovered.refused, recovered.head
    found: list[int] = []
    first = end
    async for records in reader.read(topic, partition, head.next, end):
        first = min(first, records[0].offset)
        found += [
            record.offset
            for record in records
            if (record.timestamp_type != LOG_APPEND_TIME or record.timestamp > latest)
            and not within(refused, record.offset)
        ]
    try:
        await prover.prove_gap(topic, partition, head.next, first)
    except HoleError as error:
        raise DamagedError(
            Damage.REQUESTS_HOLE,
            f"{topic}-{partition}",
            f"no batch covers [{error.start}, {error.end}): requests were lost there",
            partition,
            way_back(recovered, error.end, span(head.next, error.end)),
        ) from error
    if found:
        ranges = ranges_of(found)
        spans = ", ".join(f"[{one.start}, {one.end})" for one in ranges)
        back = way_back(recovered, head.next)
        both = sorted((*back.refused, *ranges), key=lambda one: one.start)
        raise DamagedError(
            Damage.FOREIGN_TIME,
            f"{topic}-{partition}",
            f"the records in {spans} carry a time that is not the broker's or lies "
            "ahead: set message.timestamp.type=LogAppendTime, compare the clocks",
            partition,
            msgspec.structs.replace(back, refused=tuple(both)),
        )


async def resume(
    deployment: Deployment,
    operator: Ed25519PrivateKey,
    diagnosis: Diagnosis,
    evidence: str,
) -> bool:
    """Sign and append the order that a diagnosis proposes; False if it was said.

    Raises:
        OrderRefusedError: the control chain would not accept it.
        UnavailableError, BrokerRefusedError, IndefiniteError: Kafka's.
    """
    back = diagnosis.way_back
    if back is None:
        raise IntegrityError(diagnosis.remedy)
    text = f"{diagnosis.damage} in {diagnosis.where}: {diagnosis.finding}"
    if evidence:
        text += f"; {evidence}"
    async with speaking(
        deployment.connection, deployment.topics.control, deployment.operator_key,
        operator,
    ) as speaker:  # fmt: skip
        return await say_resume(speaker, diagnosis.partition, back, text)


async def say_resume(
    speaker: Speaker, partition: int, back: WayBack, evidence: str
) -> bool:
    """Order a way back; errors as ``resume``.

    Others may resume other lanes meanwhile: only an order for this head is an answer.
    """
    view, at = speaker.view, (back.head.seq - 1, back.head.hash)
    before = len(view.orders(back.log_id))

    def ordered() -> bytes:
        return speaker.orders.resume(
            log_id=back.log_id,
            partition=partition,
            next_offset=back.next,
            head_seq=back.head.seq - 1,
            head=back.head.hash,
            evidence=evidence,
            lost=list(back.lost),
            skipped=list(back.skipped),
            refused=list(back.refused),
        )

    def said() -> bool:
        since = view.orders(back.log_id)[before:]
        return any((order.head_seq, order.head) == at for order in since)

    return await speaker.say(ordered, said)
