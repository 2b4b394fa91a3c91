"""deploy/kafka/acls.sh grants what `topics acls` prints, and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stream_executor.kafka.acls import Principals, acls, kafka_acls_commands
from stream_executor.kafka.topics import TopicNames

SCRIPT = Path(__file__).parents[3] / "deploy" / "kafka" / "acls.sh"
ROWS = acls(TopicNames(), Principals(), "wasm-executor")
Right = tuple[str, str, str, str, bool]
EXPECTED = {
    (f"User:{row.principal}", row.resource, row.name, operation, row.prefixed)
    for row in ROWS
    for operation in row.operations
}


def rights(words: list[str]) -> set[Right]:
    """Read a kafka-acls command as kafka-acls does: every name, every operation."""
    values: dict[str, list[str]] = {}
    for at, word in enumerate(words):
        if word.startswith("--"):
            following = words[at + 1] if at + 1 < len(words) else "--"
            value = "" if following.startswith("--") else following
            values.setdefault(word.removeprefix("--"), []).append(value)
    named = [
        (resource, name)
        for resource in ("topic", "group", "transactional-id")
        for name in values.get(resource, [])
    ]
    if "cluster" in values:
        named.append(("cluster", "kafka-cluster"))
    prefixed = values.get("resource-pattern-type") == ["prefixed"]
    (principal,) = values["allow-principal"]
    return {
        (principal, resource, name, operation, prefixed)
        for resource, name in named
        for operation in values.get("operation", ["All"])
    }


def run(folder: Path, *arguments: str, **environment: str) -> list[list[str]]:
    """Run the script with a kafka-acls that only notes how it was called."""
    noted, fake = folder / "calls", folder / "kafka-acls"
    fake.write_text(f'#!/bin/sh\necho "$*" >> {noted}\n')
    fake.chmod(0o755)
    subprocess.run(
        [SCRIPT, "kafka:9093", "admin.properties", *arguments],
        env={"PATH": os.environ["PATH"], "KAFKA_ACLS": str(fake), **environment},
        check=True,
    )
    return [line.split() for line in noted.read_text().splitlines()]


def test_the_script_grants_exactly_the_rights_of_the_table(tmp_path: Path) -> None:
    calls = run(tmp_path)

    assert set.union(*(rights(call) for call in calls)) == EXPECTED
    for call in calls:
        assert call[:5] == [
            "--bootstrap-server", "kafka:9093",
            "--command-config", "admin.properties", "--add",
        ]  # fmt: skip


def test_the_printed_commands_grant_exactly_the_same() -> None:
    lines = kafka_acls_commands(ROWS).splitlines()

    assert set.union(*(rights(line.split()) for line in lines)) == EXPECTED


def test_principals_may_have_other_names(tmp_path: Path) -> None:
    calls = run(tmp_path, EXECUTOR="CN=executor")

    assert any("User:CN=executor" in call for call in calls)
    assert not any("User:wasm-executor" in call for call in calls)


def test_the_ceremonys_rights_are_withdrawn_and_nobody_elses(tmp_path: Path) -> None:
    calls = run(tmp_path, "end-ceremony")

    assert all("--remove" in call and "--add" not in call for call in calls)
    # Without its operations kafka-acls would look for a right to All, and find none.
    assert set.union(*(rights(call) for call in calls)) == {
        right for right in EXPECTED if right[0] == "User:wasm-ceremony"
    }


@pytest.mark.parametrize("arguments", [(), ("kafka:9093",), ("a", "b", "revoke")])
def test_a_misuse_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run([SCRIPT, *arguments], capture_output=True, check=False)

    assert ran.returncode == 2
    assert b"acls.sh" in ran.stderr
