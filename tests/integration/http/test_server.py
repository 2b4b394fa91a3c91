from __future__ import annotations

import asyncio
import datetime as dt
import signal
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from stream_executor.http.server import HttpServer, Tls, listen
from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request


async def hello(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello)])


async def get(port: int, tls: ssl.SSLContext | None = None) -> str:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None
    )
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


def certificate(folder: Path, days: int) -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(days)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        .sign(key, None)
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return chain, private


async def test_it_answers_and_leaves_the_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    server = HttpServer(APP, listen("127.0.0.1", 0))
    await server.start()
    answer = await get(server.port)
    assert answer.startswith("HTTP/1.1 200")
    assert answer.endswith("hello")
    assert "uvicorn" not in answer.lower()
    assert signal.getsignal(signal.SIGTERM) is before
    await server.stop()


async def test_a_connection_before_the_first_turn_of_the_loop_is_answered() -> None:
    """The port listens from `listen` on, so nobody is refused during the start."""
    server = HttpServer(APP, listen("127.0.0.1", 0))
    early = asyncio.create_task(get(server.port))
    await server.start()
    assert (await early).endswith("hello")
    await server.stop()


async def test_a_port_that_is_taken_is_named_with_a_remedy() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"METRICS_PORT.*port {port}"):
            listen("127.0.0.1", port)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this host")
async def test_the_unspecified_ipv6_address_serves_ipv4_too() -> None:
    server = HttpServer(APP, listen("::", 0))
    await server.start()
    assert (await get(server.port)).endswith("hello")
    await server.stop()


async def test_an_idle_connection_does_not_hold_up_the_stop() -> None:
    server = HttpServer(APP, listen("127.0.0.1", 0))
    await server.start()
    await get(server.port)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(5):
        await server.stop()
    writer.close()


async def test_a_renewed_certificate_is_served_without_a_restart(
    tmp_path: Path,
) -> None:
    tls = Tls(*certificate(tmp_path, days=1))
    first_expiry = tls.expires_s
    server = HttpServer(APP, listen("127.0.0.1", 0), tls)
    await server.start()
    old = ssl.create_default_context(cafile=str(tmp_path / "chain.pem"))
    assert (await get(server.port, old)).endswith("hello")

    certificate(tmp_path, days=9)
    tls.reload()
    assert tls.expires_s > first_expiry
    new = ssl.create_default_context(cafile=str(tmp_path / "chain.pem"))
    assert (await get(server.port, new)).endswith("hello")
    with pytest.raises(ssl.SSLCertVerificationError):
        await get(server.port, old)
    await server.stop()


def test_a_certificate_that_cannot_be_read_is_a_configuration_error(
    tmp_path: Path,
) -> None:
    chain, key = certificate(tmp_path, days=1)
    chain.write_text("nonsense")
    with pytest.raises(ConfigError, match="WASM_EXECUTOR_HTTP_TLS_CERT_FILE"):
        Tls(chain, key)
    with pytest.raises(ConfigError, match="WASM_EXECUTOR_HTTP_TLS_CERT_FILE"):
        Tls(tmp_path / "missing", key)
