"""A deployment on a Kafka with TLS, SASL and an authorizer, with the shipped rights.

deploy/kafka/acls.sh runs with Kafka's own kafka-acls; after it every step of an
operator's, executor's, requester's and auditor's day is taken by that principal, and
what nobody may do is tried by everybody.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its own exports
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from stream_executor.embedded.tools import Installation
from stream_executor.kafka.connection import from_properties
from tests.history import assert_sound_at
from tests.secured_kafka import USERS, WHO, SecuredKafka, password, write_properties

if TYPE_CHECKING:
    from tests.acceptance.cli_runner import Cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
ROOT = Path(__file__).parents[2]
AUDIT = "wasm.audit"


def kafka_acls(folder: Path) -> Path:
    """Make the command that an administrator has on his PATH."""
    java = Installation.ready()
    jvm = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
    if java.startup_cache.exists():
        jvm.append(f"-XX:AOTCache={java.startup_cache}")
    tool = "org.apache.kafka.tools.AclCommand"
    command = shlex.join(java.command(tool, jvm=jvm, log_level="error"))
    script = folder / "kafka-acls"
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o755)
    return script


def as_librdkafka(secured: SecuredKafka, user: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": secured.bootstrap,
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-256",
        "sasl.username": user,
        "sasl.password": password(user),
        "ssl.ca.location": str(secured.authority.certificate),
    }


def refused_to_alter_the_audit(secured: SecuredKafka, user: str) -> None:
    """Try to delete, shorten, reconfigure and grow the audit topic."""
    admin = AdminClient(as_librdkafka(secured, user))
    retention = ConfigResource(
        ResourceType.TOPIC,
        AUDIT,
        incremental_configs=[
            ConfigEntry(
                "retention.ms", "1", incremental_operation=AlterConfigOpType.SET
            )
        ],
    )
    attempts: list[dict[Any, Any]] = [
        admin.delete_topics([AUDIT]),
        admin.incremental_alter_configs([retention]),
        admin.create_partitions([NewPartitions(AUDIT, 9)]),
    ]
    for attempt in attempts:
        for outcome in attempt.values():
            with pytest.raises(KafkaException, match=r"(?i)authoriz"):
                outcome.result(10)


def refused_to_write(secured: SecuredKafka, user: str, topic: str) -> None:
    said: list[object] = []
    producer = Producer(as_librdkafka(secured, user))
    producer.produce(topic, b"forged", on_delivery=lambda error, _: said.append(error))
    producer.flush(10)
    assert said
    assert "authoriz" in str(said[0]).lower(), (user, topic, said)


def test_a_day_with_exactly_the_shipped_rights(
    cli: Cli, secured_kafka: SecuredKafka
) -> None:
    files = {
        user: write_properties(
            cli.folder / f"{user}.properties", secured_kafka.properties(user)
        )
        for user in USERS
    }
    environment = {
        "PATH": os.environ["PATH"],
        "KAFKA_ACLS": str(kafka_acls(cli.folder)),
    }
    script = str(ROOT / "deploy" / "kafka" / "acls.sh")
    granting = [script, secured_kafka.bootstrap, str(files["admin"])]
    subprocess.run(granting, env=environment, check=True, stdout=subprocess.DEVNULL)

    def by(user: str) -> tuple[str, str]:
        return ("--command-config", str(files[user]))

    here = ("--bootstrap-server", secured_kafka.bootstrap)
    applied = cli("topics", "apply", "--partitions", "1", *here, *by(WHO.operator))
    assert applied.code == 0, applied.err
    begun = cli("init", *here, *by(WHO.ceremony))
    assert begun.code == 0, begun.err
    ending = [*granting, "end-ceremony"]
    subprocess.run(ending, env=environment, check=True, stdout=subprocess.DEVNULL)

    keys = cli.folder / "wasm-executor-keys"
    service = _start(cli, begun.out, files[WHO.executor])
    try:
        add = str(ROOT / "examples" / "modules" / "add.wat")
        signed = ("--key", str(keys / "administrator.pem"))
        trusted = next(
            line.partition("=")[2]
            for line in begun.out.splitlines()
            if line.startswith("WASM_EXECUTOR_OPERATOR_PUBLIC_KEY=")
        )
        published = cli(
            "module", "publish", add, *signed, "--operator-key", trusted,
            *here, *by(WHO.operator),
        )  # fmt: skip
        assert published.code == 0, published.err
        answered = cli(
            "submit", "add@1", "--function", "add", "--arg", "i32:20", "--arg",
            "i32:22", "--wait", "--credentials", str(keys / "credentials.json"),
            *by(WHO.requester),
        )  # fmt: skip
        assert (answered.code, answered.out) == (0, "i32:42\n"), answered.err
        verified = cli(
            "audit", "verify", "--operator-key", trusted, *here, *by(WHO.auditor)
        )
        assert (verified.code, "verify: ok" in verified.out) == (0, True), verified
        checked = cli("topics", "check", *here, *by(WHO.executor))
        assert checked.code == 0, checked.err
    finally:
        service.send_signal(signal.SIGTERM)
        _, log = service.communicate(timeout=40)
    assert service.returncode == 0
    assert password(WHO.executor).encode() not in log
    auditor, _ = from_properties(secured_kafka.properties(WHO.auditor))
    assert_sound_at(auditor)

    for user in USERS[1:]:
        refused_to_alter_the_audit(secured_kafka, user)
        if user != WHO.executor:
            refused_to_write(secured_kafka, user, AUDIT)
            refused_to_write(secured_kafka, user, "wasm.results")
    refused_to_write(secured_kafka, WHO.executor, "wasm.control")


def _start(cli: Cli, settings: str, properties: Path) -> subprocess.Popen[bytes]:
    """Start the service as the executor's principal; give it when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = [
        line
        for line in settings.splitlines()
        if not line.startswith("KAFKA_BOOTSTRAP_SERVERS")
    ]
    lines += [
        f"KAFKA_PROPERTIES_FILE={properties}",
        f"METRICS_PORT={port}",
        f"WASM_EXECUTOR_STATE_DIR={cli.folder / 'state'}",
        f"AUDIT_LOG_PATH={cli.folder / 'audit.log'}",
        "WASM_EXECUTOR_CHILDREN=1",
    ]
    config = cli.folder / "config.env"
    config.write_text("\n".join(lines) + "\n")
    service = cli.start("--env-file", str(config))
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
        except OSError:
            assert service.poll() is None, service.communicate()
            time.sleep(0.1)
        else:
            return service
    service.kill()
    raise AssertionError(service.communicate())
