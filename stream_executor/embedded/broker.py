"""One running Kafka node: from nothing to the first answer, and back to nothing.

Who ends it when the process that asked for it dies is ``guardian.py``.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from rich.console import Console

from stream_executor.embedded import guardian
from stream_executor.embedded.ahead_of_time import Training
from stream_executor.embedded.configuration import (
    HOST,
    Membership,
    Ports,
    meta_properties,
    server_properties,
)
from stream_executor.embedded.errors import EmbeddedKafkaError
from stream_executor.embedded.jars import cache_folder, locked
from stream_executor.embedded.tools import Installation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

_START_BUDGET_S = 60.0  # 0.75 s when trained, 3 s when not; ten times that under load
_ANSWER_S = 5.0
_POLL_S = 0.01
_GRACE_S = 30.0  # a node with kept data flushes and says goodbye; usually 0.5 s
_TRAINING_GRACE_S = 120.0  # writing the startup cache: 5 s, more under load
_ENDED_BY_SIGTERM = 143  # 128 + 15: the JVM ran its shutdown to the end
_LOG_LINES = 15  # of Kafka's log in an error
_SMALL_HEAP = ("-Xms128m", "-Xmx512m")
# KAFKA_HEAP_OPTS of kafka-server-start.sh. In a small heap, thousands of requests a
# second stop every 0.9 s for 9 ms of garbage collection; in this one every 10 s.
_PRODUCTION_HEAP = ("-Xms1g", "-Xmx1g")


class EmbeddedKafka:
    """A Kafka node on free ports of 127.0.0.1; a context manager.

    Ready when ``start`` returns: every listener answers and topics can be created.
    Nothing outlives the process that started it, however that ends; several may run
    side by side, and ``start`` after ``stop`` takes the same ports again. The first
    ever start downloads Kafka (46 MB) and the first ever ``stop`` trains the startup
    cache (some seconds); later starts take under a second.

    Blocking and not thread-safe, but start and stop may come from different threads:
    from asyncio, use ``asyncio.to_thread``.

    Args:
        data: folder to keep topics in, made if missing; None is a temporary folder,
            removed at the end.
        properties: of Kafka's ``server.properties``; they win over ours. The listener
            for users is named CLIENTS, so ``listener.security.protocol.map`` can give
            it another protocol (LOCAL and CONTROLLER stay plaintext).
        proxied_port: also listen for clients that come through a proxy on this port:
            the second listener (``proxy_target``) advertises it as its own.
        throughput: run as in production, for minutes and not for a test: the compiler
            optimises, which costs CPU in the first minute, and the heap is the 1 GiB
            that Kafka's own start script takes.
        format_arguments: for Kafka's formatter, e.g. ``("--add-scram", …)``; used when
            the data folder is new.
        jvm_arguments: for Java, e.g. ``("-Xmx1g",)``; the last of a kind wins.
        ports: take these instead of free ones.
        member: be this node of a cluster (``EmbeddedCluster``); needs ``ports``.
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        properties: Mapping[str, str] | None = None,
        proxied_port: int | None = None,
        throughput: bool = False,
        format_arguments: Sequence[str] = (),
        jvm_arguments: Sequence[str] = (),
        ports: Ports | None = None,
        member: Membership | None = None,
    ) -> None:
        self._data = data
        self._properties = dict(properties or {})
        self._proxied_port = proxied_port
        self._throughput = throughput
        self._format_arguments = tuple(format_arguments)
        self._jvm_arguments = tuple(jvm_arguments)
        self._ports = ports
        self._member = member
        self._guardian: subprocess.Popen[bytes] | None = None
        self._training: Training | None = None
        self._folder = Path()
        self._pid = 0

    @property
    def bootstrap(self) -> str:
        """The address for ``bootstrap.servers``; stays the same over restarts."""
        return f"{HOST}:{self._known_ports().clients}"

    @property
    def proxy_target(self) -> str:
        """The address that a proxy on ``proxied_port`` forwards to."""
        return f"{HOST}:{self._known_ports().proxied}"

    @property
    def pid(self) -> int:
        """Java's process id while running, for tests that freeze or kill it."""
        return self._pid

    @property
    def log(self) -> Path:
        """Kafka's own log; in the data folder, so gone with a temporary one."""
        return self._folder / "broker.log"

    def start(self) -> Self:
        """Fetch what is missing, start the node, wait until it answers.

        Raises:
            EmbeddedKafkaError: no Java, no registry, or Kafka ended or stayed silent
                (the error quotes the end of its log). Nothing is left running.
        """
        if self._guardian is not None:
            raise EmbeddedKafkaError(
                f"This broker runs already, on {self.bootstrap}.",
                remedy="Make a second EmbeddedKafka, or stop this one first.",
            )
        installation = Installation.ready()
        self._folder = self._data or Path(tempfile.mkdtemp(prefix="wasm-executor-"))
        with ExitStack() as undo:
            if self._data is None:  # the guardian removes it later; here nobody would
                undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
            with reserved_ports(self._ports) as self._ports:
                self._prepare_folder(installation)
                # Open here, so that an error can quote it after it was removed.
                log = undo.enter_context(self.log.open("a+b"))
                undo.callback(self.stop)
                guard = self._launch(installation, log)
                self._await_answer(guard, log)
            undo.pop_all()
            log.close()
        return self

    def stop(self) -> None:
        """Stop the node and wait for its end; without effect if it does not run.

        Kept data is closed in good order; a node whose data goes away is ended at once.
        """
        if self._guardian is None:
            return
        guard, self._guardian, self._pid = self._guardian, None, 0
        grace_s = 0.0 if self._data is None else _GRACE_S
        if self._training:
            grace_s = _TRAINING_GRACE_S
            Console(stderr=True).print("Kafka prepares faster starts: once, 5 to 10 s")
        try:
            guard.communicate(b"%f\n" % grace_s)
        finally:
            # Interrupted, the guardian goes on by itself; we just do not wait.
            if self._training:
                self._training.finish(complete=guard.poll() == _ENDED_BY_SIGTERM)
                self._training = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _known_ports(self) -> Ports:
        if self._ports is None:
            raise EmbeddedKafkaError(
                "A broker has an address once it was started.",
                remedy="Call start() first, or use `with EmbeddedKafka() as kafka:`.",
            )
        return self._ports

    def _prepare_folder(self, installation: Installation) -> None:
        """Write the properties; give a new data folder its identity."""
        # Native code that jars unpack; Java does not remove it when it is killed.
        shutil.rmtree(self._folder / "tmp", ignore_errors=True)
        (self._folder / "tmp").mkdir(parents=True)
        logs = self._folder / "kafka"
        properties = self._folder / "server.properties"
        properties.write_text(
            server_properties(
                self._known_ports(),
                logs.resolve(),
                advertised_by_proxied=self._proxied_port,
                extra=self._properties,
                member=self._member,
            ),
            encoding="utf-8",
        )
        if (logs / "meta.properties").exists():
            return
        if self._format_arguments:
            _format(installation, properties, self._format_arguments)
            return
        # Formatting starts a JVM, and its result differs in two identifiers only: so
        # Kafka's formatter runs once a machine, and we fill in the identifiers.
        template = cache_folder() / "bootstrap.checkpoint"
        with locked(template.with_suffix(".lock")):
            if not template.exists():
                _format(installation, properties, ())
                half = template.with_suffix(".half")
                shutil.copyfile(logs / "bootstrap.checkpoint", half)
                half.replace(template)
        logs.mkdir(exist_ok=True)
        shutil.copyfile(template, logs / "bootstrap.checkpoint")
        member = self._member
        (logs / "meta.properties").write_text(
            meta_properties(
                cluster_id=kafka_uuid() if member is None else member.cluster_id,
                directory_id=kafka_uuid(),
                node_id=1 if member is None else member.node_id,
            ),
            encoding="utf-8",
        )

    def _launch(
        self, installation: Installation, log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        cache = installation.startup_cache
        if cache.exists():
            jvm = [f"-XX:AOTCache={cache}"]
        elif training := Training.begin(installation.java, cache):
            self._training = training
            jvm = [f"-XX:AOTCacheOutput={training.output}"]
        else:
            jvm = []
        # The optimising compiler pays after a minute; a test is over by then. It must
        # be there while training, though: its profiles are part of the cache.
        if not (self._throughput or self._training):
            jvm.append("-XX:TieredStopAtLevel=1")
        heap = _PRODUCTION_HEAP if self._throughput else _SMALL_HEAP
        # -UsePerfData: no file per process in the machine's temporary folder.
        jvm += [
            f"-Djava.io.tmpdir={self._folder.resolve() / 'tmp'}",
            "-XX:-UsePerfData",
        ]
        command = installation.command(
            "kafka.Kafka",
            str(self._folder / "server.properties"),
            jvm=[*jvm, *heap, *self._jvm_arguments],
            log_level="info",
        )
        removed = str(self._folder) if self._data is None else ""
        # Isolated and without site-packages, the guardian starts in 20 ms. Ctrl-C in a
        # terminal reaches a whole process group, so it gets one of its own.
        guard = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", guardian.__file__),
                *(str(os.getpid()), removed, *command),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        self._guardian = guard
        self._pid = int(guard.stdout.readline() or 0) if guard.stdout else 0
        return guard

    def _await_answer(self, guard: subprocess.Popen[bytes], log: BinaryIO) -> None:
        deadline = time.monotonic() + _START_BUDGET_S
        while not node_answers(self._known_ports().local):
            ended = guard.poll() is not None
            if ended or time.monotonic() > deadline:
                log.seek(0)
                tail = log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
                raise EmbeddedKafkaError(
                    "\n".join(
                        [
                            "Kafka ended instead of starting. The end of its log:"
                            if ended
                            else f"Kafka did not answer within {_START_BUDGET_S:.0f} s."
                            " The end of its log:",
                            *tail,
                        ]
                    ),
                    remedy="See the last error above; properties of your own and a "
                    "data folder in use by another broker are the usual causes.",
                )
            time.sleep(_POLL_S)


def _format(
    installation: Installation, properties: Path, arguments: Sequence[str]
) -> None:
    """Let Kafka's formatter prepare the folder that the properties name."""
    tool = "kafka.tools.StorageTool"
    given = ("format", "-t", kafka_uuid(), "-c", str(properties), *arguments)
    done = installation.run(tool, *given)
    if done.returncode != 0:
        raise EmbeddedKafkaError(
            f"Kafka's formatter refused (exit code {done.returncode}): "
            f"{done.stdout}{done.stderr}",
            remedy="Look at format_arguments and properties.",
        )


def kafka_uuid() -> str:
    """Return a new identifier as Kafka writes them: 22 characters of base64url."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes)[:22]).startswith(b"-"):
        pass  # Kafka takes care that none looks like an option; so do we
    return text.decode("ascii")


@contextmanager
def reserved_ports(again: Ports | None) -> Iterator[Ports]:
    """Choose free loopback ports (or take the same again); hold them while inside.

    On Linux two sockets that both set SO_REUSEADDR may have one address while none or
    one of them listens. Java sets it, so Kafka takes over a port that nobody else could
    get in between; elsewhere there is a moment in which somebody could.
    """
    with ExitStack() as held:
        numbers = []
        for number in astuple(again) if again else (0,) * len(fields(Ports)):
            holder = held.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                holder.bind((HOST, number))
            except OSError as cause:
                raise EmbeddedKafkaError(
                    f"Port {number} of {HOST}, which this broker had before, is taken.",
                    remedy="Make a new EmbeddedKafka on the same data.",
                ) from cause
            numbers.append(holder.getsockname()[1])
        if sys.platform != "linux":
            held.close()
        yield Ports(*numbers)


def node_answers(port: int, nodes: int = 1) -> bool:
    """Ask for the cluster's nodes (Metadata v1); are there so many?

    A node lists itself when its controller lets it serve, which is later than the
    moment when it accepts connections.
    """
    name = b"wasm-executor"
    ask = struct.pack(f">hhih{len(name)}si", 3, 1, 1, len(name), name, 0)
    try:
        with socket.create_connection((HOST, port), timeout=_ANSWER_S) as connection:
            connection.sendall(struct.pack(">i", len(ask)) + ask)
            answer = connection.recv(12, socket.MSG_WAITALL)
    except OSError:
        return False
    # Size, correlation id, number of nodes.
    if len(answer) < 12:  # noqa: PLR2004
        return False
    return int.from_bytes(answer[8:]) >= nodes
