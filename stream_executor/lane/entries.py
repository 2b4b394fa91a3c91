"""What a lane holds in flight: one entry for each request record, in offset order.

An entry is a decision already made (``Admitted``, ``Refused``) or something else
that the log must say at exactly this place (``Gap``, ``ContextChange``). Entries are
values; only the report of a guest arrives later, beside its entry.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stream_executor.model.audit import ContextDigests, Principal
from stream_executor.model.job import Job

NO_HEADERS: list[tuple[str, bytes]] = []


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """A request that runs: verified, valid, authorized.

    Attributes:
        offset, timestamp: the record; ``timestamp`` is its LogAppendTime (ms).
        lane_time: running maximum of LogAppendTime at this record (ms).
        decided_ms: the worker's clock at admission (ms).
        request_id, principal: who asked for what.
        module_name: ``name@version`` if it was named so.
        job: what the sandbox gets.
        salt, body_digest: this request's salt and the digest of its value.
        size_bytes: what it holds in memory, for back-pressure.
        headers: headers that go to the result verbatim.
        inline: whether the module's bytes came with the request.
    """

    offset: int
    timestamp: int
    lane_time: int
    decided_ms: int
    request_id: str
    principal: Principal
    module_name: str | None
    job: Job
    salt: bytes
    body_digest: bytes
    size_bytes: int
    headers: list[tuple[str, bytes]] = NO_HEADERS
    inline: bool = False


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A record, or a run of empty ones, that gets an answer but no sandbox.

    ``principal`` is there once signature, audience and binding held; without it
    adjacent refusals of one equal ``auth_*`` code may share one answer. ``spent``
    says that this record used up its token's jti. A run of ``count`` records carries
    salt and digest of its last.
    """

    offset: int
    timestamp: int
    lane_time: int
    decided_ms: int
    code: str
    message: str
    salt: bytes
    body_digest: bytes
    request_id: str | None = None
    principal: Principal | None = None
    spent: bool = False
    size_bytes: int = 0
    headers: list[tuple[str, bytes]] = NO_HEADERS
    count: int = 1


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Offsets [start, end) proven to hold no committed record."""

    start: int
    end: int


class ContextChange(msgspec.Struct, frozen=True, gc=False):
    """From here on decisions rest on these digests."""

    digests: ContextDigests


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """The request at this offset is tried alone after this, once more."""

    offset: int
    number: int


Entry = Admitted | Refused | Gap | ContextChange | Attempt
Entries = Sequence[Entry]
