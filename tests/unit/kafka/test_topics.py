"""The table of topics, what counts as drift, and what is printed of it."""

from __future__ import annotations

import shlex

import pytest
import yaml

from stream_executor.kafka.acls import Acl, Principals, acls, kafka_acls_commands
from stream_executor.kafka.topics import (
    Action,
    TopicNames,
    TopicSpec,
    TopicState,
    desired,
    kafka_topics_commands,
    plan,
    strimzi_yaml,
)
from stream_executor.model.errors import ConfigError

NAMES = TopicNames()
SPECS = desired(NAMES, partitions=8, brokers=3)


def as_is(spec: TopicSpec, **changes: str) -> TopicState:
    configs = spec.configs() | {k.replace("_", "."): v for k, v in changes.items()}
    return TopicState(spec.partitions, spec.replication_factor, configs)


def spec(name: str) -> TopicSpec:
    return next(spec for spec in SPECS if spec.name == name)


def test_the_table_is_that_of_the_design() -> None:
    table = {one.name: one for one in SPECS}
    assert [one.partitions for one in SPECS] == [8, 8, 8, 1, 1, 1]
    assert {one.replication_factor for one in SPECS} == {3}
    for one in SPECS:
        assert one.configs()["cleanup.policy"] == "delete"
        assert one.configs()["unclean.leader.election.enable"] == "false"
        assert one.configs()["min.insync.replicas"] == "2"
        assert one.configs()["message.timestamp.type"] == "LogAppendTime"
    for name in (NAMES.audit, NAMES.control, NAMES.checkpoints):
        assert table[name].configs()["retention.ms"] == "220752000000"
    assert table[NAMES.requests].configs()["retention.ms"] == "2592000000"
    modules = table[NAMES.modules].configs()
    assert (modules["retention.ms"], modules["max.message.bytes"]) == ("-1", "67108864")


@pytest.mark.parametrize(("brokers", "factor", "isr"), [(1, 1, "1"), (2, 2, "1")])
def test_a_small_cluster_gets_what_it_can_give(
    brokers: int, factor: int, isr: str
) -> None:
    for one in desired(NAMES, partitions=1, brokers=brokers):
        assert one.replication_factor == factor
        assert one.configs()["min.insync.replicas"] == isr


def test_a_cluster_as_it_must_be_needs_nothing() -> None:
    assert plan(SPECS, {one.name: as_is(one) for one in SPECS}) == []


def test_what_is_missing_is_created() -> None:
    changes = plan(SPECS, {NAMES.audit: None})
    assert [change.action for change in changes] == [Action.CREATE] * 6
    assert all(change.matters for change in changes)
    assert "topics apply" in str(changes[0])


@pytest.mark.parametrize(
    ("setting", "value", "matters"),
    [
        ("retention.ms", "604800000", True),
        ("retention.ms", "-1", None),
        ("retention.ms", "999999999999", None),
        ("retention.bytes", "1000000", True),
        ("cleanup.policy", "compact", True),
        ("cleanup.policy", "compact,delete", True),
        ("message.timestamp.type", "CreateTime", True),
        ("min.insync.replicas", "1", True),
        ("min.insync.replicas", "3", None),
        ("unclean.leader.election.enable", "true", True),
        ("max.message.bytes", "100000", True),
        ("max.message.bytes", "10000000", None),
    ],
)
def test_drift_of_the_audit_topic(
    setting: str, value: str, *, matters: bool | None
) -> None:
    audit = spec(NAMES.audit)
    changes = plan([audit], {NAMES.audit: as_is(audit, **{setting: value})})
    if matters is None:
        assert changes == []
    else:
        (change,) = changes
        assert (change.what, change.actual) == (setting, value)
        assert (change.action, change.matters) == (Action.CONFIGURE, matters)


def test_the_time_of_results_does_not_matter() -> None:
    results = spec(NAMES.results)
    state = as_is(results, message_timestamp_type="CreateTime")
    (change,) = plan([results], {NAMES.results: state})
    assert not change.matters


def test_a_setting_that_is_not_shown_is_drift() -> None:
    audit = spec(NAMES.audit)
    state = TopicState(8, 3, {})
    assert len(plan([audit], {NAMES.audit: state})) == len(audit.settings)


