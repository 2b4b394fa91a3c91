"""Builds that are wrong in one line, and the tests that must say so.

Each is a slip that somebody could make, or that an earlier design had. The fast ones
run with every `make test`; all of them with `make sabotage`.
"""

from __future__ import annotations

from typing import NamedTuple

CRASHES = "tests/model/test_crash_points.py"
HISTORIES = "tests/model/test_many_histories.py"
LANE = "tests/unit/lane/test_lane.py"
SCENARIOS = "tests/model/test_scenarios.py"
STUCK = "tests/unit/services/test_stuck_lane.py"
SUSPICION = "tests/unit/lane/test_suspicion.py"
WAY_BACK = "tests/unit/lane/test_way_back.py"
WRITER = "tests/unit/kafka/test_writer_order.py"

_LANE = "lane/lane.py"
_INTAKE = "lane/intake.py"
_RECOVERY = "lane/recovery.py"
_CONCLUSION = "lane/conclusion.py"
_ADMISSION = "lane/admission.py"
_CROSSCHECKS = "lane/crosschecks.py"
_RUNTIME = "services/worker_runtime.py"


class Edit(NamedTuple):
    """One line of the package, and what it becomes."""

    old: str
    new: str


class Sabotage(NamedTuple):
    """One wrong build.

    Attributes:
        name: of it.
        file: in the package.
        edits: its lines; each must be there exactly once.
        caught_by: what pytest runs; at least one of them must fail.
        fast: whether it is run by every `make test`; seconds, and no broker.
    """

    name: str
    file: str
    edits: tuple[Edit, ...]
    caught_by: tuple[str, ...]
    fast: bool = False


def _one(
    name: str, file: str, old: str, new: str, *caught_by: str, fast: bool = False
) -> Sabotage:
    return Sabotage(name, file, (Edit(old, new),), caught_by, fast)


