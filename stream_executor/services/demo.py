"""``wasm-executor demo``: everything once, shown and checked.

A Kafka, an executor, three modules, signed requests through the SDK, three forgeries
that are refused, and the audit log verified. Each promise is compared with what came:
the exit code is 0 only if all were kept.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from stream_executor.client.client import ExecutorClient
from stream_executor.client.credentials import read_credentials
from stream_executor.client.request import call, command, transform
from stream_executor.model.codes import CODES, Code
from stream_executor.services.dev_stack import EXAMPLES, DevStack

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.client.credentials import Credentials
    from stream_executor.client.ports import Signer
    from stream_executor.client.result import Result
    from stream_executor.model.request import ExecutionRequest
    from stream_executor.services.audit_verification import VerifyReport

_MODULES = {"add@1": "add.wat", "upper@1": "upper.wat", "count@1": "count.wat"}
_TIMEOUT_S = 30.0
_FORGED_SECRET = "n0t-the-deployments-secret-But-10ng-en0ugh-t0-Sign"  # noqa: S105 - that is the point
_EXIT_OK, _EXIT_BROKEN_PROMISE = 0, 1


class Row(NamedTuple):
    """One request of the demonstration."""

    what: str
    wanted: str
    got: str

    @property
    def kept(self) -> bool:
        """Whether it came out as promised."""
        return self.wanted == self.got


def run_demo() -> int:
    """Run the demonstration on a stack of its own, which it leaves nothing of.

    Returns:
        0 if every promise was kept, else 1.

    Raises:
        EmbeddedKafkaError, DevStackError: the stack cannot start.
    """
    began = time.monotonic()
    _say("Starting Apache Kafka and an executor on this machine.")
    with DevStack(tell=_progress) as stack:
        _progress("")
        _say(f"  Kafka {stack.kafka_version} at {stack.bootstrap}, executor ready")
        _say("\nPublishing modules, each signed by an Administrator:")
        for name, file in _MODULES.items():
            digest = stack.publish(name, (EXAMPLES / file).read_text())
            _say(f"  {name:8} sha256:{digest[:16]}…")
        credentials = read_credentials(stack.credentials)
        executed = asyncio.run(_execute(credentials))
        _table("\nSigned requests, each answered exactly once:", executed)
        refused = asyncio.run(_attack(credentials))
        _table("\nRequests that must not run, and do not:", refused)
        _say("\nVerifying the audit log, with the operator's public key alone:")
        report = asyncio.run(_verify(credentials))
        verified = _print_report(report, len(executed), refused)
    kept = verified and all(row.kept for row in (*executed, *refused))
    took = time.monotonic() - began
    if not kept:
        _say(f"\nSomething is not as promised ({took:.1f} s).")
        return _EXIT_BROKEN_PROMISE
    _say(f"\nAll as promised, in {took:.1f} s. To go on: make dev")
    return _EXIT_OK


async def _execute(credentials: Credentials) -> list[Row]:
    """Ask for one execution of each kind."""
    cases: list[tuple[str, ExecutionRequest, str, Callable[[Result], str]]] = [
        (
            "add@1: call add(2, 3)",
            call("add@1", "add", [2, 3]),
            "5",
            lambda result: str(result.value),
        ),
        (
            "upper@1: bytes 'signed, sealed'",
            transform("upper@1", b"signed, sealed"),
            "SIGNED, SEALED",
            lambda result: result.output.decode(),
        ),
        (
            "count@1: WASI command, 1,000 bytes of stdin",
            command("count@1", stdin=bytes(1000)),
            "1000 bytes",
            lambda result: result.stdout.decode().strip(),
        ),
    ]
    async with _client(credentials) as client:
        submissions = await client.submit_many(request for _, request, _, _ in cases)
        rows = []
        for submission, (what, _, wanted, shown) in zip(
            submissions, cases, strict=True
        ):
            result = await client.result(submission)
            got = shown(result) if result.ok else f"{result.code}: {result.message}"
            rows.append(Row(what, wanted, got))
        return rows


async def _attack(credentials: Credentials) -> list[Row]:
    """Forge, tamper, replay; give the codes."""
    signer = credentials.signer()
    request = call("add@1", "add", [2, 3])
    replaying = _Replaying(signer)
    async with _client(credentials, replaying) as client:
        await client.result(await client.submit(request, partition=0))
    attacks: list[tuple[str, Signer, Code]] = [
        ("forged: signed with another secret", _forger(credentials),
         Code.AUTH_BAD_SIGNATURE),
        ("tampered: the body changed after signing", _Tampering(signer),
         Code.AUTH_WRONG_BINDING),
        ("replayed: a token that was used before", replaying, Code.AUTH_REPLAYED),
    ]  # fmt: skip
    rows = []
    for what, attacker, code in attacks:
        async with _client(credentials, attacker) as client:
            result = await client.result(await client.submit(request, partition=0))
        rows.append(Row(what, code.value, result.code or "it ran!"))
    return rows


def _client(credentials: Credentials, signer: Signer | None = None) -> ExecutorClient:
    return ExecutorClient(credentials=credentials, signer=signer, timeout_s=_TIMEOUT_S)


def _forger(credentials: Credentials) -> Signer:
    from stream_executor.auth.sign import RequestSigner  # noqa: PLC0415 - as `signer`

    return RequestSigner.from_secret(
        _FORGED_SECRET,
        issuer=credentials.issuer,
        subject=credentials.subject,
        audience=credentials.audience,
    )


class _Tampering:
    """Signs another body than the one that is sent."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def sign(self, topic: str, partition: int, value: bytes, *, now_s: int) -> bytes:
        return self._signer.sign(topic, partition, value + b" ", now_s=now_s)


