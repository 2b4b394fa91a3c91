"""A worker's parts, joined; how it starts, reloads, looks at itself and drains.

What the parts do lies beside this file: a start waits with ``retries``, lanes come and
go in ``owned_lanes``, see the worker as ``lane_host``, decide on a ``decision_basis``
and are fed by ``fetching``; ``module_supply`` feeds the sandbox, ``lane_news`` and
``worker_gauges`` count.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from stream_executor.http import metrics
from stream_executor.http.status import LaneStatus
from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.connection import from_properties, renew_certificate
from stream_executor.kafka.fetcher import TopicFetcher
from stream_executor.kafka.reader import PartitionReader
from stream_executor.kafka.topics import TopicNames, desired
from stream_executor.lane.admission import DENIED, REVOKED
from stream_executor.model.codes import Code
from stream_executor.model.errors import (
    BrokerRefusedError,
    ConfigError,
    UnavailableError,
)
from stream_executor.model.lanes import LaneState
from stream_executor.model.request import ModuleDigest
from stream_executor.modules.store import ModuleStore
from stream_executor.modules.view import ControlView
from stream_executor.sandbox.artefact_cache import FOLDER, ArtefactCache, key_of
from stream_executor.sandbox.config import MIB, SandboxConfig
from stream_executor.sandbox.pool import SandboxPool
from stream_executor.services.compile_ahead import CompileAhead
from stream_executor.services.control_follower import ControlFollower
from stream_executor.services.decision_basis import DecisionBasis
from stream_executor.services.fetching import FetchLoop
from stream_executor.services.home_cluster import HomeCluster
from stream_executor.services.lane_host import LaneHost
from stream_executor.services.lane_news import LaneNews
from stream_executor.services.module_supply import ModuleSupply
from stream_executor.services.owned_lanes import OwnedLanes
from stream_executor.services.reports import WorkerState
from stream_executor.services.retries import Retries
from stream_executor.services.surroundings import Surroundings
from stream_executor.services.watchdog import Watchdog
from stream_executor.services.worker_gauges import WorkerGauges

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stream_executor.http.tally import Tally
    from stream_executor.kafka.gaps import GapProver
    from stream_executor.lane.lane import Lane
    from stream_executor.services.worker_settings import WorkerOrders, WorkerSettings

# A lane whose oldest request is unfinished this long after its deadline is stuck.
_WATCHDOG_S = 60.0
_OUT_OF_TOUCH = "the end of the control topic is not known; no broker tells it"

log = structlog.get_logger()


class WorkerRuntime:
    """Everything one worker owns, from ``start`` to ``drain``.

    Attributes:
        failure: done when something ended that must not end; holds its exception.
    """

    def __init__(self, orders: WorkerOrders, tally: Tally) -> None:
        settings = orders.settings
        self._orders = orders
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connection, ignored = from_properties(settings.kafka_properties)
        for name in ignored:
            log.warning("kafka.property_ignored", name=name)
        self._topics = TopicNames(*msgspec.structs.astuple(settings.topics))
        # Three connections: following occupies one, and 60 MB of module must not hold
        # up a lane's look-ups.
        query, follow, large = (PartitionReader(self._connection) for _ in range(3))
        self._home = HomeCluster(query)
        self._around = Surroundings(
            self._connection, self._topics, self._home, self._topic_replaced
        )
        self._retries = Retries(self._around)
        self._lanes: dict[int, Lane] = {}
        self._view = ControlView(settings.operator_public_key)
        self._follower = ControlFollower(
            self._view, self._topics.control, self._home, follow, query,
            self._control_changed,
        )  # fmt: skip
        self._basis = DecisionBasis(settings, self._follower)
        supply = ModuleSupply(
            ModuleStore(
                self._view, large, self._topics.modules,
                settings.ceilings.hard_module_bytes,
            ),
            self._lanes,
        )  # fmt: skip
        cache = ArtefactCache(
            Path(settings.state_dir) / FOLDER,
            key_of(settings.secrets.deployment_secret),
            settings.cache_bytes,
            lambda s256: self._view.resolve(ModuleDigest(s256)) is not None,
        )
        config = _sandbox_config(settings)
        self._sandbox = SandboxPool(config, supply.load, cache)
        self._ahead = CompileAhead(
            self._view, self._basis.ceilings, self._sandbox, cache,
            config.artefact_cache_bytes,
        )  # fmt: skip
        fetcher = TopicFetcher(self._connection, self._topics.requests)
        self._fetching = FetchLoop(
            fetcher, self._lanes, lambda: self._follower.confirmed
        )
        self._news = LaneNews(
            tally, self._around, self._fetching.lanes_changed, self._fail
        )
        self._host = LaneHost(
            orders, self._connection, home=self._home, reader=query,
            sandbox=self._sandbox, basis=self._basis, modules=supply,
            fetching=self._fetching, news=self._news,
        )  # fmt: skip
        self._owned = OwnedLanes(
            orders, self._connection, self._lanes, self._host, self._fetching,
            self._around, self._retries,
        )  # fmt: skip
        self._gauges = WorkerGauges(
            tally, self._sandbox, cache, self._host.replay_budget
        )
        tally.set(metrics.CACHE_LIMIT, settings.cache_bytes)
        self._to_connect: list[PartitionReader | GapProver | TopicFetcher] = [
            query, follow, large, self._host.prover, fetcher,
        ]  # fmt: skip
        self._connected: list[PartitionReader | GapProver | TopicFetcher] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._watchdog = Watchdog(asyncio.get_running_loop().time())
        self._banned: frozenset[bytes] = frozenset()
        self._resumed = 0
        self._ready = False

    # -- life -----------------------------------------------------------------

    async def start(self) -> None:
        """Connect, read the views to their ends, start children, join the group.

        Raises:
            ConfigError: topics, keys or the operator key are not as they must be.
        """
        retries = self._retries
        retries.note = "waiting for the brokers"
        # Children take as long to start as brokers to answer: both at once.
        sandbox = asyncio.create_task(self._sandbox.start())
        self._tasks.append(sandbox)
        await retries.until_done(self._connect)
        retries.note = "reading the control topic"
        self._spawn(self._follower.run())
        await retries.until_done(self._follower.confirm)
        if not self._view.begun:
            raise ConfigError(
                f"{self._topics.control} of cluster {self._home.cluster_id} holds no "
                "genesis: set KAFKA_BOOTSTRAP_SERVERS to the cluster where it was "
                "written, or run `wasm-executor init` if nobody did yet"
            )
        retries.note = "loading keys"
        await retries.until_done(self._basis.load_keys)
        self._spawn(self._basis.follow_keys())
        retries.note = "starting the sandbox"
        await sandbox
        self._spawn(self._fetching.run())
        retries.note = "joining the group"
        await self._owned.join()
        self._spawn(self._owned.stay())
        self._spawn(self._around.run())
        retries.note = ""
        self._ready = True
        if self._orders.settings.compile_ahead:
            self._spawn(self._ahead.run())
        log.info("worker.ready", instance=self._orders.identity.instance)

    async def _connect(self) -> None:
        for part in self._to_connect[len(self._connected) :]:
            await part.start()
            self._connected.append(part)  # this may be tried once more
        async with KafkaAdmin(self._connection) as admin:
            cluster = await admin.cluster()
            self._home.cluster_id = cluster.cluster_id
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

    async def drain(self) -> None:
        """Stop intake, let lanes finish within the budget, leave in good order."""
        self._ready = False
        await self._owned.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sandbox.stop()
        for part in reversed(self._connected):
            await part.close()
        self._news.failures.write()
        log.info("worker.drained")

    def reload(self) -> None:
        """Read keys, policy and certificate again; what cannot be read stays."""
        self._spawn(self._reload())

    async def _reload(self) -> None:
        try:
            renew_certificate(self._connection)
            await self._basis.reload()
        except (ConfigError, UnavailableError) as error:
            log.error("worker.reload_refused", reason=str(error))  # noqa: TRY400
        else:
            log.info("worker.reloaded")

    def _spawn(self, work: Awaitable[None]) -> None:
        """Run something for ever; if it fails, the worker does: never silently."""

        async def watched() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - handed to the process
                self._fail(error)

        self._tasks.append(asyncio.create_task(watched()))

    def _fail(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)

    # -- what changes under it --------------------------------------------------

    def _control_changed(self) -> None:
        view = self._view
        self._basis.view_changed()
        # What was admitted before and waits for a child must not start any more.
        for code, message, banned in (
            (Code.MODULE_NOT_FOUND, REVOKED, view.revoked_modules),
            (Code.DENIED_BY_POLICY, DENIED, view.denied.modules),
        ):
            if new := banned - self._banned:
                self._sandbox.withdraw(new, code, message)
        self._banned = view.revoked_modules | view.denied.modules
        self._ahead.control_changed()
        if view.resumed != self._resumed:
            self._resumed = view.resumed
            for lane in self._lanes.values():
                lane.ordered()

    def _topic_replaced(self, topic: str) -> None:
        """Have lanes look at their logs again: one was deleted and made anew."""
        log.error("topic.replaced", topic=topic)
        error = UnavailableError(f"{topic} was deleted and made anew")
        if topic in {self._topics.requests, self._topics.audit}:
            for lane in self._lanes.values():
                if lane.intake is not None and lane.intake.open:
                    lane.intake.fail(error)

    # -- looking at itself --------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """Keep the group's positions and look for lanes that are stuck."""
        self._sandbox.forget_refusals()
        self._news.failures.write()
        self._around.look_at_clock()
        for lane in self._lanes.values():
            lane.look_at_clock()
        self._owned.keep_positions(now_s)
        # Whichever module it is: some may have been granted this much.
        deadline_s = self._basis.ceilings.hard_limits.deadline_ms / 1000
        stuck = self._watchdog.look(
            self._lanes.values(),
            asyncio.get_running_loop().time(),
            saturated=self._sandbox.running >= self._sandbox.capacity,
            most_s=deadline_s + _WATCHDOG_S,
        )
        if stuck is not None:
            raise RuntimeError(stuck)

    def state(self) -> WorkerState:
        """Give this worker's row of the status, and set the gauges."""
        lanes = tuple(self._row(lane) for lane in self._lanes.values())
        self._gauges.look(
            sum(lane.in_flight for lane in lanes),
            self._basis.keys_fetched_s,
            self._around.clock.skew_s,
        )
        retries = self._retries
        # Without a view that is known to be the topic's nothing is fetched or decided.
        in_touch = self._follower.confirmed or not (self._ready or retries.waits)
        return WorkerState(
            ready=self._ready and in_touch,
            audit_writable=in_touch
            and (
                not lanes or any(lane.state is not LaneState.BLOCKED for lane in lanes)
            ),
            note=retries.note or ("" if in_touch else _OUT_OF_TOUCH),
            troubles=self._around.conditions.troubles,
            audience=self._basis.audience,
            engine=self._sandbox.engine if self._ready else "",
            hardening=tuple(self._sandbox.hardening) if self._ready else (),
            lanes=lanes,
        )

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


def _sandbox_config(settings: WorkerSettings) -> SandboxConfig:
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
