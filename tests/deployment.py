"""A whole deployment for a test: its own topics and keys, executors as processes.

What an operator does, in the same order: topics, ceremony, settings in the
environment, `wasm-executor`. Each test has topics of its own on the shared broker, and
ends with the history checker's reading of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import wasmtime

from stream_executor.auth.sign import RequestSigner
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.appender import Appender
from stream_executor.kafka.connection import KafkaConnection
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames, desired
from stream_executor.model.request import ModuleName
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.services.ceremony import (
    CeremonyKeys,
    Deployment,
    perform,
    prepare_keys,
)
from stream_executor.wire.modules import encode_module
from stream_executor.wire.results import decode_result
from tests.history import assert_sound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from stream_executor.model.job import Limits
    from stream_executor.model.record import Record
    from stream_executor.model.result import ExecutionResult

ISSUER = "tests"
ADD = (
    '(module (func (export "add") (param i32 i32) (result i32) '
    "local.get 0 local.get 1 i32.add))"
)
READY_S = 60.0
COMMAND = Path(sys.executable).with_name("wasm-executor")
# With the second, what runs is the code that the test imports, wherever it lies.
_INHERITED = {
    name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ
}


def free_port() -> int:
    """Give a port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Executor:
    """One `wasm-executor` process and its children."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def http(self, path: str) -> tuple[int, str]:
        """Ask the HTTP port; (0, "") while it does not answer."""
        address = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    async def ready(self, within_s: float = READY_S) -> None:
        """Wait until it says so; fail with its log."""
        until = time.monotonic() + within_s
        while (await asyncio.to_thread(self.http, "/ready"))[0] != 200:
            if self.process.poll() is not None or time.monotonic() > until:
                message = f"not ready:\n{self.log.read_text()[-4000:]}"
                raise AssertionError(message)
            await asyncio.sleep(0.1)

    def running_lanes(self) -> list[int]:
        """Give the partitions that it serves now, as `/status` says."""
        return [partition for lanes in self._served() for partition in lanes]

    def _served(self) -> list[list[int]]:
        """Give the same by worker."""
        code, text = self.http("/status")
        workers = json.loads(text)["service"]["workers"] if code == 200 else []
        return [
            [one["partition"] for one in worker["lanes"] if one["state"] == "running"]
            for worker in workers
        ]

    async def serving(self, *shares: int) -> None:
        """Wait until its workers run so many lanes each; ready, they only joined."""
        async with asyncio.timeout(READY_S):
            while tuple(map(len, await asyncio.to_thread(self._served))) != shares:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL the supervisor; its workers die with it."""
        self.process.kill()
        self.process.wait()

    async def stop(self, within_s: float = 30.0) -> int:
        """SIGTERM, and give the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, within_s)


@dataclass
class TestDeployment:
    """Names, keys and processes of one deployment."""

    bootstrap: str
    prefix: str
    partitions: int
    folder: Path
    keys: CeremonyKeys
    settings: dict[str, str]
    topics: TopicNames
    audience: str
    secret: str
    view: ControlView
    executors: list[Executor] = field(default_factory=list)

    __test__ = False

    @property
    def connection(self) -> KafkaConnection:
        """The brokers."""
        return KafkaConnection(bootstrap_servers=self.bootstrap)

    def signer(self, subject: str = "agent-7") -> RequestSigner:
        """A signer of the deployment's HS256 secret."""
        return RequestSigner.from_secret(
            self.secret, issuer=ISSUER, subject=subject, audience=self.audience
        )

    async def publish(
        self, name: str, module: str | bytes, grant: Limits | None = None
    ) -> bytes:
        """Publish a module (WAT or binary) as name@version; give its digest."""
        binary = bytes(wasmtime.wat2wasm(module)) if isinstance(module, str) else module
        s256 = hashlib.sha256(binary).digest()
        base, _, version = name.partition("@")
        async with Appender(self.connection) as appender:
            stored = await appender.append(
                self.topics.modules, 0, encode_module(binary), key=s256.hex().encode()
            )
        await self.order(
            lambda orders: orders.publish(
                ModuleName(base, version), s256, len(binary), stored.offset, grant=grant
            )
        )
        return s256

    async def order(self, make: Callable[[Orders], bytes]) -> None:
        """Say something in the control chain, as its administrator."""
        topic = self.topics.control
        async with (
            PartitionReader(self.connection) as reader,
            Appender(self.connection) as appender,
        ):
            end = await reader.end_offset(topic, 0)
            async for records in reader.read(topic, 0, self.view.next_offset, end):
                for record in records:
                    self.view.apply(record.offset, record.timestamp, record.value)
            orders = Orders(self.view, self.keys.administrator, 1)
            await appender.append(topic, 0, make(orders))

    async def ask(
        self,
        appender: Appender,
        partition: int,
        value: bytes,
        signer: RequestSigner | None = None,
    ) -> int:
        """Append a signed request; give its offset."""
        topic = self.topics.requests
        token = (signer or self.signer()).sign(
            topic, partition, value, now_s=int(time.time())
        )
        header = [("authorization", b"Bearer " + token)]
        return (await appender.append(topic, partition, value, header)).offset

    async def records(self, topic: str, partition: int) -> list[Record]:
        """Give everything in a partition."""
        async with PartitionReader(self.connection) as reader:
            end = await reader.end_offset(topic, partition)
            return [r async for rs in reader.read(topic, partition, 0, end) for r in rs]

    async def latencies_ms(self, partition: int) -> dict[int, int]:
        """Give how long each request waited for its answer, by offset."""
        asked = await self.records(self.topics.requests, partition)
        appended = {record.offset: record.timestamp for record in asked}
        waited = {}
        for record in await self.records(self.topics.results, partition):
            result = decode_result(record.value or b"")
            for offset in range(result.offset, result.offset + result.count):
                if offset in appended:
                    waited[offset] = record.timestamp - appended[offset]
        return waited

    async def result(self, partition: int, offset: int) -> ExecutionResult:
        """Wait for the result of one request."""
        async with asyncio.timeout(60):
            while True:
                for record in await self.records(self.topics.results, partition):
                    result = decode_result(record.value or b"")
                    if result.offset <= offset < result.offset + result.count:
                        return result
                await asyncio.sleep(0.1)

    async def command(
        self, *arguments: str, command: Path = COMMAND
    ) -> tuple[int, str, str]:
        """Run `wasm-executor ...` with this deployment's settings."""
        process = await asyncio.create_subprocess_exec(
            command,
            *arguments,
            env={**_INHERITED, **self.settings},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def configure(self, topic: str, name: str, value: str) -> None:
        """Change a topic's setting, as somebody with the rights could."""
        async with KafkaAdmin(self.connection) as admin:
            await admin._configure([(topic, name, value)])

    def start(self, command: Path = COMMAND, **settings: str) -> Executor:
        """Start one executor process; give it before it is ready."""
        number = len(self.executors)
        port = free_port()
        log = self.folder / f"executor-{number}.log"
        environment = {
            **_INHERITED,
            **self.settings,
            "METRICS_PORT": str(port),
            "WASM_EXECUTOR_INSTANCE_ID": f"{self.prefix}-{number}",
            "WASM_EXECUTOR_STATE_DIR": str(self.folder / f"state-{number}"),
            **settings,
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                [command], env=environment, stdout=out, stderr=out, cwd=self.folder
            )
        executor = Executor(process, port, log)
        self.executors.append(executor)
        return executor


@asynccontextmanager
async def deployment(
    bootstrap: str,
    folder: Path,
    partitions: int = 4,
    *,
    damaged: Mapping[str, str] | None = None,
) -> AsyncIterator[TestDeployment]:
    """Begin a deployment with topics of its own; kill what it started at the end.

    Then, unless the block failed, its history must be sound (``assert_sound``).

    Args:
        bootstrap: a broker.
        folder: for keys, states and logs.
        partitions: of requests, results and audit.
        damaged: what the block does to the logs: counter of ``tests.history`` to why
            it will not be zero. It must then not be.
    """
    prefix = f"t{secrets.token_hex(4)}"
    topics = TopicNames(**{f: f"{prefix}.{f}" for f in TopicNames.__struct_fields__})
    connection = KafkaConnection(bootstrap_servers=bootstrap)
    keys = prepare_keys(folder / "keys")
    async with KafkaAdmin(connection) as admin:
        facts = await admin.cluster()
        await admin.apply(desired(topics, partitions=partitions, brokers=facts.brokers))
    async with PartitionReader(connection) as reader, Appender(connection) as appender:
        report = await perform(
            Deployment(prefix, facts.cluster_id, topics),
            keys,
            reader,
            appender,
            lambda: time.time_ns() // 1_000_000,
        )
    secret = secrets.token_urlsafe(40)
    settings = dict(line.split("=", 1) for line in report.settings_lines)
    settings |= {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "JWT_SECRET": secret,
        "WASM_EXECUTOR_JWT_SECRET_ISSUERS": ISSUER,
        "WASM_EXECUTOR_APP_ID": prefix,
        "WASM_EXECUTOR_REQUESTS_TOPIC": topics.requests,
        "WASM_EXECUTOR_RESULTS_TOPIC": topics.results,
        "WASM_EXECUTOR_AUDIT_TOPIC": topics.audit,
        "WASM_EXECUTOR_MODULES_TOPIC": topics.modules,
        "WASM_EXECUTOR_CONTROL_TOPIC": topics.control,
        "WASM_EXECUTOR_CHECKPOINTS_TOPIC": topics.checkpoints,
        "WORKERS": "1",
        "WASM_EXECUTOR_CHILDREN": "1",
        "ENABLE_AUDIT_LOGGING": "false",
    }
    made = TestDeployment(
        bootstrap, prefix, partitions, folder, keys, settings, topics,
        f"{prefix}/{facts.cluster_id}", secret,
        ControlView(keys.operator.public_key().public_bytes_raw()),
    )  # fmt: skip
    try:
        yield made
    finally:
        for executor in made.executors:
            if executor.process.poll() is None:
                executor.kill()
    await assert_sound(made, damaged)
