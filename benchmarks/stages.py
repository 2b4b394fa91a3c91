"""What each stage of a request's way costs, in CPU microseconds, without a broker.

    python -m benchmarks.stages [--count N] [--runs N] [--json FILE]

Each stage runs alone over the same signed requests, warm, in one process; the figure is
the median over runs of the process's CPU time divided by the requests. Beside it stands
what the plain loop (``plain_loop``) pays for the same step, from the same run. Sockets,
the event loop and transactions are not here: see ``end_to_end``.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import hashlib
import secrets
import struct
import time
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.machine import cpu_us, facts, note, settle
from benchmarks.plain_loop import Orders as PlainOrders
from benchmarks.plain_loop import PlainService
from benchmarks.report import table, write_json
from benchmarks.workload import (
    GUESTS,
    ISSUER,
    Guest,
    Signers,
    body,
    new_secret,
    signed,
)
from stream_executor.audit.chain import ChainHead
from stream_executor.audit.digests import Salter
from stream_executor.audit.signing import certify, public_bytes
from stream_executor.audit.signing import signed as seal_signed
from stream_executor.auth.deny import DenyList
from stream_executor.auth.jwks import read_jwk_set
from stream_executor.auth.keys import KeySet, Scope, secret_key
from stream_executor.auth.policy import Policy
from stream_executor.auth.replay import ReplayBudget, ReplayWindow
from stream_executor.auth.token import Place, TokenProfile, VerifiedToken, verify_token
from stream_executor.kafka.batches import parse_batches
from stream_executor.kafka.records import open_batches
from stream_executor.lane.admission import (
    Admission,
    AdmissionContext,
    Ceilings,
    Verified,
)
from stream_executor.lane.conclusion import LaneIdentity, Transaction, conclude
from stream_executor.lane.entries import Admitted
from stream_executor.lane.head import LEAST_HORIZON_MS, LaneHead
from stream_executor.model.audit import ContextDigests, RequestExecuted, Seal
from stream_executor.model.control import KeyPurpose
from stream_executor.model.job import Job, Limits, Report
from stream_executor.model.request import ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.engine import Engine
from stream_executor.sandbox.guest import Guest as LoadedGuest
from stream_executor.sandbox.inspect import inspect_module
from stream_executor.sandbox.local import LocalSandbox
from stream_executor.sandbox.native import Native
from stream_executor.sandbox.probe import compile_module
from stream_executor.sandbox.wasi_host import WasiHost
from stream_executor.wire.avro import CODECS, decode
from stream_executor.wire.requests import decode_request
from stream_executor.wire.results import decode_result, encode_avro, encode_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.model.record import Record

COUNT: Final = 3_000
RUNS: Final = 7
COLUMNS: Final = ("CPU µs per request", "ours", "plain loop", "ratio")
TOPIC: Final = "wasm.requests"
AUDIENCE: Final = "bench/stages"
PLACE: Final = (TOPIC, 0)
LIMITS: Final = Limits(5_000_000, 64 << 20, 5_000)
BATCH: Final = 100  # records of one produced batch
CHUNK: Final = 200  # records of one poll
TRANSACTION: Final = 450  # requests of one transaction under load
_REPLAY_BYTES: Final = 256 << 20
_LOG_APPEND_TIME: Final = 0x08
_BATCH_BYTES: Final = 900_000
_UNLIMITED: Final = 1 << 30


class Cost(NamedTuple):
    """One row.

    Attributes:
        stage: its name.
        us: CPU microseconds of one request.
        plain_us: what the plain loop pays for the same step; None if it has none.
    """

    stage: str
    us: float
    plain_us: float | None = None


class Bench:
    """The deployment's values, and the same requests in every form."""

    def __init__(self, count: int, runs: int) -> None:
        self.count, self.runs = count, runs
        self.signers = Signers(new_secret(), AUDIENCE)
        scope = Scope(frozenset({ISSUER}), AUDIENCE)
        self.keys = KeySet(
            (
                secret_key(self.signers.secret, scope),
                *read_jwk_set(self.signers.jwks, scope).keys,
            )
        )
        self.context = self._context()
        self.now_ms = int(time.time() * 1000)

    def _context(self) -> AdmissionContext:
        operator = Ed25519PrivateKey.generate()
        view = ControlView(public_bytes(operator))
        orders = Orders(view, operator, 1)
        view.apply(0, 1, orders.genesis("bench", "cluster", AUDIENCE))
        administrator = public_bytes(operator)
        view.apply(1, 1, orders.enrol(KeyPurpose.ADMINISTRATOR, administrator, "a"))
        for offset, guest in enumerate(GUESTS.values(), start=2):
            s256 = hashlib.sha256(guest.binary).digest()
            name = ModuleName(guest.function, "1")
            view.apply(offset, 1, orders.publish(name, s256, len(guest.binary), 0))
        policy = Policy.parse(b"")
        digests = ContextDigests(
            view.next_offset, view.head, policy.s256, self.keys.digest
        )
        return AdmissionContext(
            self.keys, TokenProfile(), policy, DenyList.of(view.denied), view,
            Ceilings(LIMITS, 10 << 20, LIMITS, 32 << 20, 500_000), digests,
        )  # fmt: skip

    def fetched(self, algorithm: str, guest: Guest) -> bytes:
        """Give a fetch response's bytes with signed requests, as a broker has them."""
        ids = (f"r-{number}" for number in range(self.count))
        # Signed at the records' own time, however long the stages before took.
        now_s = self.now_ms // 1000
        requests = list(
            signed(self.signers, algorithm, guest, PLACE, ids, lambda: now_s)
        )
        return b"".join(
            _stored(start, requests[start : start + BATCH], self.now_ms)
            for start in range(0, self.count, BATCH)
        )

    def records(self, algorithm: str, guest: Guest) -> list[Record]:
        """Give the records of such bytes."""
        return _decoded(self.fetched(algorithm, guest))

    def admission(self) -> Admission:
        """Give a lane's admission that has seen nothing."""
        window = ReplayWindow(ReplayBudget(_REPLAY_BYTES), LEAST_HORIZON_MS)
        salter = Salter(secrets.token_bytes(32), bytes(16))
        return Admission(Place(TOPIC, 0), salter, window, 0)

    def admit(self, records: list[Record]) -> list[Admitted]:
        """Decide on all of them; every one must be admitted."""
        admission, context, now_ms = self.admission(), self.context, self.now_ms
        admitted = []
        for record in records:
            verified = admission.verify(record, context, now_ms)
            assert isinstance(verified, Verified), verified
            placed = admission.place_module(verified, context, view_confirmed=True)
            assert isinstance(placed, Admitted), placed
            admitted.append(placed)
        return admitted

    def us(self, work: Callable[[], object], count: int | None = None) -> float:
        """Measure something that does ``count`` (all) requests."""
        return cpu_us(work, count or self.count, self.runs)


