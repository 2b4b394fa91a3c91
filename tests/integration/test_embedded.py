"""The embedded Kafka is a real one, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream_executor.embedded import EmbeddedKafka, EmbeddedKafkaError, kafka_tool
from stream_executor.embedded.jars import cache_folder, ensure_jars

if TYPE_CHECKING:
    from collections.abc import Mapping

BUDGET_S = 30
TOPIC_TOOL = "org.apache.kafka.tools.TopicCommand"


async def create(
    bootstrap: str, topic: str, configs: Mapping[str, str] | None = None
) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics(
            [NewTopic(topic, 1, 1, topic_configs=dict(configs or {}))]
        )
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, max_request_size=128 << 20, acks="all"
    )
    async with producer:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)


async def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    async with consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        return [(await consumer.getone()).value for _ in range(count)]


async def test_what_was_produced_is_consumed(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    topic = topic_prefix + "requests"
    await create(kafka_bootstrap, topic)

    await produce(kafka_bootstrap, topic, b"one", b"two")

    assert await consume(kafka_bootstrap, topic, 2) == [b"one", b"two"]


async def test_a_topic_may_hold_records_of_nearly_64_mib(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    topic = topic_prefix + "large"
    value = bytes(63 << 20)
    await create(kafka_bootstrap, topic, {"max.message.bytes": str(64 << 20)})

    await produce(kafka_bootstrap, topic, value)

    assert await consume(kafka_bootstrap, topic, 1) == [value]


def test_kafkas_own_tools_run_against_it(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    at = ["--bootstrap-server", kafka_bootstrap]
    topic = topic_prefix + "a"

    created = kafka_tool(TOPIC_TOOL, [*at, "--create", "--topic", topic])
    listed = kafka_tool(TOPIC_TOOL, [*at, "--list"])
    refused = kafka_tool(TOPIC_TOOL, [*at, "--create", "--topic", topic])

    assert created.returncode == 0, created.stderr
    assert topic in listed.stdout.splitlines()
    assert refused.returncode != 0
    assert "already exists" in refused.stdout + refused.stderr


async def test_data_in_a_folder_outlives_the_broker(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "data") as kafka:
        await create(kafka.bootstrap, "kept")
        await produce(kafka.bootstrap, "kept", b"value")

    with EmbeddedKafka(tmp_path / "data") as another:
        assert await consume(another.bootstrap, "kept", 1) == [b"value"]


async def test_a_broker_started_again_has_the_same_address(tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path)
    kafka.start()
    before = kafka.bootstrap
    kafka.stop()
    kafka.stop()  # without effect

    with kafka:
        assert kafka.bootstrap == before
        await create(before, "answers")


async def test_a_killed_broker_comes_back_with_its_data(tmp_path: Path) -> None:
    """What fault tests do: kill Java alone, then start the same broker again."""
    with EmbeddedKafka(tmp_path) as kafka:
        await create(kafka.bootstrap, "topic")
        await produce(kafka.bootstrap, "topic", b"acknowledged")
        os.kill(kafka.pid, signal.SIGKILL)
        kafka.stop()
        kafka.start()

        assert await consume(kafka.bootstrap, "topic", 1) == [b"acknowledged"]


async def test_two_brokers_side_by_side_know_nothing_of_each_other() -> None:
    with EmbeddedKafka() as one, EmbeddedKafka() as two:
        await create(one.bootstrap, "topic")
        await create(two.bootstrap, "topic")
        await produce(one.bootstrap, "topic", b"of one")
        await produce(two.bootstrap, "topic", b"of two")

        assert await consume(one.bootstrap, "topic", 1) == [b"of one"]
        assert await consume(two.bootstrap, "topic", 1) == [b"of two"]


def test_a_stopped_broker_leaves_neither_process_nor_folder() -> None:
    with EmbeddedKafka() as kafka:
        pid, folder = kafka.pid, kafka.log.parent
        assert kafka.log.exists()

    await_end(pid)
    assert not folder.exists()


async def test_clients_of_the_second_listener_stay_on_the_proxy() -> None:
    """Bootstrapping through it, they are told its port, so all goes that way."""
    target: list[str] = []
    connections: list[str] = []

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
        sink.close()

    async def forward(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, port = target[0].split(":")
        upstream, downstream = await asyncio.open_connection(host, int(port))
        connections.append(target[0])
        await asyncio.gather(pump(reader, downstream), pump(upstream, writer))

    proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    with EmbeddedKafka(proxied_port=port) as kafka:
        await create(kafka.bootstrap, "topic")
        target.append(kafka.proxy_target)
        await produce(f"127.0.0.1:{port}", "topic", b"value")

        # The first asks who the nodes are, the second goes to the node.
        assert len(connections) >= 2
        assert await consume(kafka.bootstrap, "topic", 1) == [b"value"]
        proxy.close()


def test_users_may_be_made_when_formatting() -> None:
    user = "SCRAM-SHA-256=[name=ada,password=right]"
    listener = "listener.name.clients.scram-sha-256.sasl.jaas.config"
    kafka = EmbeddedKafka(
        properties={
            "listener.security.protocol.map": "CLIENTS:SASL_PLAINTEXT,"
            "LOCAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256",
            listener: "org.apache.kafka.common.security.scram.ScramLoginModule "
            "required;",
        },
        format_arguments=("--add-scram", user),
    )

    def topics(password: str) -> object:
        admin = AdminClient(
            {
                "bootstrap.servers": kafka.bootstrap,
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "SCRAM-SHA-256",
                "sasl.username": "ada",
                "sasl.password": password,
                "log_level": 0,
            }
        )
        return admin.list_topics(timeout=5).brokers

    with kafka:
        assert topics("right")
        with pytest.raises(KafkaException):
            topics("wrong")


def test_a_broker_that_refuses_to_start_says_why_and_leaves_nothing() -> None:
    kafka = EmbeddedKafka(properties={"log.retention.ms": "for ever"})

    with pytest.raises(EmbeddedKafkaError, match=r"log\.retention\.ms"):
        kafka.start()

    assert not kafka.log.parent.exists()


def test_a_running_broker_is_not_started_twice() -> None:
    with EmbeddedKafka() as kafka, pytest.raises(EmbeddedKafkaError, match="already"):
        kafka.start()


def test_an_address_is_known_after_the_start_only() -> None:
    with pytest.raises(EmbeddedKafkaError, match="once it was started"):
        _ = EmbeddedKafka().bootstrap


# A program that starts a broker from a thread that ends, then waits to be killed.
PARENT = textwrap.dedent(
    """
    import sys, threading
    from stream_executor.embedded import EmbeddedKafka

    kafka = EmbeddedKafka()
    thread = threading.Thread(target=kafka.start)
    thread.start()
    thread.join()
    print(kafka.pid, kafka.log.parent, flush=True)
    sys.stdin.read()
    """
)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=str
)
def test_no_broker_outlives_the_process_that_started_it(
    number: signal.Signals,
) -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().decode().split()
        status = Path(f"/proc/{pid}/stat").read_text()  # Java runs, its thread does not
        guardian = int(status.rpartition(")")[2].split()[1])

        parent.send_signal(number)

        await_end(int(pid))
        await_end(guardian)
    assert not Path(folder).exists()


@pytest.mark.slow
def test_the_first_stop_trains_the_startup_cache_that_later_starts_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetched = ensure_jars()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jars = cache_folder() / "jars"
    jars.mkdir()
    for jar in fetched:
        (jars / jar.name).symlink_to(jar)

    with EmbeddedKafka():
        assert not list(cache_folder().glob("*.aot"))
    (cache,) = cache_folder().glob("startup-*.aot")
    # "on": without a cache that it can use, Java refuses to start.
    with EmbeddedKafka(jvm_arguments=("-XX:AOTMode=on",)) as later:
        command_line = Path(f"/proc/{later.pid}/cmdline").read_text().split("\0")

    assert f"-XX:AOTCache={cache}" in command_line


def test_a_registry_that_does_not_answer_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Through jgo, whose settings name a mirror where nobody listens."""
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "jgo.conf").write_text(
        "[repositories]\nmirror = http://127.0.0.1:9/maven\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    with pytest.raises(EmbeddedKafkaError, match="could not be downloaded") as failed:
        EmbeddedKafka().start()

    assert "[repositories] in ~/.config/jgo.conf" in failed.value.remedy


def await_end(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], BUDGET_S)[0], f"{pid} still runs"
    finally:
        os.close(handle)
