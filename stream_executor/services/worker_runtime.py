"""A worker's parts and how they are joined: the ``LaneWorld`` that lanes see.

The consumer group says which partitions are ours (``GroupMembership``); records come
through a second consumer whose positions are the lanes' own (``RequestFetcher``), so
that a rebalance of the group moves no position. ``FetchLoop`` fetches for all lanes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor import __version__
from stream_executor.auth.deny import DenyList
from stream_executor.auth.load import KeySource
from stream_executor.auth.policy import Policy
from stream_executor.auth.replay import ReplayBudget
from stream_executor.auth.token import TokenProfile
from stream_executor.http import metrics
from stream_executor.http.status import LaneStatus
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.connection import from_properties, renew_certificate
from stream_executor.kafka.gaps import GapProver
from stream_executor.kafka.intake import RequestFetcher
from stream_executor.kafka.membership import GroupMembership, MembershipOptions
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames, desired
from stream_executor.kafka.writer import LaneWriter, WriterOptions
from stream_executor.lane.admission import DENIED, REVOKED, AdmissionContext
from stream_executor.lane.admission import Ceilings as AdmissionCeilings
from stream_executor.lane.audit_log import Expected
from stream_executor.lane.conclusion import LaneIdentity, Tally
from stream_executor.lane.head import LEAST_HORIZON_MS
from stream_executor.lane.lane import Lane
from stream_executor.lane.world import LaneSettings
from stream_executor.model.audit import (
    ContextDigests,
    LaneAcquired,
    SchemaDigest,
    Seal,
)
from stream_executor.model.codes import Code
from stream_executor.model.errors import (
    BrokerRefusedError,
    ConfigError,
    ExecutorError,
    FencedError,
    IntegrityError,
    MalformedError,
    TransientError,
    UnavailableError,
)
from stream_executor.model.job import Limits
from stream_executor.model.lanes import LaneState
from stream_executor.model.request import ModuleDigest
from stream_executor.modules.store import ModuleStore
from stream_executor.modules.view import ControlView
from stream_executor.sandbox.artefact_cache import FOLDER, ArtefactCache, key_of
from stream_executor.sandbox.config import MIB, SandboxConfig
from stream_executor.sandbox.pool import SandboxPool
from stream_executor.services.compile_ahead import CompileAhead
from stream_executor.services.control_follower import ControlFollower
from stream_executor.services.failure_log import FailureLog
from stream_executor.services.fetching import FetchLoop
from stream_executor.services.reports import WorkerState
from stream_executor.services.surroundings import Surroundings
from stream_executor.services.watchdog import Watchdog
from stream_executor.wire import results
from stream_executor.wire.schemas import schema_digests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stream_executor.http.tally import Tally as MetricTally
    from stream_executor.lane.head import LaneHead
    from stream_executor.services.worker_settings import WorkerOrders

_COMMIT_POSITIONS_EVERY_S = 5.0
_REBALANCE_RELEASE_S = 2.0
# Whoever may not join the group asks again so often.
_JOIN_AGAIN_S = 15.0
_MODULE_AGAIN_S = 5.0
# A lane whose oldest request is unfinished this long after its deadline is stuck.
_WATCHDOG_S = 60.0
_ENCODERS = {"json": results.encode_json, "avro": results.encode_avro}

log = structlog.get_logger()


class WorkerRuntime:
    """Everything one worker owns, from ``start`` to ``drain``.

    Attributes:
        failure: done when something ended that must not end; holds its exception.
    """

    def __init__(self, orders: WorkerOrders, tally: MetricTally) -> None:
        settings, identity = orders.settings, orders.identity
        self._orders = orders
        self._tally = tally
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.process_key = Ed25519PrivateKey.from_private_bytes(
            identity.process_secret_key
        )
        self.certificate = identity.certificate
        self.replay_budget = ReplayBudget(settings.pace.replay_bytes)
        pace = settings.pace
        self.settings = LaneSettings(
            window_requests=pace.window_requests,
            window_bytes=pace.window_bytes,
            max_result_bytes=settings.ceilings.result_bytes,
            batch_bytes=WriterOptions().max_batch_bytes,
            commit_requests=pace.commit_requests,
            commit_bytes=pace.commit_bytes,
            most_floor_s=pace.commit_floor_ms / 1000,
        )
        self._connection, ignored = from_properties(settings.kafka_properties)
        for name in ignored:
            log.warning("kafka.property_ignored", name=name)
        self._topics = TopicNames(*msgspec.structs.astuple(settings.topics))
        self._around = Surroundings(
            self._connection, self._topics, self._topic_replaced
        )
        self._resumed = 0
        self._query = PartitionReader(self._connection)
        self._follow = PartitionReader(self._connection)
        self.prover = GapProver(self._connection)
        self._fetcher = RequestFetcher(self._connection, self._topics.requests)
        self.view = ControlView(settings.operator_public_key)
        self._follower = ControlFollower(
            self.view, self._topics.control, self._follow, self._query,
            self._control_changed,
        )  # fmt: skip
        ceilings = settings.ceilings
        # A reader of its own: 60 MB of module must not hold up a lane's look-ups.
        self._large = PartitionReader(self._connection)
        self._modules = ModuleStore(
            self.view, self._large, self._topics.modules, ceilings.hard_module_bytes
        )
        self._cache = ArtefactCache(
            Path(settings.state_dir) / FOLDER,
            key_of(settings.secrets.deployment_secret),
            settings.cache_bytes,
            lambda s256: self.view.resolve(ModuleDigest(s256)) is not None,
        )
        config = _sandbox_config(orders)
        self.sandbox = SandboxPool(config, self._load_module, self._cache)
        self._keys: KeySource | None = None
        self._audience = ""
        self._profile = TokenProfile(
            settings.tokens.max_lifetime_s, settings.tokens.max_append_age_s
        )
        self._policy = _read_policy(settings.policy_path)
        self._ceilings = AdmissionCeilings(
            Limits(ceilings.fuel_units, ceilings.memory_bytes, ceilings.deadline_ms),
            ceilings.module_bytes,
            Limits(
                ceilings.hard_fuel_units,
                ceilings.hard_memory_bytes,
                ceilings.hard_deadline_ms,
            ),
            ceilings.hard_module_bytes,
            _output_bytes(ceilings.result_bytes, settings.result_encoding),
        )
        self._ahead = CompileAhead(
            self.view, self._ceilings, self.sandbox, self._cache,
            config.artefact_cache_bytes,
        )  # fmt: skip
        self._context: AdmissionContext | None = None
        self._banned: frozenset[bytes] = frozenset()
        self._inline: dict[bytes, tuple[bytes, int]] = {}
        self._lanes: dict[int, Lane] = {}
        self._fetching = FetchLoop(
            self._fetcher, self._lanes, lambda: self._follower.confirmed
        )
        self._cluster_id = ""
        self._membership: GroupMembership | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._connected: list[PartitionReader | GapProver | RequestFetcher] = []
        self._draining = False
        self._ready = False
        self._told: Counter[str] = Counter()
        self._failures = FailureLog()
        self._last_commit_s = 0.0
        self._committed_at = 0.0
        self._watchdog = Watchdog(asyncio.get_running_loop().time())
        self._note = "starting"
        self._waits = False

    # -- life -----------------------------------------------------------------

    async def start(self) -> None:
        """Connect, read the views to their ends, start children, join the group.

        Raises:
            ConfigError: topics, keys or the operator key are not as they must be.
        """
        self._note = "waiting for the brokers"
        # Children take as long to start as brokers to answer: both at once.
        sandbox = asyncio.create_task(self.sandbox.start())
        self._tasks.append(sandbox)
        await self._retried(self._connect)
        self._note = "reading the control topic"
        self._spawn(self._follower.run())
        await self._retried(self._follower.confirm)
        if not self.view.begun:
            message = (
                f"{self._topics.control} holds no genesis: run `wasm-executor init`"
            )
            raise ConfigError(message)
        self._note = "loading keys"
        self._keys = self._key_source()
        await self._retried(self._keys.load)
        self._spawn(self._keys.follow(_keys_not_refreshed))
        self._note = "starting the sandbox"
        await sandbox
        self._spawn(self._fetching.run())
        self._note = "joining the group"
        self._membership = self._new_membership()
        await self._retried(self._membership.start)
        self._spawn(self._stay_a_member(self._membership))
        self._spawn(self._around.run())
        self._note = ""
        self._ready = True
        if self._orders.settings.compile_ahead:
            self._spawn(self._ahead.run())
        log.info("worker.ready", instance=self._orders.identity.instance)

    def _new_membership(self) -> GroupMembership:
        membership = self._orders.settings.membership
        return GroupMembership(
            self._connection,
            topic=self._topics.requests,
            group_id=membership.group,
            instance_id=self._orders.identity.instance,
            on_assignment=self._assigned,
            options=MembershipOptions(
                membership.session_timeout_ms,
                membership.heartbeat_ms,
                membership.rebalance_timeout_ms,
            ),
        )

    async def _stay_a_member(self, membership: GroupMembership) -> None:
        """Join anew, now and then, while the brokers refuse us a right."""
        while True:
            try:
                await membership.failed()
            except BrokerRefusedError as error:
                if error.condition is None:
                    raise
                self._around.note("group", error)
            await membership.close()
            await asyncio.sleep(_JOIN_AGAIN_S)
            membership = self._membership = self._new_membership()
            await self._retried(membership.start)

    async def _connect(self) -> None:
        for part in (
            self._query, self._follow, self._large, self.prover, self._fetcher,
        ):  # fmt: skip
            if part not in self._connected:  # this may be the second try
                await part.start()
                self._connected.append(part)
        async with KafkaAdmin(self._connection) as admin:
            cluster = await admin.cluster()
            self._cluster_id = cluster.cluster_id
            specs = desired(
                self._topics,
                partitions=await admin.partition_count(self._topics.requests),
                brokers=cluster.brokers,
            )
            try:
                tolerable = await admin.check(specs)
            except BrokerRefusedError as error:
                log.warning("topics.not_checked", reason=str(error))
            else:
                for change in tolerable:
                    log.warning("topics.differ", difference=str(change))

    def _key_source(self) -> KeySource:
        """Settle the audience: the setting's, else what the ceremony said."""
        settings = self._orders.settings
        rules = settings.tokens
        self._audience = rules.audience or self.view.audience
        rules = msgspec.structs.replace(rules, audience=self._audience)
        return KeySource.from_rules(rules, settings.secrets)

    async def _retried(self, step: Callable[[], Awaitable[object]]) -> None:
        """Repeat a step while the world is away, or refuses what it may yet grant."""
        wait_s = 0.05
        while True:
            try:
                await step()
            except (TransientError, BrokerRefusedError) as error:
                if isinstance(error, BrokerRefusedError) and error.condition is None:
                    raise
                if str(error) != self._note:
                    self._note = str(error)
                    log.warning("worker.waiting", reason=self._note)
                self._waits = True
                self._around.note("start", error)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 1.1, 5.0)
            else:
                self._waits, self._note = False, ""
                self._around.note("start", None)
                return

    async def drain(self) -> None:
        """Stop intake, let lanes finish within the budget, leave in good order."""
        self._draining = True
        self._ready = False
        budget_s = self._orders.settings.pace.drain_s
        await asyncio.gather(
            *(lane.release("drain", budget_s) for lane in self._lanes.values())
        )
        if self._membership is not None:
            await self._membership.commit_positions(self._answered_positions())
            if self._orders.settings.membership.leave_on_stop:
                await self._membership.leave()
            else:
                await self._membership.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sandbox.stop()
        for part in reversed(self._connected):
            await part.close()
        self._failures.write()
        log.info("worker.drained")

    def reload(self) -> None:
        """Read keys, policy and certificate again; what cannot be read stays."""
        self._spawn(self._reload())

    async def _reload(self) -> None:
        try:
            policy = _read_policy(self._orders.settings.policy_path)
            renew_certificate(self._connection)
            if self._keys is not None:
                await self._keys.load()
            self._policy = policy
        except (ConfigError, UnavailableError) as error:
            log.error("worker.reload_refused", reason=str(error))  # noqa: TRY400
            return
        self._context = None
        log.info("worker.reloaded")

    def _spawn(self, work: Awaitable[None]) -> None:
        """Run something for ever; if it fails, the worker does: never silently."""

        async def watched() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - handed to the process
                if not self.failure.done():
                    self.failure.set_exception(error)

        self._tasks.append(asyncio.create_task(watched()))

    # -- assignment -----------------------------------------------------------

    async def _assigned(self, partitions: set[int]) -> None:
        """Keep retained lanes as they are, give up lost ones, acquire new ones.

        Safety does not need the group: a lane that another worker has taken over is
        fenced whatever this says.
        """
        self._around.note("group", None)
        if self._draining:
            return
        lost = [p for p in self._lanes if p not in partitions]
        released = [self._lanes.pop(p) for p in lost]
        self._fetching.lanes_changed()
        await asyncio.gather(
            *(lane.release("rebalance", _REBALANCE_RELEASE_S) for lane in released)
        )
        if self._draining:  # it began meanwhile
            return
        for partition in sorted(partitions):
            lane = self._lanes.get(partition)
            if lane is None:
                self._lanes[partition] = Lane(partition, self)
                self._lanes[partition].start()
            else:
                lane.reassigned()

    # -- what lanes ask (LaneWorld) ---------------------------------------------

    def seek(self, partition: int, offset: int) -> None:
        """Have the next poll of this partition begin at an offset."""
        self._fetching.seek(partition, offset)

    def expected(self, partition: int) -> Expected:
        """Give what the log of this partition must be."""
        secret = self._orders.settings.secrets.deployment_secret
        if secret is None:
            message = "no deployment secret: run `wasm-executor init`"
            raise ConfigError(message)
        return Expected(
            self._topics.requests, self._topics.results, self._topics.audit,
            partition, self._cluster_id, self._orders.settings.operator_public_key,
            self._believe, secret, self._horizon_ms, self.view.resumes,
            self._orders.identity.incarnation,
        )  # fmt: skip

    def _believe(self, seal: Seal) -> None:
        if not self.view.fleet_key_valid(seal.fleet_key, seal.control_offset):
            message = (
                f"seal {seal.seq}: fleet key {seal.fleet_key.hex()[:16]}… was not "
                f"enrolled at control offset {seal.control_offset}"
            )
            raise IntegrityError(message)

    def reader(self) -> PartitionReader:
        """Give the shared reader; reads of several lanes take turns."""
        return self._query

    def writer(self, partition: int, batch_bytes: int) -> LaneWriter:
        """Give a new writer for a lane; it has fenced nobody yet."""
        return LaneWriter(
            self._connection,
            results_topic=self._topics.results,
            audit_topic=self._topics.audit,
            partition=partition,
            options=WriterOptions(max_batch_bytes=batch_bytes),
        )

    def opening(self, term: int, head: LaneHead) -> LaneAcquired:
        """Give the lane.acquired leaf of a term; seq and prev are the caller's."""
        identity, certificate = self._orders.identity, self.certificate
        digests = self.context().digests
        return LaneAcquired(
            0, b"", term, head.lane_time, head.next, self.settings.window_requests,
            certificate.process_key, certificate.fleet_key, certificate.certified_ms,
            certificate.certificate, identity.incarnation, identity.instance,
            self._orders.settings.membership.group, __version__, self.sandbox.engine,
            self.sandbox.engine_config_s256, self._ceilings.limits,
            list(self.sandbox.hardening),
            [SchemaDigest(n, d) for n, d in schema_digests().items()],
            digests.control_offset, digests.control_head, digests.policy_s256,
            digests.keys_s256,
        )  # fmt: skip

    def identity(
        self, partition: int, log_id: bytes, term: int, max_result_bytes: int
    ) -> LaneIdentity:
        """Give what stays the same for a lane during a term."""
        return LaneIdentity(
            self._topics.requests, partition, log_id, term, self.certificate,
            self.sandbox.engine, _ENCODERS[self._orders.settings.result_encoding],
            max_result_bytes, self._horizon_ms,
        )  # fmt: skip

    @property
    def _horizon_ms(self) -> int:
        return max(self._profile.replay_window_ms, LEAST_HORIZON_MS)

    def context(self) -> AdmissionContext:
        """Give what decisions rest on now; the same object until it changes."""
        if self._keys is None:
            message = "no key set has been loaded yet"
            raise UnavailableError(message)
        context, keys = self._context, self._keys.current
        if context is None or context.keys is not keys:
            context = self._context = AdmissionContext(
                keys,
                self._profile,
                self._policy,
                DenyList.of(self.view.denied),
                self.view,
                self._ceilings,
                ContextDigests(
                    self.view.next_offset, self.view.head, self._policy.s256,
                    keys.digest,
                ),
            )  # fmt: skip
        return context

    def refresh_keys(self, context: AdmissionContext) -> Awaitable[None] | None:
        """Look for new keys before an unknown one is final, if it is time."""
        if self._keys is None or not self._keys.may_refresh(context.keys):
            return None
        return self._refresh_keys(self._keys, context)

    async def _refresh_keys(self, keys: KeySource, context: AdmissionContext) -> None:
        await keys.refresh_for_unknown_key(context.keys)

    def _control_changed(self) -> None:
        self._context = None
        # What was admitted before and waits for a child must not start any more.
        for code, message, banned in (
            (Code.MODULE_NOT_FOUND, REVOKED, self.view.revoked_modules),
            (Code.DENIED_BY_POLICY, DENIED, self.view.denied.modules),
        ):
            if new := banned - self._banned:
                self.sandbox.withdraw(new, code, message)
        self._banned = self.view.revoked_modules | self.view.denied.modules
        self._ahead.control_changed()
        if self.view.resumed != self._resumed:
            self._resumed = self.view.resumed
            for lane in self._lanes.values():
                lane.ordered()

    def now_ms(self) -> int:
        """Give this worker's clock, milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000

    async def confirm_view(self) -> None:
        """Return once the control view has passed the topic's present end."""
        await self._follower.confirm()

    def hold_inline(self, s256: bytes, module: bytes) -> None:
        """Keep an inline module while a request with it is in flight."""
        _, count = self._inline.get(s256, (module, 0))
        self._inline[s256] = (module, count + 1)

    def release_inline(self, s256: bytes) -> None:
        """Let one hold of an inline module go."""
        module, count = self._inline.pop(s256)
        if count > 1:
            self._inline[s256] = (module, count - 1)

    async def _load_module(self, s256: bytes) -> bytes:
        held = self._inline.get(s256)
        if held is not None:
            return held[0]
        while True:
            try:
                module = await self._modules.find(s256)
            except (TransientError, BrokerRefusedError) as error:
                if isinstance(error, BrokerRefusedError) and error.condition is None:
                    raise
                for lane in self._lanes.values():
                    lane.do_without(s256, error)
                await asyncio.sleep(_MODULE_AGAIN_S)
            else:
                if module is None:
                    raise LookupError(s256.hex())
                return module

    # -- what lanes tell ----------------------------------------------------------

    def committed(self, partition: int, tally: Tally, seconds: float) -> None:
        """Count what a transaction held; it is committed."""
        count, now_s = self._tally, time.time()
        self._failures.take(partition, tally)
        log.debug(
            "lane.committed", partition=partition, results=tally.by_code,
            fuel=tally.fuel_units, seconds=round(seconds, 4),
        )  # fmt: skip
        count.add(metrics.EXECUTIONS, tally.executed)
        count.add(metrics.EXECUTIONS_FAILED, tally.executed_failed)
        count.add(metrics.AUTH_SUCCESS, tally.authenticated)
        count.add(metrics.AUTH_FAILED, tally.auth_failed)
        count.add(metrics.FUEL_CONSUMED, tally.fuel_units)
        for code, number in tally.by_code.items():
            count.add(metrics.RESULTS, number, code)
        count.observe_all(
            metrics.EXECUTION_DURATION, [us / 1e6 for us in tally.durations_us]
        )
        count.observe_all(
            metrics.ANSWER_LATENCY,
            [max(0.0, now_s - ms / 1000) for ms in tally.timestamps],
        )
        count.observe(metrics.COMMIT_DURATION, seconds)
        self._last_commit_s = now_s

    def appended(self, appended_ms: int, asked_ms: int) -> None:
        """Compare clocks."""
        self._around.clock.compare(appended_ms, asked_ms)

    def gave_up(
        self, lane: Lane, error: FencedError | BrokerRefusedError | TransientError
    ) -> None:
        """Count a producer that a lane gave up."""
        self._around.note_lane(lane, error)
        failure = metrics.CommitFailure.INDEFINITE
        if isinstance(error, FencedError):
            failure = metrics.CommitFailure.FENCED
        elif isinstance(error, BrokerRefusedError):
            failure = metrics.CommitFailure.PERMANENT
        self._tally.add(metrics.COMMIT_FAILURES, 1, failure)

    def changed(self, lane: Lane) -> None:
        """Log a lane's new state; have the fetcher follow it."""
        level = "warning" if lane.state in _TROUBLE else "info"
        if lane.state is not LaneState.HALTED:  # `failed` says it
            getattr(log, level)(
                f"lane.{lane.state}", partition=lane.partition, reason=lane.reason,
                term=lane.term,
            )  # fmt: skip
        self._around.note_lane(lane)
        self._fetching.lanes_changed()

    def failed(self, lane: Lane, error: BaseException) -> None:
        """Log a lane that halts; a bug of ours ends the worker."""
        log.error("lane.halted", partition=lane.partition, reason=str(error))
        if isinstance(error, ExecutorError):
            self._around.note_lane(lane, error)
        known = isinstance(error, IntegrityError | MalformedError)
        if not known and not self.failure.done():
            self.failure.set_exception(error)

    def _topic_replaced(self, topic: str) -> None:
        """Have lanes look at their logs again: one was deleted and made anew."""
        log.error("topic.replaced", topic=topic)
        error = UnavailableError(f"{topic} was deleted and made anew")
        if topic in {self._topics.requests, self._topics.audit}:
            for lane in self._lanes.values():
                if lane.running:
                    lane.unfetchable(error)

    # -- reporting ----------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """Keep the group's positions and look for lanes that are stuck."""
        self.sandbox.forget_refusals()
        self._failures.write()
        self._around.look_at_clock()
        for lane in self._lanes.values():
            lane.look_at_clock()
        if self._membership is None or self._draining:
            return
        if now_s - self._committed_at >= _COMMIT_POSITIONS_EVERY_S:
            self._committed_at = now_s
            self._spawn_quietly(
                self._membership.commit_positions(self._answered_positions())
            )
        # Whichever module it is: some may have been granted this much.
        deadline_s = self._ceilings.hard_limits.deadline_ms / 1000 + _WATCHDOG_S
        stuck = self._watchdog.look(
            self._lanes.values(),
            asyncio.get_running_loop().time(),
            saturated=self.sandbox.running >= self.sandbox.capacity,
            most_s=deadline_s,
        )
        if stuck is not None:
            raise RuntimeError(stuck)

    def _spawn_quietly(self, work: Awaitable[object]) -> None:
        """Run something short whose failure does not matter."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda t: t.cancelled() or t.exception())

    def _answered_positions(self) -> dict[int, int]:
        return {
            p: lane.head.next
            for p, lane in self._lanes.items()
            if lane.head is not None and lane.running
        }

    def state(self) -> WorkerState:
        """Give this worker's row of the status, and set the gauges."""
        count = self._tally
        count.set(metrics.CONCURRENT, self.sandbox.running)
        count.set(metrics.CAPACITY, self.sandbox.capacity)
        count.set(
            metrics.IN_FLIGHT, sum(lane.in_flight for lane in self._lanes.values())
        )
        count.set(metrics.LAST_COMMIT, self._last_commit_s)
        if self._keys is not None:
            count.set(metrics.KEYS_FETCHED, self._keys.fetched_s)
        count.set(metrics.REPLAY_BYTES, self.replay_budget.used_bytes)
        count.set(metrics.REPLAY_LIMIT, self.replay_budget.limit_bytes)
        if (skew_s := self._around.clock.skew_s) is not None:
            count.set(metrics.CLOCK_SKEW, skew_s)
        self._count_sandbox()
        lanes = tuple(self._row(lane) for lane in self._lanes.values())
        conditions = self._around.conditions
        # Without a view that is known to be the topic's nothing is fetched or decided.
        in_touch = self._follower.confirmed or not (self._ready or self._waits)
        return WorkerState(
            ready=self._ready and in_touch,
            audit_writable=in_touch
            and (
                not lanes or any(lane.state is not LaneState.BLOCKED for lane in lanes)
            ),
            note=self._note or ("" if in_touch else _OUT_OF_TOUCH),
            troubles=conditions.troubles,
            audience=self._audience,
            engine=self.sandbox.engine if self._ready else "",
            hardening=tuple(self.sandbox.hardening) if self._ready else (),
            lanes=lanes,
        )

    def _count_sandbox(self) -> None:
        """Count what the sandbox did since the last time."""
        count, told, cache = self._tally, self._told, self._cache
        for outcome, number in cache.outcomes.items():
            count.add(metrics.CACHE_LOOKUPS, number - told[outcome], outcome)
            told[outcome] = number
        for end, number in self.sandbox.ended.items():
            count.add(metrics.CHILD_ENDS, number - told[end], end)
            told[end] = number
        compiled = self.sandbox.compiled
        count.add(metrics.COMPILATIONS, compiled - told["compiled"])
        told["compiled"] = compiled
        count.set(metrics.CACHE_BYTES, cache.size_bytes)
        count.set(metrics.CACHE_LIMIT, self._orders.settings.cache_bytes)

    def _row(self, lane: Lane) -> LaneStatus:
        return LaneStatus(
            lane.partition,
            lane.state,
            lane.reason,
            -1 if lane.head is None else lane.head.next,
            self._fetching.ends.get(lane.partition, -1),
            lane.term,
            lane.in_flight,
            lane.oldest_ms,
        )


