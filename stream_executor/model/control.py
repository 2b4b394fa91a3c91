"""The records of the control chain, as values.

Field names and order are those of ``schemas/``, which a test holds. Who may sign
which record is decided in ``modules.view``.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from stream_executor.model.audit import ZERO64
from stream_executor.model.job import Limits
from stream_executor.model.record import Range


class KeyPurpose(IntEnum):
    """What an enrolled key may sign; the order is the Avro enum's."""

    FLEET = 0
    NOTARY = 1
    ADMINISTRATOR = 2


class DenySubject(IntEnum):
    """What a deny entry names; the order is the Avro enum's."""

    SUB = 0
    ISS = 1
    KID = 2
    MODULE = 3


class ControlGenesis(msgspec.Struct, frozen=True, gc=False):
    """First control record."""

    serial: int
    prev: bytes
    created_ms: int
    deployment: str
    cluster_id: str
    audience: str
    signer: bytes
    signature: bytes = ZERO64


class KeyEnrolled(msgspec.Struct, frozen=True, gc=False):
    """From here on the key is valid for its purpose."""

    serial: int
    prev: bytes
    created_ms: int
    purpose: int
    public_key: bytes
    name: str
    signer: bytes
    signature: bytes = ZERO64


class KeyRetired(msgspec.Struct, frozen=True, gc=False):
    """From here on the key signs nothing new."""

    serial: int
    prev: bytes
    created_ms: int
    purpose: int
    public_key: bytes
    reason: str
    signer: bytes
    signature: bytes = ZERO64


class ModulePublished(msgspec.Struct, frozen=True, gc=False):
    """name@version means this digest for ever."""

    serial: int
    prev: bytes
    created_ms: int
    name: str
    version: str
    module_s256: bytes
    size_bytes: int
    modules_offset: int
    grant: Limits | None
    signer: bytes
    signature: bytes = ZERO64


class ModuleRevoked(msgspec.Struct, frozen=True, gc=False):
    """The digest is executed no more, by whatever name."""

    serial: int
    prev: bytes
    created_ms: int
    module_s256: bytes
    reason: str
    signer: bytes
    signature: bytes = ZERO64


class DenyAdded(msgspec.Struct, frozen=True, gc=False):
    """A subject, issuer, key or module is denied from here on."""

    serial: int
    prev: bytes
    created_ms: int
    subject: int
    value: str
    reason: str
    signer: bytes
    signature: bytes = ZERO64


class DenyRemoved(msgspec.Struct, frozen=True, gc=False):
    """A denial ends here."""

    serial: int
    prev: bytes
    created_ms: int
    subject: int
    value: str
    signer: bytes
    signature: bytes = ZERO64


class ResumeOrdered(msgspec.Struct, frozen=True, gc=False):
    """The operator's way back for one halted lane."""

    serial: int
    prev: bytes
    created_ms: int
    log_id: bytes
    partition: int
    next: int
    head_seq: int
    head: bytes
    lost: list[Range]
    skipped: list[Range]
    refused: list[Range]
    evidence: str
    signer: bytes
    signature: bytes = ZERO64


ControlRecord = (
    ControlGenesis
    | KeyEnrolled
    | KeyRetired
    | ModulePublished
    | ModuleRevoked
    | DenyAdded
    | DenyRemoved
    | ResumeOrdered
)