def _stored(base: int, requests: list[Any], now_ms: int) -> bytes:
    """Build one batch and mark it as a broker does: offsets, its own time, CRC."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=0, producer_id=-1,
        producer_epoch=-1, base_sequence=-1, batch_size=_BATCH_BYTES,
    )  # fmt: skip
    for index, request in enumerate(requests):
        builder.append(index, now_ms, None, request.value, request.headers)
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, base)
    data[22] |= _LOG_APPEND_TIME
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


def _decoded(data: bytes) -> list[Record]:
    return list(chain.from_iterable(open_batches(data, parse_batches(data), (), 0)))


def _plain(bench: Bench, algorithm: str) -> PlainService:
    hs256 = algorithm == "HS256"
    key: Any = bench.signers.secret if hs256 else bench.signers.key.jwk
    modules = {guest.name: guest.binary for guest in GUESTS.values()}
    return PlainService(
        PlainOrders(
            "", "", TOPIC, "", "", {}, algorithm, key, ISSUER, AUDIENCE, modules
        )
    )


class _PlainRecord(msgspec.Struct):
    """What aiokafka's consumer hands to the plain loop."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def _as_plain(records: list[Record]) -> list[Any]:
    return [
        _PlainRecord(TOPIC, 0, r.offset, r.timestamp, r.value or b"", tuple(r.headers))
        for r in records
    ]


# -- the stages --------------------------------------------------------------------


