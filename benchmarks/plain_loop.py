"""The loop that a team would write first, as the yardstick: one process, no frills.

aiokafka's ``getmany``, PyJWT, wasmtime's public API with a fresh store and instance,
orjson, ``producer.send``, flush, commit of the offsets. It makes the same checks on the
same records as the service and chains its audit events, but: at least once, the guest
runs in the process that holds the keys, no limit but fuel and memory, spent jtis are
forgotten with the process, one bad record may stop it.

Run by ``end_to_end`` with ``Orders`` as one line of JSON on standard input; says
``ready``, waits for a line, answers every request up to the given ends and prints
``Answer`` as one line of JSON. Used by ``stages`` without Kafka.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import resource
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import jwt
import msgspec
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from wasmtime import Config, Engine, Func, Instance, Module, Store

from benchmarks.machine import settle

if TYPE_CHECKING:
    from collections.abc import Callable

_FUEL: Final = 5_000_000
_MEMORY_BYTES: Final = 64 << 20
_REQUIRED: Final[Any] = {"require": ["exp", "iat", "aud", "iss", "sub", "jti"]}
_MAX_APPEND_AGE_S: Final = 120
_POLL_MS: Final = 100


class Orders(msgspec.Struct, frozen=True):
    """What a run does.

    Attributes:
        requests, results, audit: topic names.
        positions: by partition: first offset, and the one to stop before.
        algorithm: of all tokens.
        key: the HS256 secret, or the public JWK.
        modules: binaries by name@version.
    """

    bootstrap: str
    group: str
    requests: str
    results: str
    audit: str
    positions: dict[int, tuple[int, int]]
    algorithm: str
    key: bytes | dict[str, str]
    issuer: str
    audience: str
    modules: dict[str, bytes]


class Answer(msgspec.Struct, frozen=True):
    """What a run took: from the first poll to the last commit."""

    count: int
    failed: int
    seconds: float
    cpu_s: float
    resident_mb: float


class RefusedError(Exception):
    """The request does not run."""


class PlainService:
    """Everything but Kafka."""

    def __init__(self, orders: Orders) -> None:
        config = Config()
        config.consume_fuel = True
        self._engine = Engine(config)
        self._modules = {
            name: Module(self._engine, binary)
            for name, binary in orders.modules.items()
        }
        self._orders = orders
        self._key: Any = (
            orders.key if isinstance(orders.key, bytes) else jwt.PyJWK(orders.key)
        )
        self._spent: set[str] = set()
        self._chain: dict[int, tuple[int, str]] = {}
        self.failed = 0

    def verify(self, record: Any) -> dict[str, Any]:
        """Give the claims of the record's token, or say why not."""
        credentials = dict(record.headers).get("authorization", b"")
        if not credentials.startswith(b"Bearer "):
            raise RefusedError("no bearer token")
        orders = self._orders
        claims: dict[str, Any] = jwt.decode(
            credentials[7:],
            self._key,
            algorithms=[orders.algorithm],
            audience=orders.audience,
            issuer=orders.issuer,
            options=_REQUIRED,
        )
        bound = claims["wx"]
        digest = hashlib.sha256(record.value).digest()
        if bound["topic"] != record.topic or bound["partition"] != record.partition:
            raise RefusedError("signed for another place")
        if bound["body_s256"] != _base64url(digest):
            raise RefusedError("signed for another body")
        if record.timestamp / 1000 > claims["iat"] + _MAX_APPEND_AGE_S:
            raise RefusedError("appended too late")
        if claims["role"] not in ("Agent", "Administrator"):
            raise RefusedError("role")
        if claims["jti"] in self._spent:
            raise RefusedError("replayed")
        self._spent.add(claims["jti"])
        return claims

    def call(
        self, module: str, function: str, args: list[int]
    ) -> tuple[list[dict[str, int]], int]:
        """Run a function in a fresh store; give typed results and fuel."""
        store = Store(self._engine)
        store.set_fuel(_FUEL)
        store.set_limits(memory_size=_MEMORY_BYTES)
        instance = Instance(store, self._modules[module], [])
        called = instance.exports(store)[function]
        if not isinstance(called, Func):
            raise RefusedError("no such function")
        given = called(store, *args)
        types = called.type(store).results
        values = [given] if len(types) == 1 else (given or [])
        outputs = [{str(t): v} for t, v in zip(types, values, strict=True)]
        return outputs, _FUEL - store.get_fuel()

    def answer(self, record: Any) -> tuple[bytes, bytes]:
        """Give the values of the result and of the audit event."""
        claims: dict[str, Any] = {}
        request: dict[str, Any] = {}
        outputs: list[dict[str, int]] = []
        status, error, fuel, duration_us = "SUCCEEDED", None, 0, 0
        try:
            claims = self.verify(record)
            request = orjson.loads(record.value)
            invocation = request["invocation"]
            args = [next(iter(arg.values())) for arg in invocation["args"]]
            started = time.perf_counter_ns()
            outputs, fuel = self.call(request["module"], invocation["function"], args)
            duration_us = (time.perf_counter_ns() - started) // 1000
        except Exception as failure:  # noqa: BLE001 - whatever a library raises
            status, error = "REJECTED", str(failure)
            self.failed += 1
        partition = record.partition
        seq, before = self._chain.get(partition, (0, "0" * 64))
        result = {
            "source": {
                "topic": record.topic,
                "partition": partition,
                "offset": record.offset,
            },
            "request_id": request.get("request_id"),
            "status": status,
            "error": error,
            "outputs": outputs,
            "fuel_consumed": fuel,
            "duration_us": duration_us,
            "audit": {"partition": partition, "seq": seq},
        }
        event = orjson.dumps(
            {
                "seq": seq,
                "prev": before,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "status": status,
                "iss": claims.get("iss"),
                "sub": claims.get("sub"),
                "jti": claims.get("jti"),
                "body_s256": claims.get("wx", {}).get("body_s256"),
                "output_s256": hashlib.sha256(orjson.dumps(outputs)).hexdigest(),
                "fuel": fuel,
                "decided_ms": time.time_ns() // 1_000_000,
            }
        )
        self._chain[partition] = (seq + 1, hashlib.sha256(event).hexdigest())
        return orjson.dumps(result), event


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def run(orders: Orders, go: Callable[[], object]) -> Answer:
    """Answer every request of the positions; ``go`` returns when it may begin."""
    service = PlainService(orders)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=orders.bootstrap,
        group_id=orders.group,
        isolation_level="read_committed",
        enable_auto_commit=False,
    )
    producer = AIOKafkaProducer(bootstrap_servers=orders.bootstrap, acks="all")
    await producer.start()
    await consumer.start()
    for topic in (orders.results, orders.audit):
        await producer.partitions_for(topic)
    left = {
        TopicPartition(orders.requests, partition): end
        for partition, (_, end) in orders.positions.items()
    }
    consumer.assign(list(left))
    for place in left:
        consumer.seek(place, orders.positions[place.partition][0])
    settle()
    await asyncio.to_thread(go)
    started, cpu, count = time.perf_counter(), time.process_time(), 0
    while left:
        sends = []
        for place, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
            for record in records:
                result, event = service.answer(record)
                for topic, value in ((orders.results, result), (orders.audit, event)):
                    sends.append(
                        await producer.send(topic, value, partition=place.partition)
                    )
                if record.offset + 1 >= left.get(place, 0):
                    left.pop(place, None)
            count += len(records)
        if not sends:
            continue
        await producer.flush()
        for sent in sends:
            sent.result()
        await consumer.commit()
    answer = Answer(
        count,
        service.failed,
        time.perf_counter() - started,
        time.process_time() - cpu,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    )
    await consumer.stop()
    await producer.stop()
    return answer


def be_a_process(run: Callable[[Orders, Callable[[], object]], Any]) -> None:
    """Take orders on standard input, run when told to, print the answer."""
    orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)

    def go() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    answer = uvloop.run(run(orders, go))
    print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    be_a_process(run)
