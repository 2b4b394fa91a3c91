"""The requests that every program under test gets: modules, bodies, tokens.

Two guests: ``add`` does nothing but add, so what is left is the service's own cost;
``fill`` has two pages of memory of which it writes every 64th byte, as any guest that
was compiled from a language does. Bodies and tokens are of the real wire format.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

import wasmtime

from stream_executor.auth.jwks import GeneratedKey, generate_key, jwks
from stream_executor.auth.sign import RequestSigner
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.requests import encode_avro, encode_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PARTITIONS: Final = 4
ISSUER: Final = "tests"  # whom tests.deployment lets JWT_SECRET speak for
SUBJECT: Final = "agent-7"
LIFETIME_S: Final = 3_000
KID: Final = "bench-1"
ADD: Final = """
(module
  (func (export "add") (param i32 i32) (result i32)
    local.get 0
    local.get 1
    i32.add))
"""
FILL: Final = """
(module
  (memory (export "memory") 2)
  (func (export "fill") (param $at i32) (param $value i32) (result i32)
    (loop $next
      (i32.store (local.get $at) (local.get $value))
      (local.set $at (i32.add (local.get $at) (i32.const 64)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 4096))))
    (i32.load (i32.const 128))))
"""


class Guest(NamedTuple):
    """A module and how it is called.

    Attributes:
        function: its one export.
        wat: its text.
        args: two i32 arguments.
        result: what it gives for them.
    """

    function: str
    wat: str
    args: tuple[int, int]
    result: int

    @property
    def name(self) -> str:
        """What it is published as."""
        return f"{self.function}@1"

    @property
    def binary(self) -> bytes:
        """The module."""
        return bytes(wasmtime.wat2wasm(self.wat))


GUESTS: Final = {
    "add": Guest("add", ADD, (2, 3), 5),
    "memory": Guest("fill", FILL, (0, 7), 7),
}


class Signers:
    """One requester with both kinds of key.

    Attributes:
        secret: of HS256.
        key: of EdDSA; its public half is in ``jwks``.
    """

    def __init__(self, secret: bytes, audience: str) -> None:
        self.secret = secret
        self.key: GeneratedKey = generate_key("EdDSA", KID)
        names = {"issuer": ISSUER, "subject": SUBJECT, "audience": audience}
        self._signers = {
            "HS256": RequestSigner.from_secret(secret, **names),
            "EdDSA": RequestSigner.from_private_key(
                self.key.private_pem, kid=KID, **names
            ),
        }

    @property
    def jwks(self) -> bytes:
        """The JWK set document."""
        return jwks([self.key.jwk])

    def token(
        self, algorithm: str, place: tuple[str, int], value: bytes, now: int
    ) -> bytes:
        """Sign one body for one partition."""
        topic, partition = place
        return self._signers[algorithm].sign(
            topic, partition, value, now_s=now, lifetime_s=LIFETIME_S
        )


def body(guest: Guest, request_id: str, *, avro: bool = False) -> bytes:
    """Give a request's value."""
    args = b"".join(pack_value(ValueType.I32, arg) for arg in guest.args)
    request = ExecutionRequest(
        request_id, ModuleName(guest.function, "1"), Call(guest.function, args)
    )
    return encode_avro(request) if avro else encode_json(request)


class Signed(NamedTuple):
    """A request as it is produced."""

    request_id: str
    value: bytes
    headers: list[tuple[str, bytes]]


def signed(
    signers: Signers,
    algorithm: str,
    guest: Guest,
    place: tuple[str, int],
    ids: Iterable[str],
    clock: Callable[[], float],
) -> Iterator[Signed]:
    """Give one signed request an id, for one partition."""
    for request_id in ids:
        value = body(guest, request_id)
        token = signers.token(algorithm, place, value, int(clock()))
        yield Signed(request_id, value, [("authorization", b"Bearer " + token)])


def new_secret() -> bytes:
    """Give an HS256 secret."""
    return secrets.token_urlsafe(40).encode()
