"""The jars' lock and cache, with a registry that serves two tiny files."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from stream_executor.embedded import jars
from stream_executor.embedded.errors import EmbeddedKafkaError
from stream_executor.embedded.jars import LOCK, Jar, ensure_jars, parse_lock

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = {"g:one:1": b"first jar", "g:two:2": b"second jar"}


class Registry:
    """Serves CONTENT, or what a test puts in its place; counts what was asked."""

    def __init__(self) -> None:
        self.content = dict(CONTENT)
        self.asked: list[str] = []

    def __call__(self, jar: Jar, folder: Path) -> Path:
        self.asked.append(jar.coordinate)
        if jar.coordinate not in self.content:
            raise OSError("connection refused")
        file = folder / jar.file_name
        file.write_bytes(self.content[jar.coordinate])
        return file


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Registry:
    lock = tmp_path / "lock"
    lines = (
        f"{name} {len(content)} {hashlib.sha256(content).hexdigest()}\n"
        for name, content in CONTENT.items()
    )
    lock.write_text("".join(lines))
    monkeypatch.setattr(jars, "LOCK", lock)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Registry()


def everything_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_our_lock_names_kafka_and_each_jar_once() -> None:
    locked = parse_lock(LOCK.read_text(encoding="utf-8"))
    names = [jar.file_name for jar in locked]

    assert f"kafka_2.13-{jars.KAFKA_VERSION}.jar" in names
    assert f"kafka-clients-{jars.KAFKA_VERSION}.jar" in names
    assert len(set(names)) == len(names)
    assert all(len(jar.sha256) == 64 for jar in locked)
    assert parse_lock("".join(f"{jar}\n" for jar in locked)) == locked


def test_the_first_time_all_is_fetched_and_later_nothing(registry: Registry) -> None:
    first = ensure_jars(registry)
    again = ensure_jars(registry)

    assert [path.read_bytes() for path in first] == list(CONTENT.values())
    assert again == first
    assert sorted(registry.asked) == sorted(CONTENT)


def test_a_jar_whose_bytes_changed_on_disk_is_fetched_again(
    registry: Registry,
) -> None:
    one, _ = ensure_jars(registry)
    one.write_bytes(b"firsT jar")

    ensure_jars(registry)

    assert one.read_bytes() == CONTENT["g:one:1"]
    assert registry.asked.count("g:one:1") == 2
    assert registry.asked.count("g:two:2") == 1


def test_a_registry_that_serves_other_bytes_is_refused_and_nothing_kept(
    registry: Registry, tmp_path: Path
) -> None:
    registry.content["g:two:2"] = b"second jaR"

    with pytest.raises(EmbeddedKafkaError, match="g:two:2 is not what the lock names"):
        ensure_jars(registry)

    assert "two-2.jar" not in everything_below(tmp_path / "cache")


def test_an_unreachable_registry_is_named_with_what_to_do(
    registry: Registry, tmp_path: Path
) -> None:
    registry.content.clear()

    with pytest.raises(EmbeddedKafkaError, match=r"registry did not give g:") as failed:
        ensure_jars(registry)

    assert "HTTPS_PROXY" in failed.value.remedy
    assert not any(name.endswith(".jar") for name in everything_below(tmp_path))


def test_of_many_that_need_the_jars_at_once_one_downloads(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ensure_jars(registry), range(8)))

    assert all(paths == found[0] for paths in found)
    assert sorted(registry.asked) == sorted(CONTENT)


def test_a_download_without_a_terminal_says_one_line_on_stderr(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_jars(registry)
    printed = capsys.readouterr()
    ensure_jars(registry)

    assert printed.out == ""
    assert printed.err.startswith(f"Fetching Apache Kafka {jars.KAFKA_VERSION}")
    assert printed.err.count("\n") == 1
    assert capsys.readouterr() == ("", "")
