"""The ceremony begins a deployment once, goes on where it stopped, and refuses."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from stream_executor.audit.key_files import (
    load_private_key,
    load_secret,
    public_key,
    write_new,
)
from stream_executor.audit.signing import public_bytes
from stream_executor.audit.verify import PartitionVerifier, Place
from stream_executor.kafka.appender import Appended
from stream_executor.model.control import KeyPurpose
from stream_executor.model.errors import ConfigError, IntegrityError, UnavailableError
from stream_executor.model.record import PlainRecord, Record
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.services.ceremony import (
    CeremonyKeys,
    CeremonyReport,
    Deployment,
    perform,
    prepare_keys,
)
from stream_executor.services.worker_settings import Topics
from tests.audit_logs import key_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

TOPICS = Topics()


@dataclass
class Topic:
    """Topics in memory; ``before_append`` lets another writer get in first."""

    partitions: int = 2
    logs: dict[tuple[str, int], list[bytes]] = field(default_factory=dict)
    appended: int = 0
    fail_at: int | None = None
    before_append: Callable[[], None] | None = None

    def log(self, topic: str, partition: int) -> list[bytes]:
        return self.logs.setdefault((topic, partition), [])

    async def partition_count(self, topic: str) -> int:  # noqa: ARG002
        return self.partitions

    async def begin_offset(self, topic: str, partition: int) -> int:  # noqa: ARG002
        return 0

    async def end_offset(self, topic: str, partition: int) -> int:
        return len(self.log(topic, partition))

    async def read(
        self, topic: str, partition: int, start: int, end: int
    ) -> AsyncIterator[Sequence[Record]]:
        records = [
            PlainRecord(offset, 1, value)
            for offset, value in enumerate(self.log(topic, partition))
        ][start:end]
        if records:
            yield records

    async def append(
        self,
        topic: str,
        partition: int,
        value: bytes,
        *,
        key: bytes | None = None,  # noqa: ARG002
    ) -> Appended:
        if self.before_append is not None:
            once, self.before_append = self.before_append, None
            once()
        if self.appended == self.fail_at:
            self.fail_at = None
            message = "the broker went away"
            raise UnavailableError(message)
        self.appended += 1
        self.log(topic, partition).append(value)
        return Appended(len(self.log(topic, partition)) - 1, 1)


@pytest.fixture
def keys(tmp_path: Path) -> CeremonyKeys:
    assert len(prepare_keys(tmp_path / "keys").made) == 5
    return prepare_keys(tmp_path / "keys")


async def begin(topic: Topic, keys: CeremonyKeys, **more: object) -> CeremonyReport:
    deployment = Deployment("prod", "cluster-1", TOPICS, **more)  # type: ignore[arg-type]
    return await perform(deployment, keys, topic, topic, lambda: 7)


async def test_it_begins_everything_and_says_what_to_configure(
    keys: CeremonyKeys,
) -> None:
    topic = Topic()
    topic.log(TOPICS.requests, 1).extend([b"early"] * 3)
    report = await begin(topic, keys)
    assert len(report.done) == 4 + 2
    operator = public_bytes(keys.operator)
    view = ControlView(operator)
    for offset, value in enumerate(topic.log(TOPICS.control, 0)):
        view.apply(offset, 1, value)
    assert (view.cluster_id, view.audience) == ("cluster-1", "prod/cluster-1")
    assert view.administrators == {public_bytes(keys.administrator)}
    assert [k.purpose for k in view.enrolled_keys()] == list(KeyPurpose)
    for partition, start in ((0, 0), (1, 3)):
        place = Place(operator, partition, "cluster-1", TOPICS.requests)
        verifier = PartitionVerifier(place, view)
        verifier.feed(0, topic.log(TOPICS.audit, partition)[0])
        verified = verifier.finish()
        assert (verified.verdict, verified.next) == ("ok", start)
        assert verified.log_id == report.log_ids[partition]
    assert report.settings_lines[0].endswith(f"PUBLIC_KEY={operator.hex()}")
    assert "operator.pem" not in "".join(report.settings_lines)


async def test_a_second_run_changes_nothing(keys: CeremonyKeys) -> None:
    topic = Topic()
    first = await begin(topic, keys)
    before = {at: list(log) for at, log in topic.logs.items()}
    second = await begin(topic, prepare_keys(keys.folder))
    assert second.done == []
    assert (second.log_ids, second.settings_lines) == (
        first.log_ids,
        first.settings_lines,
    )
    assert topic.logs == before


@pytest.mark.parametrize("fail_at", range(6))
async def test_it_goes_on_where_it_stopped(keys: CeremonyKeys, fail_at: int) -> None:
    topic = Topic(fail_at=fail_at)
    with pytest.raises(UnavailableError):
        await begin(topic, keys)
    report = await begin(topic, keys)
    assert topic.appended == 6
    assert len(report.log_ids) == 2
    assert (await begin(topic, keys)).done == []


async def test_grown_partitions_get_their_own_genesis(keys: CeremonyKeys) -> None:
    topic = Topic()
    first = await begin(topic, keys)
    topic.partitions = 3
    report = await begin(topic, keys)
    assert report.log_ids[:2] == first.log_ids
    assert len(report.done) == 1
    assert len(set(report.log_ids)) == 3


async def test_what_is_no_genesis_is_refused_before_anything_is_written(
    keys: CeremonyKeys,
) -> None:
    topic = Topic()
    topic.log(TOPICS.audit, 1).append(b"somebody's record")
    with pytest.raises(IntegrityError, match=r"wasm\.audit-1 begins with no genesis"):
        await begin(topic, keys)
    assert topic.appended == 0


async def test_another_operators_deployment_is_refused(
    keys: CeremonyKeys, tmp_path: Path
) -> None:
    topic = Topic()
    await begin(topic, keys)
    before = topic.appended
    with pytest.raises(IntegrityError, match="operator key"):
        await begin(topic, prepare_keys(tmp_path / "others"))
    del topic.logs[TOPICS.control, 0]
    with pytest.raises(IntegrityError, match=r"wasm\.audit-0 was begun by operator"):
        await begin(topic, prepare_keys(tmp_path / "others"))
    assert topic.appended == before


async def test_a_second_run_says_the_audience_that_the_first_one_wrote(
    keys: CeremonyKeys,
) -> None:
    topic = Topic()
    first = await begin(topic, keys)
    renamed = Deployment("renamed", "cluster-1", TOPICS)
    again = await perform(renamed, keys, topic, topic, lambda: 7)
    assert first.audience == again.audience == "prod/cluster-1"


async def test_another_clusters_log_is_refused(keys: CeremonyKeys) -> None:
    topic = Topic()
    await begin(topic, keys)
    deployment = Deployment("prod", "cluster-2", TOPICS)
    with pytest.raises(IntegrityError, match="genesis is for cluster cluster-1"):
        await perform(deployment, keys, topic, topic, lambda: 7)


async def test_another_clusters_control_chain_is_refused(keys: CeremonyKeys) -> None:
    topic = Topic()
    await begin(topic, keys)
    for partition in range(2):
        del topic.logs[TOPICS.audit, partition]
    deployment = Deployment("prod", "cluster-2", TOPICS)
    with pytest.raises(IntegrityError, match="was begun on cluster cluster-1"):
        await perform(deployment, keys, topic, topic, lambda: 7)


async def test_an_audit_log_that_was_deleted_is_not_begun_anew_silently(
    keys: CeremonyKeys,
) -> None:
    class Emptied(Topic):
        async def begin_offset(self, topic: str, partition: int) -> int:
            return await self.end_offset(topic, partition)

    topic = Emptied()
    topic.log(TOPICS.audit, 0).append(b"deleted")
    with pytest.raises(IntegrityError, match="holds nothing: its log was deleted"):
        await begin(topic, keys)


async def test_of_two_geneses_at_once_the_first_counts(keys: CeremonyKeys) -> None:
    rival = Topic()
    theirs = await begin(rival, keys)
    topic = Topic(partitions=1)
    topic.logs[TOPICS.control, 0] = list(rival.log(TOPICS.control, 0))
    first = rival.log(TOPICS.audit, 0)[0]
    topic.before_append = lambda: topic.log(TOPICS.audit, 0).append(first)
    report = await begin(topic, keys)
    assert report.log_ids == theirs.log_ids[:1]
    assert report.done == []


async def test_a_lost_audit_log_is_not_begun_anew_silently(keys: CeremonyKeys) -> None:
    topic = Topic()
    await begin(topic, keys)
    del topic.logs[TOPICS.audit, 0]
    topic.log(TOPICS.results, 0).append(b"a result")
    with pytest.raises(IntegrityError, match="its log was lost"):
        await begin(topic, keys)
    report = await begin(topic, keys, previous_logs={0: bytes(16)})
    assert len(report.done) == 1


async def test_partition_counts_must_agree(keys: CeremonyKeys) -> None:
    class Uneven(Topic):
        async def partition_count(self, topic: str) -> int:
            return 3 if topic == TOPICS.requests else 2

    with pytest.raises(ConfigError, match="same number of partitions"):
        await begin(Uneven(), keys)


async def test_another_writer_in_between_only_costs_a_try(keys: CeremonyKeys) -> None:
    topic = Topic()
    await begin(topic, keys)
    view = ControlView(public_bytes(keys.operator))
    for offset, value in enumerate(topic.log(TOPICS.control, 0)):
        view.apply(offset, 1, value)
    topic.log(TOPICS.control, 0).append(
        Orders(view, keys.operator, 1).retire(
            KeyPurpose.ADMINISTRATOR, public_bytes(keys.administrator), "left"
        )
    )
    view.apply(4, 1, topic.log(TOPICS.control, 0)[4])
    rival = Orders(view, keys.operator, 1).enrol(
        KeyPurpose.ADMINISTRATOR, public_bytes(key_of("rival")), "rival"
    )
    topic.before_append = lambda: topic.log(TOPICS.control, 0).append(rival)
    (keys.folder / "administrator.pem").unlink()
    report = await begin(topic, prepare_keys(keys.folder))
    assert [line.split()[0] for line in report.done] == ["made", "enrolled"]


async def test_a_retired_key_is_not_enrolled_again(keys: CeremonyKeys) -> None:
    topic = Topic()
    await begin(topic, keys)
    view = ControlView(public_bytes(keys.operator))
    for offset, value in enumerate(topic.log(TOPICS.control, 0)):
        view.apply(offset, 1, value)
    topic.log(TOPICS.control, 0).append(
        Orders(view, keys.operator, 1).retire(
            KeyPurpose.FLEET, public_bytes(keys.fleet), "leaked"
        )
    )
    with pytest.raises(ConfigError, match=r"fleet key .* was retired"):
        await begin(topic, keys)


def test_key_files_are_private_and_never_overwritten(keys: CeremonyKeys) -> None:
    for path in keys.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ConfigError, match="never overwritten"):
            write_new(path, b"other")
    again = prepare_keys(keys.folder)
    assert again.made == ()
    assert public_bytes(again.fleet) == public_bytes(keys.fleet)
    assert len(list(keys.folder.iterdir())) == 5, "no temporary files are left"
    assert "BEGIN" in (keys.folder / "fleet.pem").read_text()
    assert len(load_secret(keys.folder / "deployment-secret")) == 32
    assert repr(keys) == f"CeremonyKeys({keys.folder})"


def test_key_files_that_hold_no_key_are_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "fleet.pem"
    path.write_text("no key")
    with pytest.raises(ConfigError, match="keys generate"):
        load_private_key(path)
    with pytest.raises(ConfigError, match="openssl"):
        load_secret(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_private_key(tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match="cannot write"):
        write_new(path / "below", b"")


def test_a_public_key_is_read_from_text_or_file(tmp_path: Path) -> None:
    raw = public_bytes(key_of("any"))
    assert public_key(raw.hex()) == raw
    path = tmp_path / "key.txt"
    path.write_text(raw.hex())
    assert public_key(str(path)) == raw
    with pytest.raises(ConfigError, match="64 hex"):
        public_key("zz")
