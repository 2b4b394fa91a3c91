"""A TCP proxy that knows Kafka's frames and does wrong by rule.

The broker has a second listener that advertises the proxy's port, so whatever connects
through it stays on it. Every request's header (api key, version, correlation id, client
id; KIP-511 and before) is read; the first rule that wants a request takes it. Whatever
no rule wants passes untouched, in order.

    async with FaultProxy(listener, target) as proxy:
        lost = proxy.rule(Do.CUT_AFTER, Api.END_TXN, client="lane-0")
        ...
        await lost.met.wait()

Not here: TLS and SASL (the listener is plaintext), groups of brokers.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from io import BytesIO
from typing import TYPE_CHECKING, Final

from aiokafka.protocol.produce import ProduceRequest_v3
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest_v0

if TYPE_CHECKING:
    import socket
    from types import TracebackType
    from typing import Self

_SIZE: Final = struct.Struct(">i")
_REQUEST: Final = struct.Struct(">hhih")
# How long a broker may still answer a client that is gone, seconds.
_LAST_ANSWERS_S: Final = 10.0


class Api(IntEnum):
    """Kafka's api keys that rules are about."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS = 24
    END_TXN = 26


class Do(Enum):
    """What happens to a request that a rule takes."""

    CUT_BEFORE = "cut the connection; the broker never sees the request"
    CUT_AFTER = "cut the connection when the broker has answered; lose the answer"
    HOLD_REQUEST = "keep the request from the broker until released"
    DELIVER_LATE = "cut the client off; the broker gets the request when released"
    HOLD_RESPONSE = "keep the answer from the client until released"
    DROP_RESPONSE = "lose the answer and keep the connection"
    ANSWER = "answer an error code in the broker's place"
    FREEZE = "stop the connection in both directions until released"


@dataclass(frozen=True)
class Request:
    """One request frame, its size left off."""

    api: int
    version: int
    correlation_id: int
    client_id: str
    frame: bytes
    body: bytes

    @classmethod
    def parse(cls, frame: bytes) -> Self:
        """Read the header: it is the same for all that aiokafka 0.14 sends."""
        api, version, correlation_id, size = _REQUEST.unpack_from(frame)
        end = _REQUEST.size + max(size, 0)
        name = frame[_REQUEST.size : end].decode()
        return cls(api, version, correlation_id, name, frame, frame[end:])


