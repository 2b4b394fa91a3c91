"""What the node is told: its properties file and its identity. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HOST = "127.0.0.1"
_MIB = 1 << 20


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one node.

    ``clients`` is what users connect to; ``local`` is always plaintext, for the node
    itself and for our question whether it is up; ``proxied`` is a second listener for
    clients that advertises another port than its own.
    """

    clients: int
    local: int
    controller: int
    proxied: int


@dataclass(frozen=True)
class Membership:
    """Which node of which cluster this is; every node votes.

    ``voters`` are the controllers' ports by node id.
    """

    node_id: int
    cluster_id: str
    voters: Mapping[int, int]


def server_properties(
    ports: Ports,
    log_folder: Path,
    *,
    advertised_by_proxied: int | None,
    extra: Mapping[str, str],
    member: Membership | None = None,
) -> str:
    """Return the text of ``server.properties``; ``extra`` wins over what is here."""
    voters = {1: ports.controller} if member is None else member.voters
    # What Kafka keeps for itself has as many copies as there are nodes, up to three;
    # a transaction needs two of three.
    copies = min(len(voters), 3)
    enough = str(max(copies - 1, 1))
    listening = {
        "CLIENTS": ports.clients,
        "LOCAL": ports.local,
        "CONTROLLER": ports.controller,
    }
    advertised = {"CLIENTS": ports.clients, "LOCAL": ports.local}
    if advertised_by_proxied is not None:
        listening["PROXIED"] = ports.proxied
        advertised["PROXIED"] = advertised_by_proxied
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(1 if member is None else member.node_id),
        "controller.quorum.voters": ",".join(
            f"{node}@{HOST}:{port}" for node, port in voters.items()
        ),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "LOCAL",
        "listeners": _addresses(listening),
        "advertised.listeners": _addresses(advertised),
        "listener.security.protocol.map": ",".join(
            f"{name}:PLAINTEXT" for name in listening
        ),
        "log.dirs": str(log_folder),
        "offsets.topic.replication.factor": str(copies),
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": enough,
        "transaction.state.log.num.partitions": "8",
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": enough,
        # A node that was killed may register again once its old session has ended.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # Its default of 128 MiB is touched at every start: 50 ms and as much memory.
        "log.cleaner.dedupe.buffer.size": str(8 * _MIB),
        # Nobody joins late, and a topic with a typing error is an error.
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
        # A topic may set max.message.bytes up to 64 MiB; the broker's own default
        # (message.max.bytes, 1 MiB) stays, so that a topic must ask, as in production.
        "replica.fetch.max.bytes": str(128 * _MIB),
        "socket.request.max.bytes": str(256 * _MIB),
    }
    return _lines({**properties, **extra})


def meta_properties(*, cluster_id: str, directory_id: str, node_id: int = 1) -> str:
    """Return the text of ``meta.properties``, with which Kafka marks a data folder."""
    return _lines(
        {
            "version": "1",
            "node.id": str(node_id),
            "cluster.id": cluster_id,
            "directory.id": directory_id,
        }
    )


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())


def _lines(properties: Mapping[str, str]) -> str:
    # Java reads \ as the start of an escape sequence.
    escaped = (
        (name, value.replace("\\", "\\\\")) for name, value in properties.items()
    )
    return "".join(f"{name}={value}\n" for name, value in escaped)
