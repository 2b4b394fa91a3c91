"""Several Kafka nodes as one cluster, to stop, freeze and restart one at a time."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stream_executor.embedded.broker import (
    EmbeddedKafka,
    kafka_uuid,
    node_answers,
    reserved_ports,
)
from stream_executor.embedded.configuration import Membership
from stream_executor.embedded.errors import EmbeddedKafkaError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_TOGETHER_S = 60.0  # until all nodes know of each other; 2 s on an idle machine
_POLL_S = 0.05


class EmbeddedCluster:
    """Kafka nodes on 127.0.0.1 that replicate to each other; a context manager.

    Every node is broker and controller, so more than half must run. Topics may have as
    many copies as there are nodes. About 350 MB a node. Blocking, as ``EmbeddedKafka``.

    Args:
        nodes: how many.
        properties: of every node's ``server.properties``; they win over ours.
    """

    def __init__(
        self, nodes: int = 3, *, properties: Mapping[str, str] | None = None
    ) -> None:
        self._count = nodes
        self._properties = dict(properties or {})
        self._folder = Path()
        self._local_ports: list[int] = []
        self.nodes: list[EmbeddedKafka] = []

    @property
    def bootstrap(self) -> str:
        """All nodes' addresses; they stay the same over restarts."""
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self) -> Self:
        """Start all nodes and wait until each knows of all others.

        Raises:
            EmbeddedKafkaError: a node did not start. Nothing is left running.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="wasm-executor-"))
        with ExitStack() as held:
            every = [
                held.enter_context(reserved_ports(None)) for _ in range(self._count)
            ]
        self._local_ports = [ports.local for ports in every]
        voters = {number: ports.controller for number, ports in enumerate(every, 1)}
        cluster_id = kafka_uuid()
        self.nodes = [
            EmbeddedKafka(
                self._folder / f"node-{number}",
                properties=self._properties,
                ports=ports,
                member=Membership(number, cluster_id, voters),
            )
            for number, ports in enumerate(every, 1)
        ]
        try:
            # A node answers when most are there: they start side by side.
            with ThreadPoolExecutor(self._count) as pool:
                list(pool.map(EmbeddedKafka.start, self.nodes))
            self.wait_until_together()
        except BaseException:
            self.stop()
            raise
        return self

    def wait_until_together(self) -> None:
        """Return once every node lists all nodes as serving.

        Raises:
            EmbeddedKafkaError: not within a minute.
        """
        until = time.monotonic() + _TOGETHER_S
        while not all(node_answers(port, self._count) for port in self._local_ports):
            if time.monotonic() > until:
                raise EmbeddedKafkaError(
                    f"{self._count} Kafka nodes did not find each other within "
                    f"{_TOGETHER_S:.0f} s.",
                    remedy=f"See the logs in {self._folder}/node-*/broker.log.",
                )
            time.sleep(_POLL_S)

    def kill(self, index: int) -> None:
        """SIGKILL one node, counted from 0; what it had not written is lost with it."""
        node = self.nodes[index]
        os.kill(node.pid, signal.SIGKILL)
        node.stop()  # waits for its end

    def stop(self) -> None:
        """End all nodes at once and remove what they stored."""
        for node in self.nodes:
            if node.pid:
                os.kill(node.pid, signal.SIGKILL)
            node.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
