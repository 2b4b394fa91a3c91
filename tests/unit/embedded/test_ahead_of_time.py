from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stream_executor.embedded.ahead_of_time import Training, cache_file
from stream_executor.embedded.java import Java

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def java(tmp_path: Path) -> Java:
    return Java(tmp_path / "java", 25, 'JAVA_VERSION="25.0.2"')


def test_one_trains_at_a_time_and_the_right_comes_free(
    java: Java, tmp_path: Path
) -> None:
    target = tmp_path / "startup.aot"
    first = Training.begin(java, target)
    meanwhile = Training.begin(java, target)
    assert first is not None
    assert meanwhile is None
    first.output.write_bytes(b"half")

    first.finish(complete=False)
    second = Training.begin(java, target)
    assert second is not None
    second.output.write_bytes(b"whole")
    second.finish(complete=True)

    assert target.read_bytes() == b"whole"
    assert not second.output.exists()


def test_what_a_killed_trainer_left_is_not_taken(java: Java, tmp_path: Path) -> None:
    target = tmp_path / "startup.aot"
    target.with_suffix(".training").write_bytes(b"half")

    training = Training.begin(java, target)
    assert training is not None
    training.finish(complete=True)

    assert not target.exists()


def test_a_java_that_cannot_train_does_not(tmp_path: Path) -> None:
    java = Java(tmp_path, 17, "")

    assert Training.begin(java, tmp_path / "startup.aot") is None


def test_another_java_or_another_jar_makes_another_file(
    java: Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jar = tmp_path / "a.jar"
    jar.write_bytes(b"jar")
    before = cache_file(java, [jar])
    same = cache_file(java, [jar])
    newer = cache_file(Java(java.home, 25, 'JAVA_VERSION="25.0.3"'), [jar])
    os.utime(jar, ns=(0, 0))
    touched = cache_file(java, [jar])

    assert same == before
    assert len({before, newer, touched}) == 3
