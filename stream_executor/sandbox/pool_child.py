"""A sandbox child as the pool knows it: what it holds, has loaded, and is at.

Its marker comes from a process that may be hostile: it can bring the process's own end
nearer, and nothing else.

Not here: whose jobs it gets, and what becomes of them when it ends (``pool``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from stream_executor.model.errors import MisuseError
from stream_executor.sandbox import protocol
from stream_executor.sandbox.ledger import Ledger

if TYPE_CHECKING:
    from stream_executor.sandbox.config import SandboxConfig
    from stream_executor.sandbox.modules import Module
    from stream_executor.sandbox.process import ChildProcess
    from stream_executor.sandbox.schedule import Segment

STALL_S = 0.05  # a job that runs longer gets its followers taken away


class Child:
    """A sandbox process as the pool knows it.

    Attributes:
        ledger: what it holds.
        loaded: modules it has, least recently used first, with their sizes.
        seen, seen_at: last marker that was observed, and when it changed.
        killed_for: number of the job that it was killed for, if for a deadline.
    """

    def __init__(self) -> None:
        self.process: ChildProcess
        self.hello: protocol.Hello | None = None
        self.ledger = Ledger()
        self.loaded: OrderedDict[bytes, int] = OrderedDict()
        self.loaded_bytes = 0
        self.seen, self.seen_at = 0, 0.0
        self.killed_for: int | None = None
        self.cpu_ns = 0

    @property
    def busy(self) -> bool:
        """Whether it holds anything."""
        return bool(self.ledger.frames)

    @property
    def idle(self) -> bool:
        """Whether it can take a frame and run it at once."""
        return self.hello is not None and not self.ledger.frames

    def announce(self, module: Module, config: SandboxConfig) -> None:
        """Make sure that it has a module; drop others to stay in bounds."""
        if module.s256 in self.loaded:
            self.loaded.move_to_end(module.s256)
            return
        artefact = module.artefact
        if artefact is None:
            raise MisuseError("a module is announced that is not compiled")
        while self.loaded and (
            len(self.loaded) >= config.child_modules
            or self.loaded_bytes + artefact.size > config.child_modules_bytes
        ):
            s256, size = self.loaded.popitem(last=False)
            self.loaded_bytes -= size
            self.process.send(protocol.frame(protocol.Forget(s256)))
        self.loaded[module.s256] = artefact.size
        self.loaded_bytes += artefact.size
        order = protocol.Announce(module.s256, artefact.shape, artefact.size)
        self.process.send(protocol.frame(order), (artefact.fd,))

    def look(self, now: float, grace_ms: int) -> bool:
        """Look at a busy child's marker; kill what ran past its deadline.

        Returns:
            Whether its job stalls what waits behind it.
        """
        frame, marker = self.ledger.frames[0], self.process.started.value
        if marker >= self.ledger.next_number:
            self.process.kill("its marker is ahead of its jobs")
            return False
        if marker != self.seen:
            self.seen, self.seen_at = marker, now
        index = self._index(marker)
        allowed_s = (frame.jobs[index].limits.deadline_ms + grace_ms) / 1000
        waited_s, running_s = now - self.seen_at, now - frame.since
        if waited_s > allowed_s and self.killed_for is None:
            self.killed_for = frame.number + index
            self.process.kill("a job ran past its deadline")
        elif waited_s > STALL_S and not self.ledger.cut:
            return True
        elif running_s > allowed_s:
            # Markers that move without an end: the sum of all deadlines is the bound.
            total_ms = sum(job.limits.deadline_ms + grace_ms for job in frame.jobs)
            if running_s > total_ms / 1000 + allowed_s:
                self.process.kill("its batch takes longer than all its jobs may")
        return False

    def take_back(self) -> list[Segment]:
        """Give what it holds behind the job that it is at; it will not start that."""
        frame, index = self.ledger.frames[0], self._index(self.process.started.value)
        behind = self.ledger.take_back(index)
        if behind:
            self.process.stop.value = frame.number + index + 1
        return behind

    def _index(self, marker: int) -> int:
        """Give the index in the oldest frame of the job that it is at."""
        return min(self.ledger.current(marker), len(self.ledger.frames[0].jobs) - 1)
