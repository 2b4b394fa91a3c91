"""What the HTTP port and ``wasm-executor status`` show, as values, and two verdicts.

Workers send ``LaneStatus`` rows; the supervisor adds what it knows of the processes.
The verdicts are pure: the same status gives the same answer. Not here: counting
(``http.tally``) and rendering (``http.app``).
"""

from __future__ import annotations

import msgspec

from stream_executor.model.conditions import Trouble
from stream_executor.model.lanes import LaneState

# Nobody is needed for these: they work, or will by themselves.
ABLE = frozenset(LaneState) - {LaneState.BLOCKED, LaneState.HALTED}


class LaneStatus(msgspec.Struct, frozen=True):
    """One lane.

    Attributes:
        reason: why it is not running, in words; empty while it runs.
        next: the first offset not answered, -1 before recovery.
        end: the partition's end offset as last seen, -1 if unknown.
        term: the lane's term, 0 before acquisition.
        in_flight: requests admitted and not yet committed.
        oldest_ms: append time of the oldest request that it holds, 0 if it holds none.
    """

    partition: int
    state: LaneState
    reason: str = ""
    next: int = -1
    end: int = -1
    term: int = 0
    in_flight: int = 0
    oldest_ms: int = 0

    @property
    def lag(self) -> int:
        """Offsets not yet answered (0 while unknown); transaction markers count."""
        return max(0, self.end - self.next) if self.next >= 0 else 0


class WorkerStatus(msgspec.Struct, frozen=True):
    """One worker slot as the supervisor sees it.

    Attributes:
        pid: None while the slot waits for its next start.
        reporting: it has sent a report since it started.
        ready: it is a member of the group and its views are read to their ends.
        audit_writable: False while the audit topic takes no transaction from it, or no
            broker is in reach.
        note: what it waits for, or why it ended last, in words.
        restarts: how often the slot was started anew.
        audience: the aud that it requires of tokens, empty until it knows.
        hardening: what was applied to its sandbox children.
        troubles: what it finds wrong with the world around it.
    """

    slot: int
    instance: str
    pid: int | None = None
    reporting: bool = False
    ready: bool = False
    audit_writable: bool = True
    note: str = ""
    restarts: int = 0
    engine: str = ""
    audience: str = ""
    hardening: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    lanes: tuple[LaneStatus, ...] = ()


class AuditLogStatus(msgspec.Struct, frozen=True):
    """The file ``audit.log`` and the process that writes it.

    Attributes:
        pid: None while the process waits for its next start.
        writing: it is the file's one writer, and what is sealed was written.
        standby: another process on this host writes the file.
        note: what it waits for, or why it ended last, in words.
    """

    path: str
    pid: int | None = None
    writing: bool = False
    standby: bool = False
    note: str = ""
    restarts: int = 0


class ServiceStatus(msgspec.Struct, frozen=True):
    """The whole instance at one moment.

    Attributes:
        audit_log: None with ENABLE_AUDIT_LOGGING=false.
        disks: what is wrong with the file systems that it writes to.
    """

    version: str
    instance: str
    started_ms: int
    draining: bool
    workers: tuple[WorkerStatus, ...]
    audit_log: AuditLogStatus | None = None
    disks: tuple[Trouble, ...] = ()

    @property
    def troubles(self) -> list[Trouble]:
        """Every condition that holds here, as whoever saw it first says."""
        seen = [*self.disks, *(one for w in self.workers for one in w.troubles)]
        seen.sort(key=lambda trouble: trouble.since_ms)
        first = {trouble.condition: trouble for trouble in reversed(seen)}
        return list(reversed(first.values()))

    @property
    def lanes(self) -> list[LaneStatus]:
        """Every lane of this instance, by partition."""
        lanes = (lane for worker in self.workers for lane in worker.lanes)
        return sorted(lanes, key=lambda lane: lane.partition)

    @property
    def engine(self) -> str:
        """The engine's identity, empty until a worker has reported it."""
        return next((w.engine for w in self.workers if w.engine), "")

    @property
    def audience(self) -> str:
        """The audience that tokens need, empty until a worker knows."""
        return next((w.audience for w in self.workers if w.audience), "")


class Usage(msgspec.Struct, frozen=True):
    """What all processes of this instance use together.

    Attributes:
        resident_bytes: memory; shared pages count once for each process.
        cpu_seconds: CPU time so far, of processes that have ended, too.
    """

    resident_bytes: int = 0
    cpu_seconds: float = 0.0


class Verdict(msgspec.Struct, frozen=True):
    """An answer to a probe.

    Attributes:
        ok: 200, else 503.
        reasons: why not; may name trouble although ``ok`` (a halted lane).
    """

    ok: bool
    reasons: tuple[str, ...] = ()


def judge_health(status: ServiceStatus) -> Verdict:
    """Tell whether this instance is of any use.

    Not ok only if no worker can work, no lane can, or the audit topic cannot be
    written. One bad lane must not restart an instance whose other lanes work. A worker
    without lanes is a healthy stand-by. Draining is healthy. Conditions are reasons,
    not the verdict: what they cost shows in workers and lanes.
    """
    reporting = [worker for worker in status.workers if worker.reporting]
    reasons = [
        f"worker {worker.instance}: {worker.note or 'has not reported yet'}"
        for worker in status.workers
        if not worker.reporting
    ]
    unwritable = [worker for worker in reporting if not worker.audit_writable]
    reasons += [
        f"worker {worker.instance}: the audit topic cannot be written"
        + (f": {worker.note}" if worker.note else "")
        for worker in unwritable
    ]
    disabled = [lane for lane in status.lanes if lane.state not in ABLE]
    reasons += [
        f"lane {lane.partition} is {lane.state}: {lane.reason or 'no reason given'}"
        for lane in disabled
    ]
    file = status.audit_log
    if file is not None and file.note and not file.standby:
        reasons.append(f"{file.path} is not written: {file.note}")
    reasons += [str(trouble) for trouble in status.troubles]
    useful = [
        worker
        for worker in reporting
        if worker.audit_writable
        and (not worker.lanes or any(lane.state in ABLE for lane in worker.lanes))
    ]
    lanes_but_none_able = bool(status.lanes) and len(disabled) == len(status.lanes)
    return Verdict(bool(useful) and not lanes_but_none_able, tuple(reasons))


def judge_readiness(status: ServiceStatus) -> Verdict:
    """Tell whether a rolling restart may go on to the next instance.

    Ready when every worker reports, is a member of the group and has read its views;
    never while draining.
    """
    if status.draining:
        return Verdict(ok=False, reasons=("draining",))
    reasons = tuple(
        f"worker {worker.instance}: {worker.note or 'not ready yet'}"
        for worker in status.workers
        if not (worker.reporting and worker.ready)
    )
    return Verdict(not reasons, reasons)
