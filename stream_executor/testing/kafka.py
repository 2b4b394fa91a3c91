"""A Kafka for tests, as pytest fixtures: one broker a session, topics a test.

Use it with ``pytest_plugins = ["stream_executor.testing.kafka"]`` in a top-level
``conftest.py``. Needs the extra ``dev``, or a cluster named in the environment.
"""

from __future__ import annotations

import os
import re
import uuid
from typing import TYPE_CHECKING

import pytest

from stream_executor.embedded import EmbeddedKafka

if TYPE_CHECKING:
    from collections.abc import Iterator

GIVEN_CLUSTER = "WASM_EXECUTOR_TEST_BOOTSTRAP"
_NAME_LENGTH = 60  # of Kafka's 249, so that a test has room for names of its own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``kafka`` what asks for the broker, so that ``-m 'not kafka'`` works."""
    for item in items:
        if "kafka_bootstrap" in getattr(item, "fixturenames", ()):
            item.add_marker("kafka")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "kafka: the test needs a broker")


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """Give the bootstrap address of a broker that all tests of the session share.

    That is the cluster that WASM_EXECUTOR_TEST_BOOTSTRAP names, on which topics are
    left behind, else an embedded Kafka that goes when the session ends. A broker that
    cannot be had fails the test: it never skips.
    """
    if given := os.environ.get(GIVEN_CLUSTER):
        yield given
        return
    with EmbeddedKafka() as kafka:
        yield kafka.bootstrap


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """Give a beginning for names of topics, groups and transactions.

    No other test, session or earlier run has the same one. It ends in a hyphen and
    tells the test's name to whoever reads a broker's log.
    """
    name = re.sub(r"[^a-zA-Z0-9]+", "-", request.node.name).strip("-")
    return f"{name[:_NAME_LENGTH]}-{uuid.uuid4().hex[:12]}-"
