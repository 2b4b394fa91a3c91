"""Load verification keys, and load them again: the one file here that does I/O.

Keys come from ``JWT_SECRET`` (and the one before it), a JWK set file and a JWK set
address. What cannot be read now leaves the last good set in force: an identity
provider that is away refuses nobody. Only before the first good set is there nothing
to decide with, and that is said as such (``UnavailableError``), never as a bad
signature.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import urllib3

from stream_executor.auth.jwks import read_jwk_set
from stream_executor.auth.keys import KeySet, Scope, VerificationKey, secret_key
from stream_executor.loopback import is_loopback
from stream_executor.model.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_executor.auth.jwks import JwkSet

MAX_DOCUMENT_BYTES = 1024 * 1024
FETCH_TIMEOUT_S = 5.0
_CHUNK_BYTES = 64 * 1024
MIN_MISS_INTERVAL_S = 30.0
"""Least time between two refreshes that unknown kids cause: forged kids are free."""


class KeyRules(Protocol):
    """The settings that are not secret."""

    @property
    def audience(self) -> str | None:
        """The deployment's ``aud``; None while it is not settled."""

    @property
    def secret_issuers(self) -> tuple[str, ...]:
        """Whom secrets, and JWKs without ``wx_issuers``, may speak for."""

    @property
    def jwks_path(self) -> str | None:
        """JWK set file."""

    @property
    def jwks_url(self) -> str | None:
        """JWK set address."""

    @property
    def jwks_refresh_s(self) -> int:
        """Seconds between two reads of the address."""


class KeySecrets(Protocol):
    """The settings that are secret."""

    @property
    def jwt_secret(self) -> bytes | None:
        """The current secret."""

    @property
    def jwt_secret_previous(self) -> bytes | None:
        """The one before, accepted beside it."""


class KeySource:
    """Holds the key set in force and replaces it as a whole.

    Not for use from more than one event loop.

    Args:
        secrets: HS256 secrets, the current one first.
        scope: for whom secrets, and JWKs that do not say it, may speak.
        jwks_path: JWK set file, or None.
        jwks_url: JWK set address, or None.
        refresh_s: seconds between two reads of the address (``follow``).
        clock: monotonic seconds.
        fetch: reads an address; blocking.

    Raises:
        ConfigError: no source at all, a weak secret, an address without TLS.
    """

    def __init__(
        self,
        secrets: tuple[bytes, ...],
        scope: Scope,
        *,
        jwks_path: str | None = None,
        jwks_url: str | None = None,
        refresh_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        fetch: Callable[[str], bytes] | None = None,
    ) -> None:
        if not secrets and jwks_path is None and jwks_url is None:
            raise ConfigError(
                "no verification key is configured: set JWT_SECRET, or a JWK set"
            )
        self._secrets: tuple[VerificationKey, ...] = tuple(
            secret_key(secret, scope) for secret in dict.fromkeys(secrets)
        )
        self._scope = scope
        self._path = jwks_path
        self._url = None if jwks_url is None else validate_url(jwks_url)
        self._refresh_s = refresh_s
        self._clock = clock
        self._fetch = fetch or fetch_document
        self._current: KeySet | None = None
        self._next_miss_s = float("-inf")
        self._turn = asyncio.Lock()
        self.fetched_s = 0.0
        """When the address last answered, seconds since 1970; 0 if never."""
        self.skipped: tuple[str, ...] = ()
        """Keys of the documents that are not used, one line each, and why."""

    @classmethod
    def from_rules(cls, rules: KeyRules, secrets: KeySecrets) -> KeySource:
        """Make the source that the settings describe.

        Raises:
            ConfigError: as the constructor; or the audience is not settled yet.
        """
        if rules.audience is None:
            raise ConfigError("the audience of tokens is not settled")
        given = (secrets.jwt_secret, secrets.jwt_secret_previous)
        return cls(
            tuple(secret for secret in given if secret is not None),
            Scope(frozenset(rules.secret_issuers), rules.audience),
            jwks_path=rules.jwks_path,
            jwks_url=rules.jwks_url,
            refresh_s=rules.jwks_refresh_s,
        )

    @property
    def current(self) -> KeySet:
        """The key set in force; the same object until a key changes.

        Raises:
            UnavailableError: none was ever loaded.
        """
        if self._current is None:
            raise UnavailableError("no key set has been loaded yet")
        return self._current

    async def load(self) -> None:
        """Read all sources now; on failure the set in force stays in force.

        Raises:
            ConfigError: a document is wrong, or holds no usable key.
            UnavailableError: a document could not be read.
        """
        async with self._turn:
            await self._load()

    def may_refresh(self, seen: KeySet) -> bool:
        """Tell whether ``refresh_for_unknown_key`` would look again, or has."""
        if self._path is None and self._url is None:
            return False
        return self._current is not seen or self._clock() >= self._next_miss_s

    async def refresh_for_unknown_key(self, seen: KeySet) -> bool:
        """A token named a key that ``seen`` does not have: look again, if it is time.

        Call it before auth_unknown_key is final, and verify the token anew if it
        gives True. Never raises. Reads at most once in ``MIN_MISS_INTERVAL_S``, and
        after a failure not before ``follow`` is due anyway, so that neither forged
        kids nor an absent identity provider hold up a lane.

        Returns:
            Whether another set than ``seen`` is in force now.
        """
        if self._path is None and self._url is None:
            return False
        async with self._turn:
            if self._current is seen and self._clock() >= self._next_miss_s:
                try:
                    await self._load()
                except (ConfigError, UnavailableError):
                    wait_s = max(self._refresh_s, MIN_MISS_INTERVAL_S)
                    self._next_miss_s = self._clock() + wait_s
            return self._current is not seen

    async def follow(self, failed: Callable[[Exception], None]) -> None:
        """Read the address again and again, for ever; ``failed`` hears of failures."""
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.load()
            except (ConfigError, UnavailableError) as error:
                failed(error)

    async def _load(self) -> None:
        self._next_miss_s = self._clock() + MIN_MISS_INTERVAL_S
        sets: list[JwkSet] = []
        if self._path is not None:
            document = await asyncio.to_thread(read_document, self._path)
            sets.append(read_jwk_set(document, self._scope))
        if self._url is not None:
            document = await asyncio.to_thread(self._fetch, self._url)
            sets.append(read_jwk_set(document, self._scope))
            self.fetched_s = time.time()
        keys = KeySet(
            (*self._secrets, *(key for each in sets for key in each.keys)),
            (key_id for each in sets for key_id in each.retired),
        )
        self.skipped = tuple(line for each in sets for line in each.skipped)
        if self._current is None or not keys.is_same(self._current):
            self._current = keys


