"""The worker as its lanes see it: ``lane.world.LaneWorld`` on real ports.

Not here: which lanes there are (``owned_lanes``), and what they tell (``lane_news``).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor import __version__
from stream_executor.auth.replay import ReplayBudget
from stream_executor.kafka.gaps import GapProver
from stream_executor.kafka.writer import LaneWriter, WriterOptions
from stream_executor.lane.audit_log import Expected
from stream_executor.lane.conclusion import LaneIdentity
from stream_executor.lane.world import LaneSettings
from stream_executor.model.audit import LaneAcquired, SchemaDigest, Seal
from stream_executor.model.errors import IntegrityError
from stream_executor.wire import results
from stream_executor.wire.schemas import schema_digests

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.kafka.reader import PartitionReader
    from stream_executor.lane.head import LaneHead
    from stream_executor.sandbox.pool import SandboxPool
    from stream_executor.services.decision_basis import DecisionBasis
    from stream_executor.services.fetching import FetchLoop
    from stream_executor.services.home_cluster import HomeCluster
    from stream_executor.services.lane_news import LaneNews
    from stream_executor.services.module_supply import ModuleSupply
    from stream_executor.services.worker_settings import WorkerOrders, WorkerSettings

_ENCODERS = {"json": results.encode_json, "avro": results.encode_avro}


class LaneHost:
    """What all lanes of one worker share.

    Args:
        orders: who the worker is.
        connection: the brokers.
        home: the worker's cluster.
        reader: reads the lanes' logs.
        sandbox, basis, modules, fetching, news: the worker's, for every lane.

    Attributes:
        prover: to be started and closed with the worker.
    """

    def __init__(
        self,
        orders: WorkerOrders,
        connection: KafkaConnection,
        *,
        home: HomeCluster,
        reader: PartitionReader,
        sandbox: SandboxPool,
        basis: DecisionBasis,
        modules: ModuleSupply,
        fetching: FetchLoop,
        news: LaneNews,
    ) -> None:
        self.settings = _lane_settings(orders.settings)
        self.process_key = Ed25519PrivateKey.from_private_bytes(
            orders.identity.process_secret_key
        )
        self.replay_budget = ReplayBudget(orders.settings.pace.replay_bytes)
        self.prover = GapProver(connection)
        self.sandbox = sandbox
        self.basis, self.modules, self.news = basis, modules, news
        self._home = home
        self._orders = orders
        self._connection = connection
        self._reader = reader
        self._fetching = fetching

    async def hold_cluster(self) -> None:
        """Ask whether this worker's cluster answers still."""
        await self._home.hold()

    def expected(self, partition: int) -> Expected:
        """Give what the log of this partition must be."""
        settings = self._orders.settings
        return Expected(
            settings.topics.requests, settings.topics.results, settings.topics.audit,
            partition, self._home.cluster_id, settings.operator_public_key,
            self._believe, settings.secrets.deployment_secret, self.basis.horizon_ms,
            self.now_ms(), self.basis.view.resumes, self._orders.identity.incarnation,
        )  # fmt: skip

    def _believe(self, seal: Seal) -> None:
        if not self.basis.view.fleet_key_valid(seal.fleet_key, seal.control_offset):
            raise IntegrityError(
                f"seal {seal.seq}: fleet key {seal.fleet_key.hex()[:16]}… was not "
                f"enrolled at control offset {seal.control_offset}"
            )

    def reader(self) -> PartitionReader:
        """Give the shared reader; reads of several lanes take turns."""
        return self._reader

    def writer(self, partition: int, batch_bytes: int) -> LaneWriter:
        """Give a new writer for a lane; it has fenced nobody yet."""
        topics = self._orders.settings.topics
        return LaneWriter(
            self._connection,
            results_topic=topics.results,
            audit_topic=topics.audit,
            partition=partition,
            options=WriterOptions(max_batch_bytes=batch_bytes),
            compare=self._home.compare,
        )

    def opening(self, term: int, head: LaneHead) -> LaneAcquired:
        """Give the lane.acquired leaf of a term; seq and prev are the caller's."""
        identity, sandbox = self._orders.identity, self.sandbox
        certificate, digests = identity.certificate, self.basis.context().digests
        return LaneAcquired(
            0, b"", term, head.lane_time, head.next, self.settings.window_requests,
            certificate.process_key, certificate.fleet_key, certificate.certified_ms,
            certificate.certificate, identity.incarnation, identity.instance,
            self._orders.settings.membership.group, __version__, sandbox.engine,
            sandbox.engine_config_s256, self.basis.ceilings.limits,
            list(sandbox.hardening),
            [SchemaDigest(n, d) for n, d in schema_digests().items()],
            digests.control_offset, digests.control_head, digests.policy_s256,
            digests.keys_s256,
        )  # fmt: skip

    def identity(
        self, partition: int, log_id: bytes, term: int, max_result_bytes: int
    ) -> LaneIdentity:
        """Give what stays the same for a lane during a term."""
        settings = self._orders.settings
        return LaneIdentity(
            settings.topics.requests, partition, log_id, term,
            self._orders.identity.certificate, self.sandbox.engine,
            _ENCODERS[settings.result_encoding], max_result_bytes,
            self.basis.horizon_ms,
        )  # fmt: skip

    def now_ms(self) -> int:
        """Give this worker's clock, milliseconds since 1970 UTC."""
        return time.time_ns() // 1_000_000

    def seek(self, partition: int, offset: int) -> None:
        """Have the next poll of this partition begin at an offset."""
        self._fetching.seek(partition, offset)


def _lane_settings(settings: WorkerSettings) -> LaneSettings:
    pace = settings.pace
    return LaneSettings(
        window_requests=pace.window_requests,
        window_bytes=pace.window_bytes,
        max_result_bytes=settings.ceilings.result_bytes,
        batch_bytes=WriterOptions().max_batch_bytes,
        commit_requests=pace.commit_requests,
        commit_bytes=pace.commit_bytes,
        most_floor_s=pace.commit_floor_ms / 1000,
    )