SABOTAGES = (
    _one(
        "a transaction ends before its sends are acknowledged", "kafka/writer.py",
        "        await _all_sent(sends)\n",
        "        await producer.commit_transaction()\n"
        "        await _all_sent(sends)\n",
        WRITER,
        fast=True,
    ),
    _one(
        "acknowledged offsets may fall", "kafka/writer.py",
        "        if base < self._log_ends[topic]:\n", "        if base < 0:\n",
        WRITER,
        fast=True,
    ),
    Sabotage(
        "no fence before recovery", _LANE,
        (
            Edit("        await writer.fence()  # 1\n", ""),
            Edit(
                "expected, window)  # 2\n",
                "expected, window)\n        await writer.fence()\n",
            ),
        ),
        (CRASHES,),
        fast=True,
    ),
    _one(
        "the fetched offset is trusted over the log", _INTAKE,
        "        if record.offset != self.expected:\n", "        if False:\n",
        CRASHES, HISTORIES,
        fast=True,
    ),
    _one(
        "recovery stops before the last seal", _RECOVERY,
        "        return await _recover_up_to(end, reader, expected, window)\n",
        "        return await _recover_up_to(end - 2, reader, expected, window)\n",
        CRASHES,
    ),
    _one(
        "a seal attests no gaps", _CONCLUSION,
        "before.next, self.next, self.answered, self.gaps, *self.anchor,",
        "before.next, self.next, self.answered, [], *self.anchor,",
        CRASHES,
        fast=True,
    ),
    _one(
        "the replay window is not rebuilt", _RECOVERY,
        "            window.load(seal.spent, seal.lane_time)\n", "",
        CRASHES, HISTORIES, LANE,
        fast=True,
    ),
    _one(
        "a replay is accepted", _ADMISSION,
        "        if outcome is SpendOutcome.REPLAYED:\n", "        if False:\n",
        CRASHES, HISTORIES,
    ),
    _one(
        "a spent token is forgotten too early", "lane/head.py",
        "        return lane_time <= self.lane_time + horizon_ms\n",
        "        return lane_time <= self.lane_time\n",
        SCENARIOS,
        fast=True,
    ),
    _one(
        "unfinished requests are overtaken", "lane/window.py",
        "        while at < end and mine[at] is not None:\n",
        "        while at < end:\n",
        SCENARIOS,
    ),
    _one(
        "the prefix is not the longest", "lane/window.py",
        "        self._finished = at\n", "        self._finished = min(at, 1)\n",
        "tests/unit/lane/test_window.py", HISTORIES,
    ),
    _one(
        "a term is used twice", _LANE,
        "        self.term = recovered.term + 1\n",
        "        self.term = max(recovered.term, 1)\n",
        CRASHES,
        fast=True,
    ),
    _one(
        "the lane's clock goes back with the broker's", _ADMISSION,
        "        self.lane_time = max(self.lane_time, timestamp)\n",
        "        self.lane_time = timestamp\n",
        SCENARIOS,
    ),
    _one(
        "a new context is not written", _INTAKE,
        "            self._add_quietly(ContextChange(now.digests))\n",
        "            pass\n",
        CRASHES, LANE,
    ),
    _one(
        "skipped records are called a gap", _INTAKE,
        "            ranges = await world.prover.prove_gap("
        "topic, partition, start, until)\n",
        "            ranges = [Gap(start, until)]\n",
        HISTORIES, LANE,
    ),
    _one(
        "the anchor is not compared", _CROSSCHECKS,
        "    if begin <= head.anchor_offset:\n", "    if False:\n",
        LANE,
    ),
    _one(
        "a later owner's records halt a frozen one", _RECOVERY,
        "        if await reader.end_offset(topic, partition) > end:\n",
        "        if False:\n",
        CRASHES, HISTORIES,
        fast=True,
    ),
    _one(
        "the control view is not looked at again", _LANE,
        "await world.basis.confirm_view()  # the seal may be younger than our look\n",
        "pass\n",
        CRASHES, HISTORIES,
    ),
    _one(
        "a fenced owner fights", _LANE,
        "_FENCED_RETRY_S = 12.0\n", "_FENCED_RETRY_S = 0.0\n",
        LANE, CRASHES,
    ),
    _one(
        "a denial learnt while waiting is not applied", _ADMISSION,
        "        if view_confirmed and (denied",
        "        if not view_confirmed and (denied",
        LANE,
    ),
    _one(
        "a lost life keeps its replay memory", _LANE,
        "            self._replay.discard()\n", "            pass\n",
        CRASHES, LANE,
    ),
    _one(
        "quarantine comes after one death", "lane/suspicion.py",
        "MAX_ATTEMPTS = 3\n", "MAX_ATTEMPTS = 1\n",
        SUSPICION,
    ),
    _one(
        "a poison request is tried for ever", "lane/suspicion.py",
        "        return self.attempts + 1 if offset == self.first else 1\n",
        "        return 1\n",
        SUSPICION, HISTORIES,
    ),
    _one(
        "refusals of another code share an answer", _CONCLUSION,
        "            or entry.code != first.code\n", "",
        "tests/unit/lane", HISTORIES,
    ),
    _one(
        "an order skips for ever", "audit/segments.py",
        "            if here in {None, (order.head_seq, order.head)}\n", "",
        WAY_BACK,
    ),
    _one(
        "a tail that only results remember is forgotten", _CROSSCHECKS,
        "    if ahead > head.next:\n", "    if False:\n",
        SCENARIOS,
    ),
    _one(
        "a torn transaction is taken for foreign", "lane/audit_log.py",
        "        if torn := [offset for offset in parser.torn() if offset != first]:\n",
        "        if torn := []:\n",
        WAY_BACK,
    ),
    _one(
        "markers are never sealed", _INTAKE,
        "        return self._quiet_since is not None and "
        "now - self._quiet_since >= QUIET_SEAL_S\n",
        "        return False\n",
        SCENARIOS,
    ),
    _one(
        "an event names another result", _CONCLUSION,
        "                    entry.body_digest,\n",
        "                    entry.salt * 2,\n",
        "tests/unit/lane", "tests/property/test_audit_of_lanes.py",
    ),
    _one(
        "a child is kept after a malformed reply", "sandbox/process.py",
        '            self._distrust(f"malformed reply: {error}")\n',
        "            pass\n",
        "tests/integration/sandbox/test_liars.py",
    ),
    _one(
        "a doubted producer goes on", "kafka/internals.py",
        '            doubt(f"{name}: {error!r}")\n', "            pass\n",
        "tests/faults/test_writer_faults.py",
    ),
    _one(
        "the end of the log is what is committed", "kafka/client.py",
        "(topic, partition, _LATEST, READ_UNCOMMITTED)\n",
        "(topic, partition, _LATEST, READ_COMMITTED)\n",
        "tests/integration/kafka/test_log_contract.py",
    ),
    _one(
        "what answers anew is believed", "kafka/fetcher.py",
        "                slot.doubted |= slot.over not in {None, connection}\n",
        "                pass\n",
        "tests/faults/test_another_log.py",
    ),
    _one(
        "a lane that stands still says that it moves", _INTAKE,
        "        return now - self._oldest[1]\n", "        return 0.0\n",
        STUCK,
        fast=True,
    ),
    _one(
        "what the watchdog says ends nobody", _RUNTIME,
        "            raise RuntimeError(stuck)\n", "            log.error(stuck)\n",
        STUCK,
    ),
    _one(
        "a lane is blamed for a full sandbox", _RUNTIME,
        "saturated=self._sandbox.running >= self._sandbox.capacity,",
        "saturated=False,",
        STUCK,
    ),
    _one(
        "a removed beginning is no loss", _RECOVERY,
        "    if first[0].seq > last.window_from_seq:\n", "    if False:\n",
        SCENARIOS,
        fast=True,
    ),
    _one(
        "removed leaves are forgiven too early", _CROSSCHECKS,
        "    over = found is not None or "
        "expected.now_ms > over_ms + CLOCKS_APART_MS\n",
        "    over = True\n",
        SCENARIOS, WAY_BACK,
    ),
    _one(
        "a few offsets must show the last result", _CROSSCHECKS,
        "    for start in looking_back(begin, end, _FIRST_RESULTS):\n",
        "    for start in (max(begin, end - 8),):\n",
        SCENARIOS,
        fast=True,
    ),
    _one(
        "each term of one process is a death", "lane/suspicion.py",
        "                self._terms = [*self._of_others(said.incarnation)[-_DEATHS:], "
        "term]\n",
        "                self._terms = [*self._terms[-_DEATHS:], term]\n",
        SUSPICION,
        fast=True,
    ),
    _one(
        "refusals of an older topic hold in the next one", _CROSSCHECKS,
        "    refused = () if anew else still_ahead(recovered.refused, next_offset)\n",
        "    refused = still_ahead(recovered.refused, next_offset)\n",
        WAY_BACK,
    ),
    _one(
        "every order's refusals hold for ever", _RECOVERY,
        "    refused = tuple(orders[-1].refused) if orders else ()\n",
        "    refused = tuple(r for one in orders for r in one.refused)\n",
        WAY_BACK,
    ),
    _one(
        "a later order forgets what is to be refused", _CROSSCHECKS,
        "    refused = () if anew else still_ahead(recovered.refused, next_offset)\n",
        "    refused = ()\n",
        WAY_BACK,
    ),
    _one(
        "requests that were removed are not missed", _CROSSCHECKS,
        "    if head.next < begin:\n", "    if False:\n",
        WAY_BACK,
    ),
    _one(
        "a gap that one transaction did not carry is never sealed", _INTAKE,
        "        self._quiet_since = asyncio.get_running_loop().time() "
        "if left else None\n",
        "        self._quiet_since = None\n",
        LANE, SCENARIOS,
    ),
    _one(
        "a view that nobody confirmed is believed", "services/control_follower.py",
        "        return asyncio.get_running_loop().time() - self._confirmed_at "
        "< STALE_AFTER_S\n",
        "        return True\n",
        "tests/unit/services/test_control_follower.py",
    ),
    _one(
        "a full memory of tokens accepts more", "auth/replay.py",
        "                return SpendOutcome.FULL\n",
        "                return SpendOutcome.FRESH\n",
        "tests/unit/auth/test_replay.py",
    ),
    _one(
        "the first seal that is left names the log", "lane/audit_log.py",
        "            if cited in (None, seal.log_id):\n", "            if True:\n",
        WAY_BACK,
    ),
    _one(
        "any order waives the replays behind a removed beginning", _CROSSCHECKS,
        "    if over and all(within(recovered.refused, offset) "
        "for offset in unsafe):\n",
        "    if log.orders:\n",
        WAY_BACK, SCENARIOS,
    ),
)  # fmt: skip
