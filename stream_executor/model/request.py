"""What a requester asks for: the ExecutionRequest as a value.

Shape only: whether it may run is decided in ``auth`` and ``lane``.
"""

from __future__ import annotations

import re

import msgspec

MAX_INLINE_MODULE_BYTES = 640 * 1024
DIGEST_PREFIX = "sha256:"
"""Before a module's digest, wherever people write one."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
MODULE_NAME = re.compile(r"[a-z0-9._-]{1,64}")
MODULE_VERSION = re.compile(r"[A-Za-z0-9._+-]{1,32}")


class ModuleName(msgspec.Struct, frozen=True, gc=False):
    """A published module by name and version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class ModuleDigest(msgspec.Struct, frozen=True, gc=False):
    """A published module by the SHA-256 digest (32 bytes) of its bytes."""

    s256: bytes


class InlineModule(msgspec.Struct, frozen=True, gc=False):
    """The module's own bytes, at most ``MAX_INLINE_MODULE_BYTES``."""

    bytes: bytes  # noqa: A003 - the schema field's name


ModuleRef = ModuleName | ModuleDigest | InlineModule


class Call(msgspec.Struct, frozen=True, gc=False):
    """Call an export with packed scalars (``model.scalars``)."""

    function: str
    args: bytes


class Bytes(msgspec.Struct, frozen=True, gc=False):
    """Hand bytes to the module's ``alloc``/``run`` ABI (docs/module-abi.md)."""

    input: bytes


class Wasi(msgspec.Struct, frozen=True, gc=False):
    """Run ``_start`` as a WASI preview 1 command."""

    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    stdin: bytes = b""
    files: tuple[tuple[str, bytes], ...] = ()


Invocation = Call | Bytes | Wasi


class RequestedLimits(msgspec.Struct, frozen=True, gc=False):
    """Lower limits than the ceilings; None keeps the ceiling."""

    fuel_units: int | None = None
    memory_bytes: int | None = None
    deadline_ms: int | None = None


class ExecutionRequest(msgspec.Struct, frozen=True, gc=False):
    """One request, decoded and validated.

    Attributes:
        request_id: the requester's own id, ``REQUEST_ID``.
        module: which module.
        invocation: how to enter it.
        limits: lower limits, or None.
        not_after_ms: do not start later than this (milliseconds since 1970 UTC).
    """

    request_id: str
    module: ModuleRef
    invocation: Invocation
    limits: RequestedLimits | None = None
    not_after_ms: int | None = None