class _Replaying:
    """Signs once and gives the same token ever after."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._token: bytes | None = None

    def sign(self, topic: str, partition: int, value: bytes, *, now_s: int) -> bytes:
        if self._token is None:
            self._token = self._signer.sign(topic, partition, value, now_s=now_s)
        return self._token


async def _verify(credentials: Credentials) -> VerifyReport:
    from stream_executor.kafka.connection import KafkaConnection  # noqa: PLC0415
    from stream_executor.kafka.gaps import GapProver  # noqa: PLC0415 - as below
    from stream_executor.kafka.reader import PartitionReader  # noqa: PLC0415
    from stream_executor.kafka.topics import TopicNames  # noqa: PLC0415 - as below
    from stream_executor.services.audit_reading import AuditSource  # noqa: PLC0415
    from stream_executor.services.audit_verification import (  # noqa: PLC0415 - late
        Thoroughness,
        verify,
    )

    connection = KafkaConnection(bootstrap_servers=credentials.bootstrap_servers)
    operator = bytes.fromhex(credentials.operator_public_key or "")
    async with PartitionReader(connection) as reader, GapProver(connection) as prover:
        return await verify(
            AuditSource(reader, TopicNames(), operator),
            Thoroughness(results=True, requests=True, prover=prover),
        )


def _print_report(report: VerifyReport, executed: int, refused: list[Row]) -> bool:
    """Print what a verification came to; tell whether it is what was promised."""
    for one in report.partitions:
        _say(
            f"  partition {one.partition}: {one.verdict.value}, {one.size} leaves, "
            f"{one.answered} requests answered, {one.gaps} gaps"
        )
        for finding in one.findings:
            _say(f"    {finding.code.value} at offset {finding.offset}")
    answered = sum(one.answered for one in report.partitions)
    # The replayed token's first use was a request too.
    asked = executed + 1 + len(refused)
    _say(f"  verify: {report.verdict.value}; {answered} of {asked} requests answered")
    return report.verdict.value != "finding" and answered == asked


def _table(title: str, rows: list[Row]) -> None:
    _say(title)
    width = max(len(row.what) for row in rows)
    for row in rows:
        mark = "ok" if row.kept else f"NOT AS PROMISED, expected {row.wanted}"
        _say(f"  {row.what:{width}}  {row.got:20}  {mark}")
        entry = CODES.get(Code(row.got)) if row.got in set(Code) else None
        if entry is not None:
            _say(f"  {'':{width}}  {entry.meaning}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}{'…' if text else ''}")
        sys.stderr.flush()