def admission_costs(bench: Bench) -> list[Cost]:
    """Measure everything before the guest."""
    data = bench.fetched("HS256", GUESTS["add"])
    costs = [Cost("decode fetch", bench.us(lambda: _decoded(data)))]
    for algorithm in ("HS256", "EdDSA"):
        records = bench.records(algorithm, GUESTS["add"])
        plain = _as_plain(records)
        costs.append(
            Cost(
                f"verify token {algorithm}",
                bench.us(partial(_verify, bench, records)),
                bench.us(partial(_plain_verify, bench, algorithm, plain)),
            )
        )
    records = bench.records("HS256", GUESTS["add"])
    costs.append(Cost("replay window", bench.us(lambda: _spend(bench.count))))
    for name, avro in (("JSON", False), ("Avro", True)):
        bodies = [body(GUESTS["add"], f"r-{n}", avro=avro) for n in range(bench.count)]
        decode_all = partial(_each, decode_request, bodies)
        costs.append(Cost(f"decode request {name}", bench.us(decode_all)))
    costs.append(Cost("admit, all of it", bench.us(lambda: bench.admit(records))))
    return costs


def _verify(bench: Bench, records: list[Record]) -> None:
    place, keys, profile = Place(TOPIC, 0), bench.keys, TokenProfile()
    now_ms = bench.now_ms
    for record in records:
        token = verify_token(record.headers, record.value, place, now_ms, keys, profile)
        assert isinstance(token, VerifiedToken), token


def _plain_verify(bench: Bench, algorithm: str, records: list[Any]) -> None:
    service = _plain(bench, algorithm)
    for record in records:
        service.verify(record)


def _spend(count: int) -> None:
    window = ReplayWindow(ReplayBudget(_REPLAY_BYTES), LEAST_HORIZON_MS)
    random = secrets.token_bytes(16 * count)
    for at in range(0, len(random), 16):
        window.spend(random[at : at + 16], 1)


def guest_costs(bench: Bench) -> list[Cost]:
    """Measure the guest in this process, as a child runs it."""
    costs = []
    native = Native()
    engine = Engine(native, 1 << 20)
    host = WasiHost(engine)
    plain = _plain(bench, "HS256")
    for name, guest in GUESTS.items():
        binary = guest.binary
        text, vec = compile_module(native, engine, binary)
        assert not text, text
        assert vec.data is not None
        loaded = LoadedGuest(
            engine, inspect_module(binary), (vec.data, vec.size), host.linker
        )
        native.quick.byte_vec_delete(ctypes.addressof(vec))
        job = bench.admit(bench.records("HS256", guest)[:1])[0].job
        assert loaded.call(job).code is None
        args = list(guest.args)
        costs.append(
            Cost(
                f"guest {name}",
                bench.us(partial(_repeat, bench.count, loaded.call, job)),
                bench.us(
                    partial(
                        _repeat, bench.count, plain.call, guest.name, guest.function,
                        args,
                    )
                ),
            )
        )  # fmt: skip
        loaded.close()
    return costs


def _each(work: Callable[[bytes], object], values: list[bytes]) -> None:
    for value in values:
        work(value)


def _repeat(count: int, work: Callable[..., object], *args: object) -> None:
    for _ in range(count):
        work(*args)


