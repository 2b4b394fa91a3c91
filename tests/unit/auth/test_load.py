"""Keys come from their sources, and the last good set survives a bad one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

import pytest
from pytest_socket import enable_socket

from stream_executor.auth import load
from stream_executor.auth.jwks import jwks
from stream_executor.auth.keys import Scope
from stream_executor.auth.load import KeySource, fetch_document, validate_url
from stream_executor.model.errors import ConfigError, UnavailableError
from tests.unit.auth.tokens import (
    AUDIENCE,
    ISSUER,
    PREVIOUS,
    SCOPE,
    SECRET,
    code_of,
    judge,
    make_token,
    pair,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URL = "https://issuer.example/jwks"
DOCUMENT = jwks([pair("EdDSA").jwk])
BOTH = jwks([pair("EdDSA").jwk, pair("ES256").jwk])


class Provider:
    """An identity provider: a document, or the reason why there is none."""

    def __init__(self, answer: bytes | Exception = DOCUMENT) -> None:
        self.answer = answer
        self.reads = 0

    def fetch(self, url: str) -> bytes:
        assert url == URL
        self.reads += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def source(
    provider: Provider, clock: Clock | None = None, secrets: tuple[bytes, ...] = ()
) -> KeySource:
    return KeySource(
        secrets,
        SCOPE,
        jwks_url=URL,
        refresh_s=300,
        clock=clock or Clock(),
        fetch=provider.fetch,
    )


async def test_all_sources_make_one_set(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks([pair("ES256").jwk, pair("RS256").jwk | {"use": "enc"}]))
    keys = KeySource(
        (SECRET, PREVIOUS, SECRET),
        SCOPE,
        jwks_path=str(file),
        jwks_url=URL,
        fetch=Provider().fetch,
    )
    await keys.load()

    algorithms = [key.algorithm for key in keys.current.keys]
    assert algorithms == ["HS256", "HS256", "ES256", "EdDSA"]
    assert len(keys.skipped) == 1
    assert code_of(judge(make_token(), keys=keys.current)) is None


async def test_nothing_is_decided_before_the_first_load() -> None:
    keys = source(Provider(UnavailableError("away")), secrets=(SECRET,))
    with pytest.raises(UnavailableError):
        _ = keys.current
    with pytest.raises(UnavailableError):
        await keys.load()
    with pytest.raises(UnavailableError):
        _ = keys.current


@pytest.mark.parametrize(
    "trouble", [UnavailableError("away"), b"<html>", b'{"keys":[]}', b'{"keys":[1]}']
)
async def test_trouble_leaves_the_last_good_set_in_force(
    trouble: bytes | Exception,
) -> None:
    provider = Provider()
    keys = source(provider)
    await keys.load()
    before = keys.current
    provider.answer = trouble
    with pytest.raises((ConfigError, UnavailableError)):
        await keys.load()

    assert keys.current is before


async def test_the_set_is_the_same_object_until_a_key_changes() -> None:
    provider = Provider()
    keys = source(provider)
    await keys.load()
    before = keys.current
    await keys.load()
    assert keys.current is before
    provider.answer = BOTH
    await keys.load()
    assert keys.current is not before
    assert keys.current.digest != before.digest


@pytest.mark.threat("T-07")
async def test_forged_kids_cause_one_read_in_thirty_seconds() -> None:
    provider, clock = Provider(), Clock()
    keys = source(provider, clock)
    await keys.load()
    seen = keys.current

    clock.now_s += 29.9
    assert not await keys.refresh_for_unknown_key(seen)
    assert provider.reads == 1
    clock.now_s += 0.1
    for _ in range(100):
        assert not await keys.refresh_for_unknown_key(seen)
    assert provider.reads == 2


async def test_a_new_key_is_found_when_a_token_names_it() -> None:
    provider, clock = Provider(), Clock()
    keys = source(provider, clock)
    await keys.load()
    seen = keys.current
    provider.answer = BOTH
    clock.now_s += 30

    answers = await asyncio.gather(
        *(keys.refresh_for_unknown_key(seen) for _ in range(10))
    )
    assert answers == [True] * 10
    assert provider.reads == 2
    assert not await keys.refresh_for_unknown_key(keys.current)


async def test_an_absent_provider_is_not_asked_again_for_every_unknown_kid() -> None:
    provider, clock = Provider(), Clock()
    keys = source(provider, clock)
    await keys.load()
    seen = keys.current
    provider.answer = UnavailableError("away")
    clock.now_s += 30
    assert not await keys.refresh_for_unknown_key(seen)
    clock.now_s += 299
    assert not await keys.refresh_for_unknown_key(seen)
    assert provider.reads == 2
    clock.now_s += 1
    provider.answer = BOTH
    assert await keys.refresh_for_unknown_key(seen)


async def test_with_secrets_alone_an_unknown_kid_reads_nothing() -> None:
    keys = KeySource((SECRET,), SCOPE)
    await keys.load()

    assert not await keys.refresh_for_unknown_key(keys.current)


async def test_the_address_is_read_again_and_again() -> None:
    answers = iter([None, DOCUMENT, None])
    second_failure = asyncio.Event()
    failures: list[Exception] = []

    def fetch(_: str) -> bytes:
        answer = next(answers, DOCUMENT)
        if answer is None:
            raise UnavailableError("away")
        return answer

    def failed(error: Exception) -> None:
        failures.append(error)
        if len(failures) == 2:
            second_failure.set()

    keys = KeySource((), SCOPE, jwks_url=URL, refresh_s=0, fetch=fetch)
    follow = asyncio.create_task(keys.follow(failed))
    await second_failure.wait()
    follow.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await follow

    assert len(keys.current.keys) == 1


class Rules(NamedTuple):
    audience: str | None = AUDIENCE
    secret_issuers: tuple[str, ...] = (ISSUER,)
    jwks_path: str | None = None
    jwks_url: str | None = None
    jwks_refresh_s: int = 300


class Secrets(NamedTuple):
    jwt_secret: bytes | None = SECRET
    jwt_secret_previous: bytes | None = None


async def test_the_settings_make_the_source() -> None:
    keys = KeySource.from_rules(Rules(), Secrets(jwt_secret_previous=PREVIOUS))
    await keys.load()

    assert len(keys.current.keys) == 2
    assert keys.current.keys[0].issuers == {ISSUER}


@pytest.mark.parametrize(
    ("rules", "secrets"),
    [
        (Rules(), Secrets(None)),
        (Rules(audience=None), Secrets()),
        (Rules(secret_issuers=()), Secrets()),
        (Rules(), Secrets(b"x" * 40)),
        (Rules(jwks_url="http://issuer.example/jwks"), Secrets()),
    ],
)
def test_wrong_settings_are_refused_at_start(rules: Rules, secrets: Secrets) -> None:
    with pytest.raises(ConfigError):
        KeySource.from_rules(rules, secrets)


async def test_a_set_without_any_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks([]))
    with pytest.raises(ConfigError, match="no verification key"):
        await KeySource((), SCOPE, jwks_path=str(file)).load()


async def test_a_file_that_is_not_there_or_too_large(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    keys = KeySource((), Scope(frozenset({"a"}), "b"), jwks_path=str(file))
    with pytest.raises(UnavailableError, match="No such file"):
        await keys.load()
    file.write_bytes(b" " * (load.MAX_DOCUMENT_BYTES + 1))
    with pytest.raises(ConfigError, match="bytes"):
        await keys.load()


@pytest.mark.threat("T-07")
@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks",
        "http://127.0.0.1.example/jwks",
        "http://10.0.0.1/jwks",
        "ftp://issuer.example/jwks",
        "file:///etc/passwd",
        "https://",
        "https://user:password@issuer.example/",
        "jwks.json",
        "",
        "https://[::1/",
        "http://localhost@issuer.example/",
    ],
)
def test_only_tls_and_this_machine_may_give_keys(url: str) -> None:
    with pytest.raises(ConfigError):
        validate_url(url)


@pytest.mark.parametrize(
    "url", [URL, "http://127.0.0.1:8080/jwks", "http://[::1]/x", "http://localhost/x"]
)
def test_a_good_address_is_taken(url: str) -> None:
    assert validate_url(url) == url


class Handler(BaseHTTPRequestHandler):
    """Answers by path; ``log_message`` is the library's name."""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
            return
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path == "/good":
                self.wfile.write(DOCUMENT)
            elif self.path == "/large":
                self.wfile.write(b" " * (load.MAX_DOCUMENT_BYTES + 1))
            while self.path == "/slow":
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.01)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    enable_socket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def loopback(address: str) -> str:
    enable_socket()
    return address


def test_a_document_is_fetched(loopback: str) -> None:
    assert fetch_document(f"{loopback}/good") == DOCUMENT


@pytest.mark.threat("T-07")
@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("/moved", UnavailableError, "302"),
        ("/absent", UnavailableError, "404"),
        ("/large", ConfigError, "at most"),
        ("/slow", UnavailableError, "too slow"),
    ],
)
def test_redirects_large_and_slow_documents_are_not_followed(
    loopback: str,
    path: str,
    error: type[Exception],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(load, "FETCH_TIMEOUT_S", 0.2)
    with pytest.raises(error, match=text):
        fetch_document(loopback + path)


def test_an_address_that_does_not_answer_is_unavailable(loopback: str) -> None:
    with pytest.raises(UnavailableError, match="cannot be fetched"):
        fetch_document("http://127.0.0.1:1/jwks")
    assert loopback
