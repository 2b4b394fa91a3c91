"""Topics on a real cluster: create, compare, mend, refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.admin import KafkaAdmin
from stream_executor.kafka.topics import Action, TopicNames, desired
from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from stream_executor.kafka.connection import KafkaConnection
    from tests.integration.kafka.conftest import MakeTopic


def names(prefix: str) -> TopicNames:
    return TopicNames(
        *(prefix + name.removeprefix("wasm.") for name in TopicNames().all())
    )


async def test_apply_creates_what_check_accepts_and_is_idempotent(
    connection: KafkaConnection, topic_prefix: str
) -> None:
    async with KafkaAdmin(connection) as admin:
        facts = await admin.cluster()
        assert facts.cluster_id
        assert facts.brokers >= 1
        specs = desired(names(topic_prefix), partitions=3, brokers=facts.brokers)
        before = await admin.plan(specs)
        assert [change.action for change in before] == [Action.CREATE] * 6
        with pytest.raises(ConfigError, match="topics apply"):
            await admin.check(specs)
        assert await admin.apply(specs) == []
        assert await admin.apply(specs) == []
        assert await admin.check(specs) == []
        assert await admin.partition_count(specs[0].name) == 3
        assert await admin.partition_count(specs[3].name) == 1


async def test_drift_that_matters_is_named_mended_and_leaves_other_settings(
    connection: KafkaConnection, topic_prefix: str, make_topic: MakeTopic
) -> None:
    ours = names(topic_prefix)
    await make_topic(
        "audit",
        2,
        cleanup_policy="compact",
        message_timestamp_type="CreateTime",
        segment_ms="777777",
    )
    async with KafkaAdmin(connection) as admin:
        specs = [
            spec
            for spec in desired(ours, partitions=4, brokers=1)
            if spec.name == ours.audit
        ]
        with pytest.raises(ConfigError) as caught:
            await admin.check(specs)
        message = str(caught.value)
        assert "cleanup.policy is compact, expected delete" in message
        assert "retention.ms is 604800000, expected at least 220752000000" in message
        assert "message.timestamp.type is CreateTime" in message
        (left,) = await admin.apply(specs)
        assert (left.what, left.actual, left.wanted) == ("partitions", "2", "4")
        assert left.action is Action.BY_HAND
        described = (await admin.describe([ours.audit]))[ours.audit]
        assert described is not None
        assert described.configs["segment.ms"] == "777777"
        assert described.configs["cleanup.policy"] == "delete"
