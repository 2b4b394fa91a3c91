"""`wasm-executor init`: the one-time ceremony that begins a deployment.

It makes the keys, begins the control chain and every audit partition. Steps, each of
which a second run finds done and leaves alone:

1. keys and secret as files (never overwritten);
2. look: every audit partition is empty or begins with this operator's genesis, else
   nothing at all is written;
3. control.genesis, then the fleet, notary and first administrator keys enrolled;
4. one genesis for each empty audit partition, starting at the end of its requests.

A topic that grew gets the geneses of its new partitions by the same command. An audit
partition that is empty although results were written has lost its log: that needs
the old log's id, because a silent new beginning is what an attacker would want.

Not here: creating topics (``kafka.admin``), and asking a human.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.genesis import (
    LogPlace,
    TopicNames,
    make_genesis,
    verify_genesis,
)
from stream_executor.audit.key_files import private_key_at, secret_at
from stream_executor.audit.signing import public_bytes
from stream_executor.model.control import KeyPurpose
from stream_executor.model.errors import ConfigError, IntegrityError, UnavailableError
from stream_executor.modules.view import ControlView
from stream_executor.services.control_reading import read_control
from stream_executor.services.speaking import Speaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.services.control_reading import LogReader
    from stream_executor.services.speaking import LogAppender


LOG_ID_BYTES = 16


class CeremonyKeys(msgspec.Struct, frozen=True):
    """What the ceremony's files hold, and where they are; never printed."""

    folder: Path
    operator: Ed25519PrivateKey
    fleet: Ed25519PrivateKey
    notary: Ed25519PrivateKey
    administrator: Ed25519PrivateKey
    made: tuple[str, ...]

    def __repr__(self) -> str:
        return f"CeremonyKeys({self.folder})"

    @property
    def settings_lines(self) -> list[str]:
        """What belongs into config.env; keys that leave this host stay out of it."""
        folder = self.folder
        return [
            f"WASM_EXECUTOR_OPERATOR_PUBLIC_KEY={public_bytes(self.operator).hex()}",
            f"WASM_EXECUTOR_FLEET_KEY_FILE={folder / 'fleet.pem'}",
            f"WASM_EXECUTOR_DEPLOYMENT_SECRET_FILE={folder / 'deployment-secret'}",
        ]


class Deployment(msgspec.Struct, frozen=True):
    """What is begun.

    Attributes:
        name: the deployment's name (APP_ID).
        cluster_id: Kafka cluster id, as the brokers say it.
        topics: the six topics, which exist.
        audience: of tokens; None for ``<name>/<cluster id>``.
        previous_logs: by partition, the log_id of a log that was lost or moved.
    """

    name: str
    cluster_id: str
    topics: TopicNames
    audience: str | None = None
    previous_logs: Mapping[int, bytes] = {}


class CeremonyReport(msgspec.Struct, frozen=True):
    """What was done.

    Attributes:
        settings_lines: for config.env.
        done: one line for each thing that was made now; empty on a second run.
        log_ids: log_id of every audit partition, by partition.
        audience: what the control chain says, whoever began it.
    """

    settings_lines: list[str]
    done: list[str]
    log_ids: list[bytes]
    audience: str


def prepare_keys(folder: Path) -> CeremonyKeys:
    """Make the key files that are not there yet and read them all (step 1).

    Raises:
        ConfigError: a file is there and is no key, or cannot be written.
    """
    folder = folder.absolute()
    keys = {}
    made = []
    for name in ("operator", "fleet", "notary", "administrator"):
        path = folder / f"{name}.pem"
        keys[name], new = private_key_at(path)
        made += [f"made {path}"] if new else []
    secret_path = folder / "deployment-secret"
    _, new = secret_at(secret_path)
    made += [f"made {secret_path}"] if new else []
    return CeremonyKeys(folder, **keys, made=tuple(made))


async def perform(
    deployment: Deployment,
    keys: CeremonyKeys,
    reader: LogReader,
    appender: LogAppender,
    now_ms: Callable[[], int],
) -> CeremonyReport:
    """Begin the deployment, or what of it was not begun yet (steps 2 to 4).

    Raises:
        IntegrityError: a topic was begun by another operator, or holds what is no
            genesis: nothing was written.
        ConfigError: the topics' partition counts differ.
        TransientError: the brokers were not there; run it again.
    """
    ceremony = _Ceremony(deployment, keys, reader, appender, now_ms)
    log_ids = await ceremony.look()
    await ceremony.begin_control()
    for partition, log_id in enumerate(log_ids):
        if log_id is None:
            log_ids[partition] = await ceremony.begin_log(partition, len(log_ids))
    return CeremonyReport(
        keys.settings_lines,
        [*keys.made, *ceremony.done],
        [log_id for log_id in log_ids if log_id is not None],
        ceremony.audience,
    )


