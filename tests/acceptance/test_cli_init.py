"""A deployment by hand, as an operator does it: init, config.env, run, submit, stop."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.connection import KafkaConnection
from tests.history import assert_sound_at

if TYPE_CHECKING:
    from tests.acceptance.cli_runner import Cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
TOPICS = ("requests", "results", "audit", "modules", "control", "checkpoints")
ADD = str(Path(__file__).parents[2] / "examples" / "modules" / "add.wat")


@pytest.fixture
def operator(cli: Cli, kafka_bootstrap: str, topic_prefix: str) -> Cli:
    """The command on a host whose config.env names brokers and topics."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = [f"KAFKA_BOOTSTRAP_SERVERS={kafka_bootstrap}", f"METRICS_PORT={port}"]
    lines += [f"WASM_EXECUTOR_{n.upper()}_TOPIC={topic_prefix}{n}" for n in TOPICS]
    lines += [
        f"WASM_EXECUTOR_GROUP={topic_prefix}group",
        f"WASM_EXECUTOR_STATE_DIR={cli.folder / 'state'}",
        f"AUDIT_LOG_PATH={cli.folder / 'audit.log'}",
        "WASM_EXECUTOR_CHILDREN=1",
    ]
    config = cli.folder / "config.env"
    config.write_text("\n".join(lines) + "\n")
    cli.environment["WASM_EXECUTOR_ENV_FILE"] = str(config)
    return cli


def test_from_nothing_to_a_result_and_a_clean_stop(
    operator: Cli, kafka_bootstrap: str, topic_prefix: str
) -> None:
    assert operator("topics", "check").code == 4
    begun = operator("init", "--partitions", "2")
    assert begun.code == 0, begun.err
    config = operator.folder / "config.env"
    config.write_text(config.read_text() + begun.out)
    assert (operator.folder / "wasm-executor-keys").stat().st_mode & 0o777 == 0o700
    for key in (operator.folder / "wasm-executor-keys").iterdir():
        assert key.stat().st_mode & 0o777 == 0o600, key

    checked = operator("--test-config")
    assert (checked.code, "complete" in checked.err) == (0, True), checked.err
    again = operator("init", "--json").object
    assert again["done"] == []

    service = operator.start()
    try:
        keys = operator.folder / "wasm-executor-keys"
        published = operator(
            "module", "publish", ADD, "--key", str(keys / "administrator.pem")
        )
        assert published.code == 0, published.err
        call = ("add@1", "--function", "add", "--arg", "i32:20", "--arg", "i32:22")
        # On the service's own host its JWT_SECRET signs; elsewhere credentials do.
        here = operator("submit", *call, "--wait")
        assert (here.code, here.out) == (0, "i32:42\n"), here.err
        credentials = ("--credentials", str(keys / "credentials.json"))
        there = operator("submit", *call, "--wait", *credentials)
        assert (there.code, there.out) == (0, "i32:42\n"), there.err
        assert operator("status").code == 0
        assert operator("doctor").code == 0
        verified = operator("audit", "verify")
        assert (verified.code, "verify: ok" in verified.out) == (0, True), verified
    finally:
        began = time.monotonic()
        service.send_signal(signal.SIGTERM)
        service.communicate(timeout=40)
    assert service.returncode == 0
    assert time.monotonic() - began < 30
    assert_sound_at(KafkaConnection(bootstrap_servers=kafka_bootstrap), topic_prefix)


def test_another_operator_cannot_begin_it_again(operator: Cli) -> None:
    assert operator("init", "--partitions", "1").code == 0
    ran = operator("init", "--keys", "others")
    assert ran.code == 1, ran
    assert "error[INTEGRITY]" in ran.err


def test_partitions_that_were_added_get_their_logs(
    operator: Cli, kafka_bootstrap: str, topic_prefix: str
) -> None:
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415
    from confluent_kafka.cimpl import NewPartitions  # noqa: PLC0415

    assert operator("init", "--partitions", "1").code == 0
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    grown = [NewPartitions(f"{topic_prefix}{name}", 2) for name in TOPICS[:3]]
    for done in admin.create_partitions(grown).values():
        done.result(30)
    ran = operator("init", "--json")
    assert ran.code == 0, ran.err
    assert len(ran.object["log_ids"]) == 2
    assert [line for line in ran.object["done"] if "began" in line]