_OUT_OF_TOUCH = "the end of the control topic is not known; no broker tells it"
_TROUBLE = frozenset({LaneState.BLOCKED, LaneState.WAITING})


def _keys_not_refreshed(error: Exception) -> None:
    log.warning("keys.not_refreshed", reason=str(error))


def _sandbox_config(orders: WorkerOrders) -> SandboxConfig:
    settings = orders.settings
    ceilings = settings.ceilings
    return SandboxConfig(
        children=settings.children,
        max_stack_bytes=ceilings.stack_bytes,
        max_module_bytes=ceilings.hard_module_bytes,
        # The largest granted guest, beside interpreter and compiled modules.
        child_data_bytes=ceilings.hard_memory_bytes + 1536 * MIB,
        compile_wall_s=ceilings.compile_deadline_ms / 1000,
        compile_data_bytes=ceilings.compile_memory_bytes,
        require_hardening=settings.require_hardening,
    )


def _read_policy(path: str | None) -> Policy:
    try:
        text = b"" if path is None else Path(path).read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise ConfigError(message) from error
    return Policy.parse(text)


def _output_bytes(result_bytes: int, encoding: str) -> int:
    """Most output that a result can carry: JSON spells three bytes with four."""
    room = result_bytes - 8 * 1024
    return room * 3 // 4 if encoding == "json" else room
