"""What became of a request: its record, its result, its audit event, its seal.

Read from the topics as they are, sealed leaves only; it believes the log, ``audit
verify`` is what does not. One place answers at once; a request id is looked for in all
of the audit log, newest data last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from stream_executor.audit.findings import ChainError
from stream_executor.audit.project import project, utc
from stream_executor.audit.segments import Segment, SegmentParser
from stream_executor.client.result import Result
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.audit import (
    AttemptStarted,
    RequestExecuted,
    RequestRefused,
    Seal,
)
from stream_executor.model.errors import BrokerRefusedError, MalformedError
from stream_executor.services.audit_reading import LOOK_BACK
from stream_executor.wire.avro import CODECS, class_of, decode
from stream_executor.wire.results import decode_result

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.model.record import Record

# An answer is appended after its request, but by clocks that differ.
_CLOCKS_MS = 60_000


class Places(msgspec.Struct, frozen=True):
    """The topics that tell of requests."""

    requests: str
    results: str
    audit: str


class Step(msgspec.Struct, frozen=True):
    """One step of a request's way; ``time`` is UTC text, None if not known."""

    name: str
    time: str | None
    text: str


@dataclass
class Story:
    """One request and what became of it so far."""

    topic: str
    partition: int
    offset: int
    request_id: str | None = None
    steps: list[Step] = field(default_factory=list)
    result: Result | None = None
    event: dict[str, Any] | None = None
    code: str | None = None

    @property
    def position(self) -> str:
        """``topic/partition/offset``."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def document(self) -> dict[str, Any]:
        """Give it as a JSON-able object."""
        result = self.result
        return {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "request_id": self.request_id,
            "steps": [msgspec.to_builtins(step) for step in self.steps],
            "result": None if result is None else msgspec.json.decode(result.to_json()),
            "event": self.event,
        }


async def tell(
    connection: KafkaConnection, places: Places, asked: str | tuple[int, int]
) -> list[Story]:
    """Find requests and tell their stories.

    Args:
        connection: the brokers.
        places: the topics.
        asked: a request id, or (partition, offset).

    Returns:
        One story a request; none if nothing is known of it.

    Raises:
        UnavailableError, BrokerRefusedError: the topics cannot be read.
    """
    async with PartitionReader(connection) as reader:
        teller = _Teller(reader, places)
        if isinstance(asked, tuple):
            story = await teller.of_place(*asked)
            return [] if story is None else [story]
        return await teller.of_id(asked)


class _Teller:
    def __init__(self, reader: PartitionReader, places: Places) -> None:
        self._reader = reader
        self._places = places
        self._attempts: dict[tuple[int, int], list[Step]] = {}

    async def of_place(self, partition: int, offset: int) -> Story | None:
        story = Story(self._places.requests, partition, offset)
        record = await self._record(partition, offset)
        found = await self._events(partition, record, offset=offset)
        if record is None and not found:
            return None
        return await self._told(story, record, found[0] if found else None)

    async def of_id(self, request_id: str) -> list[Story]:
        stories = []
        for partition in range(await self._reader.partition_count(self._places.audit)):
            for sealed in await self._events(partition, None, request_id=request_id):
                event = sealed.event
                story = Story(self._places.requests, partition, event.offset)
                record = await self._record(partition, event.offset)
                stories.append(await self._told(story, record, sealed))
        return stories

    async def _told(
        self, story: Story, record: Record | None, sealed: _Sealed | None
    ) -> Story:
        if record is not None:
            size = len(record.value or b"")
            story.steps.append(
                Step("produced", utc(record.timestamp), f"{size} bytes, appended")
            )
        else:
            story.steps.append(Step("produced", None, "the record is not retained"))
        story.steps += self._attempts.get((story.partition, story.offset), [])
        if sealed is None:
            story.steps.append(Step("waiting", None, "not answered yet"))
            return story
        event = sealed.event
        story.event = project(event, sealed.offset, story.partition)
        story.request_id, story.code = event.request_id, event.code
        story.steps += _steps(event)
        story.result = await self._result(story.partition, record, story.offset)
        seal = sealed.seal
        story.steps += [
            Step("committed", utc(sealed.committed_ms), f"audit seq {event.seq}"),
            Step(
                "sealed",
                utc(sealed.committed_ms),
                f"seal seq {seal.seq}, term {seal.term}, answers up to {seal.next}",
            ),
        ]
        return story

    async def _record(self, partition: int, offset: int) -> Record | None:
        try:
            return await self._reader.read_one(self._places.requests, partition, offset)
        except BrokerRefusedError as error:
            if error.reason != "other":  # outside the log: deleted, or not yet there
                raise
            return None

    async def _span(
        self, topic: str, partition: int, record: Record | None
    ) -> tuple[int, int]:
        """Give where to look for an answer: from its request's time on, if known."""
        reader = self._reader
        begin = await reader.begin_offset(topic, partition)
        end = await reader.end_offset(topic, partition)
        if record is not None:
            since_ms = record.timestamp - _CLOCKS_MS
            offset = await reader.offset_for_time(topic, partition, since_ms)
            begin = max(begin, (end if offset is None else offset) - LOOK_BACK)
        return begin, end

    async def _events(
        self,
        partition: int,
        request: Record | None,
        *,
        offset: int | None = None,
        request_id: str | None = None,
    ) -> list[_Sealed]:
        """Give the sealed terminal events of one offset or id."""
        topic = self._places.audit
        begin, end = await self._span(topic, partition, request)
        parser = SegmentParser(None, None, lambda _: None)
        found: list[_Sealed] = []
        async for records in self._reader.read(topic, partition, begin, end):
            for record in records:
                try:
                    segment = parser.feed(record.offset, record.value)
                except ChainError:
                    segment = parser.rejoin()
                if segment is None:
                    continue
                self._note_attempts(partition, segment, record.timestamp)
                if offset is not None and segment.seal.next <= offset:
                    continue
                for leaf in segment.leaves:
                    event = _terminal(leaf.value)
                    if event is None:
                        continue
                    if _is_of(event, offset, request_id):
                        found.append(
                            _Sealed(event, leaf.offset, segment.seal, record.timestamp)
                        )
                if offset is not None and segment.seal.next > offset:
                    return found
        return found

    def _note_attempts(self, partition: int, segment: Segment, at_ms: int) -> None:
        """Remember which requests were tried alone, because workers had died."""
        for leaf in segment.leaves:
            if class_of(leaf.value) is AttemptStarted:
                said: AttemptStarted = CODECS[AttemptStarted].decode(leaf.value)
                told = self._attempts.setdefault((partition, said.offset), [])
                text = f"alone, attempt {said.attempt}, term {said.term}"
                told.append(Step("tried", utc(at_ms), text))

    async def _result(
        self, partition: int, request: Record | None, offset: int
    ) -> Result | None:
        topic = self._places.results
        begin, end = await self._span(topic, partition, request)
        async for records in self._reader.read(topic, partition, begin, end):
            for record in records:
                try:
                    result = decode_result(record.value or b"")
                except MalformedError:
                    continue
                if (
                    result.topic == self._places.requests
                    and result.offset <= offset < result.offset + result.count
                ):
                    return Result(result)
        return None


