"""A Kafka and an executor on this machine: what ``dev`` and ``demo`` stand on.

First start in a folder: Kafka, topics, ceremony, an example module, executor. Every
later start finds all that done and starts Kafka and the executor side by side.
Real processes throughout: what runs here is what runs in production, but for the
number of nodes and the keys, which lie in one folder.

Blocking; start and stop from the main thread only, for the kernel ends the executor
with the thread that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from stream_executor.client.credentials import Credentials, write_credentials
from stream_executor.embedded import KAFKA_VERSION, EmbeddedKafka
from stream_executor.services.dev_ground import (
    DevStackError,
    free_port,
    need_port,
    take_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from stream_executor.services.ceremony import CeremonyReport

EXAMPLES = Path(__file__).parent.parent / "examples"
EXAMPLE = "add@1"
_NAME = "wasm-executor"
_READY_S = 60.0
_STOP_S = 30.0  # the drain budget of 20 s and the supervisor's margin
_LOG_CHARACTERS = 3000
_LISTENS = "supervisor.started"
_POLL_S = 0.02
# What of our own environment an executor may see: nothing that configures it.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV")


class _Begun(msgspec.Struct, frozen=True):
    """What a folder remembers of its first start."""

    settings: dict[str, str]
    credentials: Credentials


class DevStack:
    """One Kafka node and one executor; a context manager.

    Args:
        data: folder to keep everything in; None is a temporary one that goes.
        partitions: of requests, results and audit, at the first start.
        port: HTTP port; None takes 9090 if it is free, else any.
        tell: told in a few words what is being done.

    Attributes:
        bootstrap, http: addresses, once started.
        folder: keys, credentials, logs.
        new: whether this start began the folder.
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        partitions: int = 4,
        port: int | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._data = None if data is None else data.absolute()
        self._partitions = partitions
        self._port = port
        self._tell = tell
        self._kafka = EmbeddedKafka(
            None if self._data is None else self._data / "kafka"
        )
        self._executor: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._log_from = 0  # a kept folder's log has earlier starts, too
        self.folder = Path()
        self.bootstrap = ""
        self.http = ""
        self.new = False

    @property
    def kept(self) -> bool:
        """Whether the folder stays."""
        return self._data is not None

    @property
    def credentials(self) -> Path:
        """The credentials file of the first requester."""
        return self.folder / "keys" / "credentials.json"

    @property
    def log(self) -> Path:
        """The executor's log."""
        return self.folder / "executor.log"

    @property
    def kafka_version(self) -> str:
        """Version of Kafka."""
        return KAFKA_VERSION

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until the executor is ready.

        Raises:
            EmbeddedKafkaError: no Java, no registry, or Kafka does not start.
            DevStackError: the folder or the port cannot be had, or the executor does
                not start.
        """
        if self._port is not None:
            need_port(self._port)
        if self._data is not None:
            self._lock = take_folder(self._data)
        kafka = _Starting(self._kafka)
        self._tell("starting Kafka")
        self.bootstrap = kafka.address()
        # A temporary folder lies in Kafka's: its guardian removes it, come what may.
        self.folder = self._data or self._kafka.log.parent / "deployment"
        self.folder.mkdir(exist_ok=True)
        begun = self._read_begun()
        if begun is None:
            kafka.wait()
            self.new = True
            begun = self._begin()
        self._port = self._port or free_port()
        self.http = f"http://127.0.0.1:{self._port}"
        self._start_executor(begun)
        # Addresses change from start to start.
        write_credentials(
            self.credentials,
            msgspec.structs.replace(
                begun.credentials, bootstrap_servers=self.bootstrap, http=self.http
            ),
        )
        kafka.wait()
        if self.new:
            self._tell("publishing the example module")
            self.publish(EXAMPLE, (EXAMPLES / "add.wat").read_text())
        self._tell("waiting for the executor")
        self._await_ready()

    def stop(self) -> None:
        """Drain the executor, stop Kafka, leave nothing behind; may be called twice."""
        executor, self._executor = self._executor, None
        if executor is not None and executor.poll() is None:
            executor.send_signal(signal.SIGTERM)
            try:
                executor.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                executor.kill()
                executor.wait()
        self._kafka.stop()
        if self._data is None and self.folder.is_absolute():
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def executor_ended(self) -> int | None:
        """Give the executor's exit code if it has ended by itself."""
        return None if self._executor is None else self._executor.poll()

    def publish(self, name: str, text: str) -> str:
        """Publish a module in the text format; give its digest in hex."""
        from stream_executor.audit.key_files import (  # noqa: PLC0415 - first start only
            load_private_key,
        )
        from stream_executor.audit.signing import public_bytes  # noqa: PLC0415
        from stream_executor.kafka.connection import (  # noqa: PLC0415
            KafkaConnection,
        )
        from stream_executor.kafka.topics import TopicNames  # noqa: PLC0415
        from stream_executor.model.request import ModuleName  # noqa: PLC0415
        from stream_executor.sandbox.text import assemble  # noqa: PLC0415
        from stream_executor.services.publishing import publish  # noqa: PLC0415

        keys = self.folder / "keys"
        base, _, version = name.partition("@")
        published = asyncio.run(
            publish(
                KafkaConnection(bootstrap_servers=self.bootstrap),
                TopicNames(),
                public_bytes(load_private_key(keys / "operator.pem")),
                load_private_key(keys / "administrator.pem"),
                ModuleName(base, version),
                assemble(text),
            )
        )
        return published.s256.hex()

    def _read_begun(self) -> _Begun | None:
        with contextlib.suppress(FileNotFoundError):
            text = (self.folder / "begun.json").read_bytes()
            return msgspec.json.decode(text, type=_Begun)
        return None

    def _begin(self) -> _Begun:
        """Do what ``init`` does, and remember it."""
        from stream_executor.kafka.topics import TopicNames  # noqa: PLC0415 - first start
        from stream_executor.services.first_credentials import (  # noqa: PLC0415
            write_first,
        )

        self._tell("creating topics and keys")
        report = asyncio.run(self._ceremony())
        keys = self.folder / "keys"
        lines = [
            *report.settings_lines,
            *write_first(keys, self.bootstrap, report.audience, TopicNames()),
        ]
        begun = _Begun(
            dict(line.split("=", 1) for line in lines),
            msgspec.json.decode(self.credentials.read_bytes(), type=Credentials),
        )
        (self.folder / "begun.json").write_bytes(msgspec.json.encode(begun))
        return begun

    async def _ceremony(self) -> CeremonyReport:
        from stream_executor.kafka.admin import KafkaAdmin  # noqa: PLC0415 - first start
        from stream_executor.kafka.appender import Appender  # noqa: PLC0415
        from stream_executor.kafka.connection import (  # noqa: PLC0415
            KafkaConnection,
        )
        from stream_executor.kafka.reader import PartitionReader  # noqa: PLC0415
        from stream_executor.kafka.topics import TopicNames, desired  # noqa: PLC0415
        from stream_executor.services.ceremony import (  # noqa: PLC0415
            Deployment,
            perform,
            prepare_keys,
        )

        connection = KafkaConnection(bootstrap_servers=self.bootstrap)
        topics = TopicNames()
        async with KafkaAdmin(connection) as admin:
            await admin.apply(desired(topics, partitions=self._partitions, brokers=1))
            cluster = await admin.cluster()
        deployment = Deployment(_NAME, cluster.cluster_id, topics)
        keys = prepare_keys(self.folder / "keys")
        async with (
            PartitionReader(connection) as reader,
            Appender(connection) as appender,
        ):
            return await perform(
                deployment, keys, reader, appender, lambda: time.time_ns() // 1_000_000
            )

    def _start_executor(self, begun: _Begun) -> None:
        self._tell("starting the executor")
        folder = self.folder
        environment = {
            name: os.environ[name] for name in _INHERITED if name in os.environ
        }
        environment |= begun.settings | {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "METRICS_PORT": str(self._port),
            "WASM_EXECUTOR_ENV_FILE": os.devnull,
            "WASM_EXECUTOR_INSTANCE_ID": "dev",
            "WASM_EXECUTOR_STATE_DIR": str(folder / "state"),
            "AUDIT_LOG_PATH": str(folder / "audit.log"),
        }
        (folder / "state").mkdir(exist_ok=True)
        module = "stream_executor.services.dev_process"
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            self._executor = subprocess.Popen(
                [sys.executable, "-m", module, str(os.getpid())],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for us alone
            )

    def executor_failed(self, why: str) -> DevStackError:
        """Give the error that quotes the end of the executor's log."""
        end = self._log_text()[-_LOG_CHARACTERS:]
        return DevStackError(
            f"the executor {why}\nthe end of its log:\n{end}",
            f"read all of it: {self.log}" if self.kept else "wasm-executor doctor",
        )

    def _log_text(self) -> str:
        return self.log.read_bytes()[self._log_from :].decode(errors="replace")

    def _await_ready(self) -> None:
        until = time.monotonic() + _READY_S
        # The port may be another's since we looked: ours says when it listens there.
        while _LISTENS not in self._log_text() or not _answers_ready(self._port or 0):
            code = self.executor_ended()
            if code is not None or time.monotonic() > until:
                why = "is not ready" if code is None else f"ended with {code}"
                raise self.executor_failed(why)
            time.sleep(_POLL_S)


class _Starting:
    """Kafka's start in a thread of its own, so that others need not wait for it.

    The thread is a daemon: if this process goes, Kafka's guardian ends Kafka.
    """

    def __init__(self, kafka: EmbeddedKafka) -> None:
        self._kafka = kafka
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def address(self) -> str:
        """Give the bootstrap address as soon as it is known, before Kafka answers."""
        while self._thread.is_alive():
            with contextlib.suppress(Exception):
                return self._kafka.bootstrap
            time.sleep(_POLL_S)
        self.wait()
        return self._kafka.bootstrap

    def wait(self) -> None:
        """Wait until Kafka answers; raise what ``EmbeddedKafka.start`` raised."""
        while self._thread.is_alive():
            self._thread.join(_POLL_S)  # in slices: a signal's handler wants its turn
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._kafka.start()
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread
            self._error = error


def _answers_ready(port: int) -> bool:
    """Ask ``/ready``; by hand, because an HTTP client costs 100 ms to import."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
            head = connection.recv(64)
    except OSError:
        return False
    return head.split(b" ")[1:2] == [b"200"]