@pytest.mark.parametrize(
    ("name", "partitions", "drift"),
    [
        (NAMES.requests, 7, True),
        (NAMES.requests, 9, False),
        (NAMES.control, 2, True),
        (NAMES.modules, 2, True),
    ],
)
def test_partitions_are_an_operators_affair(
    name: str, partitions: int, *, drift: bool
) -> None:
    one = spec(name)
    state = TopicState(partitions, 3, one.configs())
    changes = plan([one], {name: state})
    assert bool(changes) is drift
    if drift:
        assert changes[0].action is Action.BY_HAND
        assert changes[0].matters


def test_one_lane_is_still_a_lane() -> None:
    specs = desired(NAMES, partitions=1, brokers=1)
    state = TopicState(4, 1, specs[0].configs())
    assert plan(specs[:1], {NAMES.requests: state}) == []


def test_a_lower_replication_is_an_operators_affair() -> None:
    audit = spec(NAMES.audit)
    (change,) = plan([audit], {NAMES.audit: TopicState(8, 1, audit.configs())})
    assert "kafka-reassign-partitions" in change.remedy


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="share a name"):
        desired(TopicNames(results="wasm.audit"), partitions=1, brokers=1)
    for partitions, brokers in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError):
            desired(NAMES, partitions=partitions, brokers=brokers)


def test_printed_commands_carry_every_setting() -> None:
    lines = kafka_topics_commands(SPECS, "b:1").splitlines()
    assert len(lines) == 6
    for one, line in zip(SPECS, lines, strict=True):
        words = shlex.split(line)
        assert words[words.index("--topic") + 1] == one.name
        for name, value in one.configs().items():
            assert f"{name}={value}" in words


def test_printed_strimzi_is_yaml_with_every_setting() -> None:
    documents = list(yaml.safe_load_all(strimzi_yaml(SPECS, "prod")))
    assert [one["spec"]["topicName"] for one in documents] == list(NAMES.all())
    for one, document in zip(SPECS, documents, strict=True):
        assert document["metadata"]["labels"] == {"strimzi.io/cluster": "prod"}
        assert document["spec"]["config"] == one.configs()
        assert document["spec"]["partitions"] == one.partitions


# -- rights ----------------------------------------------------------------------------

PRINCIPALS = Principals()
ROWS = acls(NAMES, PRINCIPALS, "wasm-executor")


def who(operation: str, resource: str, name: str) -> set[str]:
    return {
        row.principal
        for row in ROWS
        if (row.resource, row.name) == (resource, name) and operation in row.operations
    }


def test_rights_are_exact_where_history_is_at_stake() -> None:
    assert who("Write", "topic", NAMES.audit) == {
        PRINCIPALS.executor,
        PRINCIPALS.ceremony,
    }
    assert who("Write", "topic", NAMES.results) == {PRINCIPALS.executor}
    assert who("Write", "topic", NAMES.requests) == {PRINCIPALS.requester}
    assert who("Write", "topic", NAMES.checkpoints) == {PRINCIPALS.notary}
    assert who("Write", "topic", NAMES.control) == {
        PRINCIPALS.operator,
        PRINCIPALS.ceremony,
    }
    transactional = [row for row in ROWS if row.resource == "transactional-id"]
    assert transactional == [
        Acl(
            PRINCIPALS.executor,
            "transactional-id",
            "wasm-executor.wasm.audit.",
            ("Write",),
            prefixed=True,
        )
    ]


def test_nobody_may_change_or_delete_the_audit_topic() -> None:
    for row in ROWS:
        if row.name == NAMES.audit:
            assert not {"Alter", "Delete", "AlterConfigs", "All"} & set(row.operations)
        assert "All" not in row.operations
        assert row.name != "*"


def test_whoever_checks_topics_may_read_their_settings() -> None:
    for topic in NAMES.all():
        for principal in (PRINCIPALS.executor, PRINCIPALS.notary, PRINCIPALS.operator):
            assert principal in who("DescribeConfigs", "topic", topic)


def test_printed_rights_are_commands() -> None:
    lines = kafka_acls_commands(ROWS, "b:1").splitlines()
    assert (
        "kafka-acls --bootstrap-server b:1 --add --allow-principal User:wasm-executor "
        "--operation Write --transactional-id wasm-executor.wasm.audit. "
        "--resource-pattern-type prefixed"
    ) in lines
    assert any("--cluster" in line for line in lines)