async def _hop(bench: Bench, jobs: list[Job], binary: bytes) -> tuple[float, float]:
    """Send jobs to a child in chunks of a poll; CPU of parent and child a job."""
    async with LocalSandbox(SandboxConfig(children=1)) as sandbox:
        sandbox.add(binary)
        await sandbox.run(jobs)
        parent, child = [], []
        for _ in range(bench.runs):
            before, own = _child_cpu(sandbox), time.process_time_ns()
            for start in range(0, len(jobs), CHUNK):
                await sandbox.run(jobs[start : start + CHUNK])
            parent.append((time.process_time_ns() - own) / 1e3 / len(jobs))
            child.append((_child_cpu(sandbox) - before) / 1e3 / len(jobs))
    return sorted(parent)[len(parent) // 2], sorted(child)[len(child) // 2]


def _child_cpu(sandbox: LocalSandbox) -> int:
    # What the children say of themselves with each reply.
    return sum(child.cpu_ns for child in sandbox.pool._children)  # noqa: SLF001


def hop_costs(bench: Bench) -> list[Cost]:
    """Measure the way to the child and back, with the guest in it."""
    costs = []
    for name, guest in GUESTS.items():
        jobs = [e.job for e in bench.admit(bench.records("HS256", guest))]
        parent, child = asyncio.run(_hop(bench, jobs, guest.binary))
        costs.append(Cost(f"hop to the child, worker's side ({name})", parent))
        costs.append(Cost(f"child: frames and guest ({name})", child))
    return costs


def conclusion_costs(bench: Bench) -> list[Cost]:
    """Measure everything after the guest."""
    entries = bench.admit(bench.records("HS256", GUESTS["add"]))
    report = Report(output=pack_value(ValueType.I32, 5), fuel_consumed=4)
    reports = [report] * len(entries)
    process, fleet = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    identity = LaneIdentity(
        TOPIC, 0, bytes(16), 1, certify(public_bytes(process), fleet, 1),
        "wasmtime-py/50.0.1 native/0123456789abcdef0123456789abcdef", encode_json,
        _UNLIMITED, LEAST_HORIZON_MS,
    )  # fmt: skip

    def conclude_all() -> list[Transaction]:
        head = LaneHead(ChainHead(), 0)
        made = []
        for start in range(0, len(entries), TRANSACTION):
            part = slice(start, start + TRANSACTION)
            made.append(conclude(identity, process, head, entries[part], reports[part]))
            head = made[-1].head
        return made

    made = conclude_all()
    results = [decode_result(record.value) for t in made for record in t.results]
    leaves = [decode(value) for t in made for value in t.audit]
    events = [leaf for leaf in leaves if isinstance(leaf, RequestExecuted)]
    seal = next(leaf for leaf in leaves if isinstance(leaf, Seal))
    event, count = CODECS[RequestExecuted].encode, bench.count
    seals = range(max(1, count // TRANSACTION))
    return [
        Cost("conclude, all of it", bench.us(conclude_all)),
        Cost("encode result JSON", bench.us(lambda: [encode_json(r) for r in results])),
        Cost("encode result Avro", bench.us(lambda: [encode_avro(r) for r in results])),
        Cost("encode event", bench.us(lambda: [event(value) for value in events])),
        Cost(
            f"seal (1 for {TRANSACTION} requests)",
            bench.us(lambda: [seal_signed(seal, process) for _ in seals]),
        ),
        Cost("build the produced batches", bench.us(lambda: _build(made))),
    ]


def _build(transactions: list[Transaction]) -> None:
    for transaction in transactions:
        for values in ([r.value for r in transaction.results], transaction.audit):
            batch = BatchBuilder(_BATCH_BYTES, 0)
            for value in values:
                batch.append(timestamp=None, key=None, value=value, headers=[])
            batch.close()
            batch._build()  # noqa: SLF001 - what aiokafka's sender does


def plain_whole(bench: Bench) -> Cost:
    """Measure everything but Kafka of the plain loop."""
    records = _as_plain(bench.records("HS256", GUESTS["add"]))

    def work() -> None:
        service = _plain(bench, "HS256")
        for record in records:
            service.answer(record)
        assert not service.failed

    return Cost("plain loop, all but Kafka", 0.0, bench.us(work))


def measure(count: int, runs: int) -> list[Cost]:
    """Measure all stages."""
    bench = Bench(count, runs)
    settle()
    costs = []
    for part in (admission_costs, guest_costs, hop_costs, conclusion_costs):
        note(f"stages: {part.__name__.replace('_', ' ')}")
        costs += part(bench)
    ours = {cost.stage: cost.us for cost in costs}
    whole = sum(
        ours[stage]
        for stage in (
            "decode fetch",
            "admit, all of it",
            "hop to the child, worker's side (add)",
            "child: frames and guest (add)",
            "conclude, all of it",
            "build the produced batches",
        )
    )
    plain = plain_whole(bench)
    return [*costs, Cost("all but sockets and transactions", whole, plain.plain_us)]


def rows(costs: list[Cost]) -> list[list[str | float | None]]:
    """Give the table's rows."""
    return [
        [
            cost.stage,
            cost.us,
            cost.plain_us,
            None if cost.plain_us is None else cost.plain_us / cost.us,
        ]
        for cost in costs
    ]


def document(costs: list[Cost]) -> dict[str, dict[str, float]]:
    """Give the figures as plain data."""
    return {
        cost.stage: {
            key: round(value, 2)
            for key, value in (("us", cost.us), ("plain_us", cost.plain_us))
            if value is not None
        }
        for cost in costs
    }


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    costs = measure(given.count, given.runs)
    print(table(COLUMNS, rows(costs)))
    if given.json:
        write_json(given.json, {"machine": facts(), "stages": document(costs)})


if __name__ == "__main__":
    main()
