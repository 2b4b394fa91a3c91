from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import msgspec
import pytest

from stream_executor.client.credentials import (
    Credentials,
    read_credentials,
    resolve,
    write_credentials,
)
from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "kX9v2LmQ7pRt4sWy8zAb3cDe6fGh1jKn5uVo0iPl"
PLAIN = Credentials(
    bootstrap_servers="b:9092",
    audience="wasm-executor/x",
    issuer="dev",
    subject="me",
    secret=SECRET,
)


def test_a_file_reads_back_as_written_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    write_credentials(path, PLAIN)
    assert read_credentials(path) == PLAIN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["schema"] == "wasm-executor/credentials/v1"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_prints_a_secret(tmp_path: Path) -> None:
    assert SECRET not in repr(PLAIN)
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps({"secret": SECRET, "unknown": 1}))
    with pytest.raises(ConfigError) as caught:
        read_credentials(path)
    assert SECRET not in str(caught.value)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    (tmp_path / "secret").write_text(SECRET + "\n")
    write_credentials(
        path, msgspec.structs.replace(PLAIN, secret=None, secret_file="secret")
    )
    credentials = read_credentials(path)
    assert credentials.secret_file == str(tmp_path / "secret")
    assert credentials.signer().sign("t", 0, b"x", now_s=1).count(b".") == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": None},
        {"secret_file": "x"},
        {"secret": "short"},
        {"secret": None, "private_key_file": "x"},
        {"secret": None, "private_key_file": "nowhere", "kid": "k"},
    ],
)
def test_keys_that_are_none_or_two_or_weak_are_refused(
    changes: dict[str, str | None],
) -> None:
    with pytest.raises(ConfigError):
        msgspec.structs.replace(PLAIN, **changes).signer()


def test_what_is_given_lies_over_what_the_file_says() -> None:
    place = resolve(
        PLAIN,
        bootstrap_servers="other:1",
        requests_topic="r",
        kafka_properties={"security.protocol": "SSL"},
    )
    assert place.properties == {
        "bootstrap.servers": "other:1",
        "security.protocol": "SSL",
    }
    assert (place.requests_topic, place.results_topic) == ("r", "wasm.results")
    with pytest.raises(ConfigError, match="EXECUTOR_CREDENTIALS"):
        resolve(None)
    with pytest.raises(ConfigError, match="key to sign"):
        resolve(None, bootstrap_servers="b:1")
    with pytest.raises(ConfigError, match="nowhere"):
        resolve("nowhere.json")