def validate_url(url: str) -> str:
    """Give a JWK set's address back.

    Whoever can change keys on the way can sign as anyone, so TLS is required, except
    to this machine.

    Raises:
        ConfigError: not https, no host, or credentials in the address.
    """
    try:
        parsed = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError as error:
        raise ConfigError("the JWK set address is not a URL") from error
    if parsed.auth is not None or not parsed.host:
        raise ConfigError("the JWK set address has no host, or has credentials")
    if parsed.scheme != "https" and not (
        parsed.scheme == "http" and is_loopback(parsed.host.strip("[]"))
    ):
        raise ConfigError("the JWK set address must start with https://")
    return url


def fetch_document(url: str) -> bytes:
    """Fetch a document, bounded in time and size, following no redirect.

    Raises:
        UnavailableError: it could not be had.
    """
    deadline_s = time.monotonic() + FETCH_TIMEOUT_S
    document = bytearray()
    try:
        with (
            urllib3.PoolManager(timeout=FETCH_TIMEOUT_S, retries=False) as pool,
            pool.request("GET", url, preload_content=False, redirect=False) as answer,
        ):
            if answer.status != HTTPStatus.OK:
                raise UnavailableError(f"the JWK set address answered {answer.status}")
            # urllib3's timeout is for each read; a server that drips meets ours.
            while len(document) <= MAX_DOCUMENT_BYTES:
                chunk = answer.read1(_CHUNK_BYTES, decode_content=False)
                if not chunk:
                    break
                document += chunk
                if time.monotonic() > deadline_s:
                    raise UnavailableError("the JWK set address is too slow")
    except urllib3.exceptions.HTTPError as error:
        raise UnavailableError(f"the JWK set cannot be fetched: {error}") from error
    return _bounded(bytes(document))


def read_document(path: str) -> bytes:
    """Read a file of bounded size.

    Raises:
        UnavailableError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return _bounded(file.read(MAX_DOCUMENT_BYTES + 1))
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from error


def _bounded(document: bytes) -> bytes:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise ConfigError(f"a JWK set has at most {MAX_DOCUMENT_BYTES} bytes")
    return document
