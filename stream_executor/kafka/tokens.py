"""Get the token that SASL/OAUTHBEARER shows the brokers.

A file (``file:///…``, a projected service account token, say) is read for each
connection, so its rotation needs nothing. An endpoint is asked with OAuth 2's client
credentials grant (RFC 6749, 4.4), and its token kept for four fifths of its life, as
Kafka's own clients do. Tokens and client secrets appear in no message.

Brokers with ``connections.max.reauth.ms`` end a connection together with its token:
aiokafka cannot authenticate again on one (KIP-368). The lane then recovers, once a
token's life.

Not here: what the brokers make of the token.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import urllib3
from aiokafka import errors
from aiokafka.abc import AbstractTokenProvider

from stream_executor.kafka.internals import refuse_challenges

if TYPE_CHECKING:
    from stream_executor.kafka.oauth import OAuthSource

_TIMEOUT_S: Final = 5.0
_MAX_ANSWER_BYTES: Final = 64 * 1024
_USED_LIFE: Final = 0.8  # sasl.login.refresh.window.factor of Kafka's clients


@lru_cache(maxsize=8)
def token_provider(source: OAuthSource) -> AbstractTokenProvider:
    """Give the provider of a source, one for all clients of a process."""
    refuse_challenges()
    if source.url.startswith("file:"):
        return _FromFile(source)
    return _FromEndpoint(source)


class _FromFile(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Reads the file each time."""

    def __init__(self, source: OAuthSource) -> None:
        self._path = Path(unquote(urlsplit(source.url).path))

    async def token(self) -> str:
        try:
            token = self._path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise errors.KafkaConnectionError(
                f"OAUTHBEARER: {self._path} cannot be read: {type(error).__name__}"
            ) from None
        if not token:
            raise errors.KafkaConnectionError(f"OAUTHBEARER: {self._path} is empty")
        return token


class _FromEndpoint(AbstractTokenProvider):  # type: ignore[misc]  # as above
    """Asks the endpoint when the token it has grows old."""

    def __init__(self, source: OAuthSource) -> None:
        self._source = source
        # Clients in several loops and threads may share this; none is held up by it.
        self._turn = threading.Lock()
        self._token = ""
        self._until_s = float("-inf")

    async def token(self) -> str:
        if time.monotonic() < self._until_s:
            return self._token
        return await asyncio.to_thread(self._renewed)

    def _renewed(self) -> str:
        with self._turn:
            if time.monotonic() >= self._until_s:
                asked_s = time.monotonic()
                answer = _ask(self._source)
                self._token = str(answer["access_token"])
                life_s = float(answer.get("expires_in", 0))
                self._until_s = asked_s + life_s * _USED_LIFE
            return self._token


def _ask(source: OAuthSource) -> dict[str, Any]:
    """Ask once, without redirects; the secret goes to no other address."""
    fields = {"grant_type": "client_credentials"}
    if source.scope:
        fields["scope"] = source.scope
    pool = urllib3.PoolManager(ca_certs=source.cafile, retries=False)
    basic = f"{source.client_id}:{source.client_secret}"
    headers = urllib3.make_headers(basic_auth=basic)
    try:
        response = pool.request(
            "POST", source.url, fields=fields, encode_multipart=False,
            headers={**headers, "accept": "application/json"}, redirect=False,
            timeout=_TIMEOUT_S, preload_content=False,
        )  # fmt: skip
        body = response.read(_MAX_ANSWER_BYTES)
    except urllib3.exceptions.HTTPError as error:
        raise errors.KafkaConnectionError(
            f"OAUTHBEARER: {source.url} does not answer: {type(error).__name__}"
        ) from None
    finally:
        pool.clear()
    if response.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED}:
        raise errors.AuthenticationFailedError(
            f"OAUTHBEARER: {source.url} refuses client {source.client_id}: "
            f"HTTP status {response.status}"
        )
    try:
        answer: dict[str, Any] = json.loads(body)
        if response.status == HTTPStatus.OK and answer["access_token"]:
            return answer
    except (ValueError, KeyError, TypeError):
        pass
    raise errors.KafkaConnectionError(
        f"OAUTHBEARER: {source.url} gave no token: HTTP status {response.status}"
    )
