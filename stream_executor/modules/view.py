"""The control topic's records → what the operators have said, as one view.

Anybody who may write the topic can append anything, any time, in any order, so a
record counts only if it continues the chain:

1. its bytes decode, and are the one encoding of their value;
2. its serial is the last accepted one's + 1 and ``prev`` is that one's leaf hash;
3. its signer may say this: the operator key signs geneses, keys and resumes; an
   enrolled, unretired Administrator key (or the operator's) everything else;
4. its signature verifies;
5. it does not contradict what was said before (``name@version`` is immutable, a
   retired key stays retired) and is well-formed.

Everything else is ignored and counted: a replayed ``deny.removed`` has a used
serial, so it undoes nothing. Same records, same view, on every worker, on the
notary and in seven years.

Not here: reading the topic (the shell's), and making records (``modules.orders``).
Source: docs/wire-format.md, "Control chain".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from enum import StrEnum
from typing import NoReturn

import msgspec

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.signing import verify_signed
from stream_executor.model.audit import ZERO32
from stream_executor.model.control import (
    ControlGenesis,
    ControlRecord,
    DenyAdded,
    DenyRemoved,
    DenySubject,
    KeyEnrolled,
    KeyPurpose,
    KeyRetired,
    ModulePublished,
    ModuleRevoked,
    ResumeOrdered,
)
from stream_executor.model.errors import (
    IntegrityError,
    MalformedError,
    MisuseError,
    UnavailableError,
)
from stream_executor.model.job import Limits
from stream_executor.model.request import (
    MODULE_NAME,
    MODULE_VERSION,
    ModuleDigest,
    ModuleName,
)
from stream_executor.wire.avro import CODECS, class_of

_OPERATOR_ONLY = (ControlGenesis, KeyEnrolled, KeyRetired, ResumeOrdered)
_CONTROL_CLASSES = frozenset(
    (*_OPERATOR_ONLY, ModulePublished, ModuleRevoked, DenyAdded, DenyRemoved)
)
_DIGEST_BYTES = 32


class Reason(StrEnum):
    """Why a record of the control topic does not count; stable words."""

    FOREIGN = "foreign"  # no control record in its canonical encoding
    STALE = "stale"  # its serial was used already: a replay, or a lost race
    AHEAD = "ahead"  # its serial is more than one ahead
    OTHER_CHAIN = "other_chain"  # the right serial after some other record
    FORBIDDEN = "forbidden"  # its signer may not say this here
    BAD_SIGNATURE = "bad_signature"
    CONTRADICTION = "contradiction"  # against what was said before, or ill-formed


class Applied(msgspec.Struct, frozen=True, gc=False):
    """The record counts; the view has taken it in."""

    record: ControlRecord


class Ignored(msgspec.Struct, frozen=True, gc=False):
    """The record does not count; nothing but the counts and offset changed."""

    reason: Reason


class PublishedModule(msgspec.Struct, frozen=True, gc=False):
    """A module that may be meant.

    Attributes:
        s256: SHA-256 digest (32 bytes) of its bytes.
        name: ``name@version`` if it was asked for by name, else None.
        size_bytes: length as published.
        modules_offset: where its bytes lie in the modules topic.
        grant: limits above the ceilings, for this module alone; None for none.
        revoked: it must not be executed any more, by whatever name.
        published_ms: append time of the publication, milliseconds since 1970 UTC.
    """

    s256: bytes
    name: str | None
    size_bytes: int
    modules_offset: int
    grant: Limits | None
    revoked: bool
    published_ms: int


class Denied(msgspec.Struct, frozen=True):
    """Whom and what to refuse; replaced as a whole on change, so safe to hold."""

    sub: frozenset[str] = frozenset()
    iss: frozenset[str] = frozenset()
    kid: frozenset[str] = frozenset()
    modules: frozenset[bytes] = frozenset()


class Denial(msgspec.Struct, frozen=True, gc=False):
    """One denial in force, for people: what, why, since when (control offset, ms)."""

    subject: DenySubject
    value: str
    reason: str
    offset: int
    since_ms: int


class EnrolledKey(msgspec.Struct, frozen=True, gc=False):
    """One key's history: valid from after ``enrolled_at`` until ``retired_at``.

    Both are control offsets of the records that say so; None is not retired.
    """

    purpose: KeyPurpose
    public_key: bytes
    name: str
    enrolled_at: int
    retired_at: int | None = None

    def valid(self, control_offset: int) -> bool:
        """Say whether it was valid for whoever had applied up to this (exclusive)."""
        return self.enrolled_at < control_offset and (
            self.retired_at is None or control_offset <= self.retired_at
        )


class ResumeOrder(msgspec.Struct, frozen=True, gc=False):
    """An accepted ``resume.ordered``, with its exact bytes and control offset."""

    offset: int
    value: bytes
    order: ResumeOrdered


class ControlView:
    """What the control topic says up to ``next_offset``.

    Args:
        operator_key: raw Ed25519 public key (32 bytes) from the settings: the root
            of trust.

    Attributes:
        head: leaf hash of the last accepted record; zero bytes before the first.
        next_offset: control offset (exclusive) up to which records were taken in,
            the ignored ones too; what seals cite as ``control_offset``.
        serial: serial of the last accepted record; -1 before the first.
        denied: the deny-list now.
        administrators: raw public keys that may sign publications and denials now.
        revoked_modules: digests that must not be executed, published or not.
        ignored: how many records were ignored, by reason.
    """

    def __init__(self, operator_key: bytes) -> None:
        self.operator_key = operator_key
        self.head = ZERO32
        self.next_offset = 0
        self.serial = -1
        self.denied = Denied()
        self.administrators: frozenset[bytes] = frozenset()
        self.ignored: Counter[Reason] = Counter()
        self._genesis: ControlGenesis | None = None
        self._keys: dict[tuple[KeyPurpose, bytes], EnrolledKey] = {}
        self._by_name: dict[ModuleName, PublishedModule] = {}
        self._by_digest: dict[bytes, PublishedModule] = {}
        self.revoked_modules: frozenset[bytes] = frozenset()
        self._denials: dict[tuple[DenySubject, str], Denial] = {}
        self._resumes: dict[bytes, tuple[ResumeOrder, ...]] = {}
        self._head_offsets: list[int] = []
        self._heads: list[bytes] = [ZERO32]

    # What it says.

    @property
    def begun(self) -> bool:
        """Whether the operator's genesis has been read."""
        return self._genesis is not None

    @property
    def genesis(self) -> ControlGenesis:
        """The operator's genesis.

        Raises:
            UnavailableError: it has not been read (yet).
        """
        if self._genesis is None:
            message = (
                "the control topic holds no control.genesis of the operator key "
                f"{self.operator_key.hex()[:16]}…: run `wasm-executor init`"
            )
            raise UnavailableError(message)
        return self._genesis

    @property
    def cluster_id(self) -> str:
        """Kafka cluster id that the genesis names (raises like ``genesis``)."""
        return self.genesis.cluster_id

    @property
    def audience(self) -> str:
        """Audience of tokens where no key says another (raises like ``genesis``)."""
        return self.genesis.audience

    def resolve(self, ref: ModuleName | ModuleDigest) -> PublishedModule | None:
        """Give the module that is meant, revoked or not; None if never published.

        A digest finds the latest publication of that digest, by whatever name.
        """
        if isinstance(ref, ModuleName):
            return self._by_name.get(ref)
        return self._by_digest.get(ref.s256)

    def modules(self) -> list[PublishedModule]:
        """Give every ``name@version`` in the order of first publication."""
        return list(self._by_name.values())

    def denials(self) -> list[Denial]:
        """Give every denial in force, oldest first."""
        return list(self._denials.values())

    def resumes(self, log_id: bytes) -> tuple[ResumeOrder, ...]:
        """Give the resumes ordered for a log, oldest first."""
        return self._resumes.get(log_id, ())

    @property
    def resumed(self) -> int:
        """How many resumes were ordered, for whichever log."""
        return sum(map(len, self._resumes.values()))

    def orders(self, log_id: bytes) -> list[ResumeOrdered]:
        """Give the records alone of ``resumes``."""
        return [resume.order for resume in self.resumes(log_id)]

    def enrolled_keys(self, purpose: KeyPurpose | None = None) -> list[EnrolledKey]:
        """Give every key ever enrolled, in order of enrolment."""
        return [k for k in self._keys.values() if purpose in (None, k.purpose)]

    def key_valid(
        self, purpose: KeyPurpose, public_key: bytes, control_offset: int
    ) -> bool:
        """Say whether a key was valid for whoever had applied up to an offset.

        Args:
            purpose: what it signs.
            public_key: raw public key.
            control_offset: exclusive, as in seals; may lie in the past. About
                offsets beyond ``next_offset`` it answers from what it knows: who
                must not, compares first.
        """
        key = self._keys.get((purpose, public_key))
        return key is not None and key.valid(control_offset)

    def fleet_key_valid(self, fleet_key: bytes, control_offset: int) -> bool:
        """Say whether a seal that cites this control offset may use the fleet key."""
        return self.key_valid(KeyPurpose.FLEET, fleet_key, control_offset)

    def head_at(self, control_offset: int) -> bytes:
        """Give the head for whoever had applied up to an offset (exclusive)."""
        return self._heads[bisect_left(self._head_offsets, control_offset)]

    # How it grows.

    def apply(
        self, offset: int, timestamp_ms: int, value: bytes | None
    ) -> Applied | Ignored:
        """Take in the topic's next record.

        Args:
            offset: its offset, above that of every record before.
            timestamp_ms: its append time; kept for listings, decides nothing.
            value: its value; None for a tombstone.

        Raises:
            IntegrityError: a first control.genesis under another operator's key:
                this deployment's setting or its topic is wrong.
            MisuseError: an offset that was taken in before.
        """
        if offset < self.next_offset:
            message = f"control offset {offset} after {self.next_offset - 1}"
            raise MisuseError(message)
        verdict = self.judge(value or b"")
        self.next_offset = offset + 1
        if isinstance(verdict, Reason):
            self.ignored[verdict] += 1
            return Ignored(verdict)
        self._take(offset, timestamp_ms, value or b"", verdict)
        return Applied(verdict)

    def judge(self, value: bytes) -> ControlRecord | Reason:
        """Say whether these bytes would count as the next record; change nothing.

        Raises:
            IntegrityError: as ``apply``.
        """
        cls = class_of(value)
        if cls not in _CONTROL_CLASSES:
            return Reason.FOREIGN
        try:
            record: ControlRecord = CODECS[cls].decode(value)
        except MalformedError:
            return Reason.FOREIGN
        if record.serial != self.serial + 1:
            return Reason.STALE if record.serial <= self.serial else Reason.AHEAD
        if record.prev != self.head:
            return Reason.OTHER_CHAIN
        return self._judge_signer(record, value) or (
            Reason.CONTRADICTION if self._contradicts(record) else record
        )

    def _judge_signer(self, record: ControlRecord, value: bytes) -> Reason | None:
        first = isinstance(record, ControlGenesis) and self._genesis is None
        allowed = record.signer == self.operator_key or (
            not isinstance(record, _OPERATOR_ONLY)
            and record.signer in self.administrators
        )
        if not (allowed or first):
            return Reason.FORBIDDEN
        try:
            verify_signed(value, record.signer)
        except IntegrityError:
            return Reason.BAD_SIGNATURE
        if not allowed:
            self._refuse_other_operator(record)
        return None

    def _refuse_other_operator(self, record: ControlRecord) -> NoReturn:
        message = (
            f"the control topic was begun by operator key {record.signer.hex()}, "
            f"the settings name {self.operator_key.hex()}: the topic is another "
            "deployment's, or another cluster answers"
        )
        raise IntegrityError(message)

    def _contradicts(self, record: ControlRecord) -> bool:
        """Say whether a genuine record is against what was said, or ill-formed."""
        if isinstance(record, ControlGenesis) != (self._genesis is None):
            return True
        match record:
            case KeyEnrolled():
                # A retired key stays retired: what it signs since is nobody's word.
                return (record.purpose, record.public_key) in self._keys
            case KeyRetired():
                key = self._keys.get((KeyPurpose(record.purpose), record.public_key))
                return key is None or key.retired_at is not None
            case ModulePublished():
                return self._ill_published(record)
            case DenyAdded() | DenyRemoved():
                return not _deny_value_valid(record)
            case _:
                return False

    def _ill_published(self, record: ModulePublished) -> bool:
        before = self._by_name.get(ModuleName(record.name, record.version))
        return (
            not MODULE_NAME.fullmatch(record.name)
            or not MODULE_VERSION.fullmatch(record.version)
            or record.size_bytes < 0
            or record.modules_offset < 0
            or (before is not None and before.s256 != record.module_s256)
            or (record.grant is not None and min(_amounts(record.grant)) <= 0)
        )

    def _take(
        self, offset: int, timestamp_ms: int, value: bytes, record: ControlRecord
    ) -> None:
        self.serial = record.serial
        self.head = leaf_hash(value)
        self._head_offsets.append(offset)
        self._heads.append(self.head)
        match record:
            case ControlGenesis():
                self._genesis = record
            case KeyEnrolled() | KeyRetired():
                self._take_key(offset, record)
            case ModulePublished():
                self._take_published(timestamp_ms, record)
            case ModuleRevoked():
                self._take_revoked(record.module_s256)
            case DenyAdded() | DenyRemoved():
                self._take_denial(offset, timestamp_ms, record)
            case ResumeOrdered():
                order = ResumeOrder(offset, value, record)
                self._resumes[record.log_id] = (*self.resumes(record.log_id), order)

    def _take_denial(
        self, offset: int, timestamp_ms: int, record: DenyAdded | DenyRemoved
    ) -> None:
        self.denied = _denied_after(self.denied, record)
        subject = DenySubject(record.subject)
        at = (subject, record.value)
        if isinstance(record, DenyRemoved):
            self._denials.pop(at, None)
        elif at not in self._denials:
            self._denials[at] = Denial(
                subject, record.value, record.reason, offset, timestamp_ms
            )

    def _take_key(self, offset: int, record: KeyEnrolled | KeyRetired) -> None:
        purpose = KeyPurpose(record.purpose)
        at = (purpose, record.public_key)
        if isinstance(record, KeyEnrolled):
            self._keys[at] = EnrolledKey(
                purpose, record.public_key, record.name, offset
            )
        else:
            self._keys[at] = msgspec.structs.replace(self._keys[at], retired_at=offset)
        self.administrators = frozenset(
            key.public_key
            for key in self.enrolled_keys(KeyPurpose.ADMINISTRATOR)
            if key.retired_at is None
        )

    def _take_published(self, timestamp_ms: int, record: ModulePublished) -> None:
        """Take a publication; a repeated one may move the bytes or change the grant."""
        name = ModuleName(record.name, record.version)
        module = PublishedModule(
            record.module_s256,
            str(name),
            record.size_bytes,
            record.modules_offset,
            record.grant,
            record.module_s256 in self.revoked_modules,
            timestamp_ms,
        )
        self._by_name[name] = module
        self._by_digest[module.s256] = msgspec.structs.replace(module, name=None)

    def _take_revoked(self, s256: bytes) -> None:
        self.revoked_modules |= {s256}
        if s256 not in self._by_digest:
            return
        revoked = msgspec.structs.replace
        self._by_digest[s256] = revoked(self._by_digest[s256], revoked=True)
        for name, module in self._by_name.items():
            if module.s256 == s256:
                self._by_name[name] = revoked(module, revoked=True)


def _amounts(grant: Limits) -> tuple[int, int, int]:
    return grant.fuel_units, grant.memory_bytes, grant.deadline_ms


def _deny_value_valid(record: DenyAdded | DenyRemoved) -> bool:
    if record.subject != DenySubject.MODULE:
        return bool(record.value)
    try:
        digest = bytes.fromhex(record.value)
    except ValueError:
        return False
    return len(digest) == _DIGEST_BYTES and digest.hex() == record.value


def _denied_after(denied: Denied, record: DenyAdded | DenyRemoved) -> Denied:
    field = ("sub", "iss", "kid", "modules")[record.subject]
    is_module = record.subject == DenySubject.MODULE
    entry = {bytes.fromhex(record.value) if is_module else record.value}
    before = getattr(denied, field)
    after = before | entry if isinstance(record, DenyAdded) else before - entry
    return msgspec.structs.replace(denied, **{field: after})
