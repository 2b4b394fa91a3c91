"""Serve the pages inside the supervisor's loop.

uvicorn with its pure-Python parser: a scrape every few seconds needs no speed, and the
process that holds the fleet key no C parser for whatever reaches the port. Signals stay
the supervisor's: uvicorn would take over SIGTERM and raise it again afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import uvicorn
from cryptography import x509

from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

_MAX_CONNECTIONS = 256
_MAX_HEADER_BYTES = 16 * 1024
_KEEP_ALIVE_S = 30
_STOP_S = 1


def listen(host: str, port: int) -> socket.socket:
    """Bind the port before anything else starts.

    Args:
        host: name or address; ``::`` serves IPv4, too.
        port: 0 lets the system choose, for tests.

    Raises:
        ConfigError: the address cannot be had; names it and a remedy.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(
            (str(address[0]), port),
            family=family,
            dualstack_ipv6=address[0] == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise ConfigError(
            f"METRICS_PORT: cannot listen on {host} port {port}: {error.strerror}; a "
            "Prometheus on this host has 9090 by default: set another METRICS_PORT"
        ) from error


class Tls:
    """Certificate and key of the port, which can be read again while it serves.

    Raises:
        ConfigError: they cannot be read or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.reload()

    def reload(self) -> None:
        """Read both files; connections made from now on use them."""
        try:
            self.context.load_cert_chain(self._certificate, self._key)
            self.expires_s = certificate_expiry_s(self._certificate)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"WASM_EXECUTOR_HTTP_TLS_CERT_FILE={self._certificate}: {error}"
            ) from error


def certificate_expiry_s(file: Path) -> float:
    """Give when the first certificate of a PEM file ends, seconds since 1970.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no certificate.
    """
    leaf = x509.load_pem_x509_certificates(file.read_bytes())[0]
    return leaf.not_valid_after_utc.timestamp()


class _Server(uvicorn.Server):
    """uvicorn that leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """One listening port.

    Args:
        app: what to serve.
        listener: from ``listen``; closed by ``stop``.
        tls: None serves plain HTTP.
    """

    def __init__(
        self, app: ASGIApp, listener: socket.socket, tls: Tls | None = None
    ) -> None:
        self._listener = listener
        factory = None if tls is None else (lambda _config, _default: tls.context)
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MAX_CONNECTIONS,
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_STOP_S,
                ssl_context_factory=factory,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    async def start(self) -> None:
        """Serve; returns at once, the socket is listening already."""
        self._task = asyncio.create_task(
            self._server.serve(sockets=[self._listener]), name="http"
        )

    async def stop(self) -> None:
        """Stop; connections get a second to end. Raises what made the server fail."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._listener.close()