@dataclass(eq=False)
class Fault:
    """A rule: which requests, what to do with them, and how far it is.

    Attributes:
        client: what the client id ends in; all clients if empty.
        after: so many matching requests pass first.
        times: so many are taken; then the rule is spent.
        code: Kafka's error code for ``ANSWER``.
        met: set when a request was taken.
        answered: set when the broker has answered a request that was taken.
    """

    do: Do
    api: Api
    client: str = ""
    after: int = 0
    times: int = 1
    code: int = 0
    met: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let go what is held."""
        self.released.set()

    def takes(self, request: Request) -> bool:
        """Decide on one request, counting it."""
        if request.api != self.api or not request.client_id.endswith(self.client):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return self.times >= 0


class FaultProxy:
    """Listens on ``listener``, forwards to ``target``; a context manager.

    Attributes:
        seen: how many requests of each (client id, api) came by.
    """

    def __init__(self, listener: socket.socket, target: str) -> None:
        self._listener = listener
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._faults: list[Fault] = []
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self.seen: Counter[tuple[str, int]] = Counter()

    @property
    def address(self) -> str:
        """The bootstrap address."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def rule(self, do: Do, api: Api, **more: int | str) -> Fault:
        """Add a rule; the oldest one that wants a request takes it."""
        fault = Fault(do, api, **more)  # type: ignore[arg-type]
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Drop all rules and release what they hold."""
        faults, self._faults = self._faults, []
        for fault in faults:
            fault.release()

    def cut_all(self) -> None:
        """Cut every connection that is open now."""
        for link in list(self._links):
            link.cut()

    async def __aenter__(self) -> Self:
        # A copy, because the server closes what it is given; the port stays ours.
        self._server = await asyncio.start_server(
            self._connected, sock=self._listener.dup()
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()
        if self._server is not None:
            self._server.close()
        while self._links:
            self.cut_all()
            await asyncio.wait([link.task for link in self._links])

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        link = _Link(self, reader, writer, task)
        self._links.add(link)
        try:
            await link.run(self._host, self._port)
        finally:
            self._links.discard(link)

    def take(self, request: Request) -> Fault | None:
        """Count a request and find the rule that wants it."""
        self.seen[request.client_id, request.api] += 1
        return next((fault for fault in self._faults if fault.takes(request)), None)


class _Link:
    """One connection of a client, and its own to the broker."""

    def __init__(
        self,
        proxy: FaultProxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        task: asyncio.Task[None],
    ) -> None:
        self.task = task
        self._proxy = proxy
        self._client, self._to_client = reader, writer
        self._to_broker: asyncio.StreamWriter | None = None
        # Answers come in the order of the requests; those that we give have bytes.
        self._owed: deque[tuple[Fault | None, bytes | None]] = deque()
        self._all_answered = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    def cut(self) -> None:
        """Close both sides at once, as a reset would."""
        for writer in (self._to_client, self._to_broker):
            if writer is not None:
                writer.transport.abort()

    async def run(self, host: str, port: int) -> None:
        """Forward until either side ends."""
        pumps: list[asyncio.Task[None]] = []
        try:
            broker, self._to_broker = await asyncio.open_connection(host, port)
            pumps = [
                asyncio.create_task(self._requests(self._to_broker)),
                asyncio.create_task(self._answers(broker)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # no broker there now: the client sees a closed connection
        finally:
            self.cut()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(self, to_broker: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while frame := await _read_frame(self._client):
                request = Request.parse(frame)
                fault = self._proxy.take(request)
                if fault is not None and not await self._before(fault, request):
                    continue
                self._owed.append((fault, None))
                self._all_answered.clear()
                await self._open.wait()
                to_broker.write(_SIZE.pack(len(frame)) + frame)
                await to_broker.drain()
            if self._owed:  # the client is gone; what it sent still takes effect
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_ANSWERS_S):
                        await self._all_answered.wait()

    async def _before(self, fault: Fault, request: Request) -> bool:
        """Do what comes before the broker sees it; whether it still shall."""
        fault.met.set()
        if fault.do is Do.CUT_BEFORE:
            raise ConnectionAbortedError
        if fault.do is Do.ANSWER:
            self._owed.append((None, error_answer(request, fault.code)))
            self._give_own_answers()
            return False
        if fault.do is Do.DELIVER_LATE:
            self._to_client.transport.abort()
        if fault.do is Do.FREEZE:
            self._open.clear()
        if fault.do in {Do.DELIVER_LATE, Do.FREEZE, Do.HOLD_REQUEST}:
            await fault.released.wait()
            self._open.set()
        return True

    async def _answers(self, broker: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while frame := await _read_frame(broker):
                await self._open.wait()
                fault, _ = self._owed.popleft()
                do = None if fault is None else fault.do
                if fault is not None:
                    fault.answered.set()
                if fault is not None and do is Do.HOLD_RESPONSE:
                    await fault.released.wait()
                if do is Do.CUT_AFTER:
                    return
                if do not in {Do.DROP_RESPONSE, Do.DELIVER_LATE}:
                    self._to_client.write(_SIZE.pack(len(frame)) + frame)
                    await self._to_client.drain()
                self._give_own_answers()
                if not self._owed:
                    self._all_answered.set()

    def _give_own_answers(self) -> None:
        while self._owed and (answer := self._owed[0][1]) is not None:
            self._owed.popleft()
            self._to_client.write(_SIZE.pack(len(answer)) + answer)


def error_answer(request: Request, code: int) -> bytes:
    """Build the answer that says ``code`` of everything the request asked for."""
    body = BytesIO(request.body)
    match request.api:
        case Api.END_TXN | Api.HEARTBEAT:
            answer = struct.pack(">ih", 0, code)
        case Api.INIT_PRODUCER_ID:
            answer = struct.pack(">ihqh", 0, code, -1, -1)
        case Api.FIND_COORDINATOR:
            answer = struct.pack(">ihhihi", 0, code, -1, -1, 0, -1)
        case Api.ADD_PARTITIONS:
            *_, topics = AddPartitionsToTxnRequest_v0.SCHEMA.decode(body)
            answer = struct.pack(">i", 0) + _per_partition(
                [
                    (topic, [(p, b"") for p in partitions])
                    for topic, partitions in topics
                ],
                code,
            )
        case Api.PRODUCE:
            *_, topics = ProduceRequest_v3.SCHEMA.decode(body)
            # Base offset, append time and (from v5 on) log start are unknown.
            rest = struct.pack(">qq", -1, -1) + (
                struct.pack(">q", -1) if request.version >= 5 else b""
            )
            answer = _per_partition(
                [(topic, [(p, rest) for p, _ in parts]) for topic, parts in topics],
                code,
            ) + struct.pack(">i", 0)
        case _:
            raise NotImplementedError(Api(request.api).name)
    return _SIZE.pack(request.correlation_id) + answer


def _per_partition(
    topics: list[tuple[str, list[tuple[int, bytes]]]], code: int
) -> bytes:
    out = struct.pack(">i", len(topics))
    for topic, partitions in topics:
        name = topic.encode()
        out += struct.pack(f">h{len(name)}si", len(name), name, len(partitions))
        for partition, rest in partitions:
            out += struct.pack(">ih", partition, code) + rest
    return out


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read one frame; nothing at the end of the stream."""
    try:
        (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError:
        return b""