class _Ceremony:
    def __init__(
        self,
        deployment: Deployment,
        keys: CeremonyKeys,
        reader: LogReader,
        appender: LogAppender,
        now_ms: Callable[[], int],
    ) -> None:
        self.done: list[str] = []
        self._deployment = deployment
        self._topics = deployment.topics
        self._keys = keys
        self._reader = reader
        self._appender = appender
        self._now_ms = now_ms
        self._view = ControlView(public_bytes(keys.operator))
        self._speaker = Speaker(
            reader,
            appender,
            self._topics.control,
            self._view,
            keys.operator,
            now_ms(),
        )

    async def look(self) -> list[bytes | None]:
        """Give each audit partition's log_id, None where it is empty; write nothing."""
        topics, reader = self._topics, self._reader
        counts = {
            name: await reader.partition_count(name)
            for name in (topics.requests, topics.results, topics.audit)
        }
        if len(set(counts.values())) != 1:
            message = (
                f"requests, results and audit need the same number of partitions: "
                f"{counts}; see `wasm-executor topics plan`"
            )
            raise ConfigError(message)
        await read_control(self._reader, self._topics.control, self._view)
        count = counts[topics.audit]
        return [await self._log_id(partition, count) for partition in range(count)]

    @property
    def audience(self) -> str:
        """What tokens must name."""
        return self._view.audience

    async def begin_control(self) -> None:
        """Say genesis and the first keys, as far as nobody has."""
        deployment, keys = self._deployment, self._keys
        view, speaker = self._view, self._speaker
        audience = deployment.audience
        if audience is None:
            audience = f"{deployment.name}/{deployment.cluster_id}"
        if await speaker.say(
            lambda: speaker.orders.genesis(
                deployment.name, deployment.cluster_id, audience
            ),
            lambda: view.begun,
        ):
            self.done.append(f"began the control chain in {self._topics.control}")
        if view.cluster_id != deployment.cluster_id:
            message = (
                f"{self._topics.control} was begun on cluster {view.cluster_id}, "
                f"this is {deployment.cluster_id}"
            )
            raise IntegrityError(message)
        for purpose, key in (
            (KeyPurpose.FLEET, keys.fleet),
            (KeyPurpose.NOTARY, keys.notary),
            (KeyPurpose.ADMINISTRATOR, keys.administrator),
        ):
            await self._enrol(purpose, public_bytes(key))

    async def begin_log(self, partition: int, count: int) -> bytes:
        """Write the genesis of an empty audit partition; give its log_id."""
        deployment, topics = self._deployment, self._topics
        start = await self._reader.end_offset(topics.requests, partition)
        log_id = secrets.token_bytes(LOG_ID_BYTES)
        value = make_genesis(
            self._keys.operator,
            self._place(partition, count),
            log_id=log_id,
            start_offset=start,
            notary_key=public_bytes(self._keys.notary),
            created_ms=self._now_ms(),
            previous_log=deployment.previous_logs.get(partition),
        )
        await self._appender.append(topics.audit, partition, value)
        # If somebody else began it at the same moment, the first one counts.
        found = await self._log_id(partition, count)
        if found is None:
            message = f"{topics.audit}-{partition}: the genesis is not to be read yet"
            raise UnavailableError(message)
        if found == log_id:
            self.done.append(
                f"began {topics.audit}-{partition}: log {log_id.hex()}, "
                f"answering from requests offset {start}"
            )
        return found

    def _place(self, partition: int, count: int) -> LogPlace:
        deployment = self._deployment
        return LogPlace(deployment.cluster_id, deployment.topics, partition, count)

    async def _log_id(self, partition: int, count: int) -> bytes | None:
        reader, topics = self._reader, self._topics
        begin = await reader.begin_offset(topics.audit, partition)
        end = await reader.end_offset(topics.audit, partition)
        where = f"{topics.audit}-{partition}"
        async for records in reader.read(topics.audit, partition, begin, end):
            for first in records:
                genesis = verify_genesis(
                    first.value or b"",
                    public_bytes(self._keys.operator),
                    self._place(partition, count),
                )
                return genesis.log_id
        if end > 0:
            message = f"{where} ends at {end} and holds nothing: its log was deleted"
            await self._refuse_unless_continued(partition, message)
        results = await reader.end_offset(topics.results, partition)
        if results > 0:
            message = (
                f"{where} is empty, but {topics.results}-{partition} ends at "
                f"{results}: its log was lost"
            )
            await self._refuse_unless_continued(partition, message)
        return None

    async def _refuse_unless_continued(self, partition: int, message: str) -> None:
        if partition not in self._deployment.previous_logs:
            message += (
                f"; to begin anew all the same, name it: --previous-log "
                f"{partition}=<log id> (32 hex digits, zeros if it is not known)"
            )
            raise IntegrityError(message)

    async def _enrol(self, purpose: KeyPurpose, public_key: bytes) -> None:
        view, speaker = self._view, self._speaker
        known = {(key.purpose, key.public_key): key for key in view.enrolled_keys()}
        retired = known.get((purpose, public_key))
        if retired is not None and retired.retired_at is not None:
            message = (
                f"{purpose.name.lower()} key {public_key.hex()} was retired; remove "
                "its file to make another"
            )
            raise ConfigError(message)
        name = f"{self._deployment.name} {purpose.name.lower()}"
        if await speaker.say(
            lambda: speaker.orders.enrol(purpose, public_key, name),
            lambda: view.key_valid(purpose, public_key, view.next_offset),
        ):
            self.done.append(f"enrolled {purpose.name.lower()} key {public_key.hex()}")