class _Sealed(msgspec.Struct, frozen=True):
    """A terminal event with the seal that covers it."""

    event: RequestExecuted | RequestRefused
    offset: int
    seal: Seal
    committed_ms: int


def _terminal(value: bytes) -> RequestExecuted | RequestRefused | None:
    try:
        event = decode(value)
    except MalformedError:
        return None
    return event if isinstance(event, RequestExecuted | RequestRefused) else None


def _is_of(
    event: RequestExecuted | RequestRefused, offset: int | None, request_id: str | None
) -> bool:
    if offset is None:
        return event.request_id == request_id
    count = event.count if isinstance(event, RequestRefused) else 1
    return event.offset <= offset < event.offset + count


def _steps(event: RequestExecuted | RequestRefused) -> list[Step]:
    decided = utc(event.decided_ms)
    who = event.principal
    steps = []
    if who is not None:
        steps.append(Step("verified", decided, f"{who.sub} of {who.iss}, {who.role}"))
    if isinstance(event, RequestRefused):
        shared = f", shared by {event.count} records" if event.count > 1 else ""
        steps.append(Step("refused", decided, f"{event.status} {event.code}{shared}"))
        return steps
    module = event.module_name or f"sha256:{event.module_s256.hex()[:16]}…"
    outcome = event.status if event.code is None else f"{event.status} {event.code}"
    steps.append(
        Step(
            "run",
            decided,
            f"{module} {event.function}: {outcome}, {event.fuel_consumed} fuel, "
            f"{event.duration_us} µs",
        )
    )
    return steps
