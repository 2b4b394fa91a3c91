"""What an operator or Administrator wants to say → the next control record's bytes.

Each builder signs one record that continues the view's chain, and gives it only if
the view would accept it: the rules are the view's own, asked before anything is
written. The bytes are good until somebody else's record is accepted first; whoever
appends them reads the topic on and, if they came out stale, builds them anew.

Not here: appending them, and uploading a module's bytes (the services).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_executor.audit.signing import public_bytes, signed
from stream_executor.model.control import (
    ControlGenesis,
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
from stream_executor.model.errors import ExecutorError
from stream_executor.modules.view import ControlView, Reason

if TYPE_CHECKING:
    import msgspec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.model.job import Limits
    from stream_executor.model.record import Range
    from stream_executor.model.request import ModuleName

_WHY = {
    Reason.FORBIDDEN: "this key may not say it: the operator key signs keys and "
    "resumes, an enrolled Administrator's the rest",
    Reason.CONTRADICTION: "it contradicts what was said before, or is ill-formed",
}


UNRAISED = 1
"""What a grant says of a limit that it leaves at its ceiling."""


class OrderRefusedError(ExecutorError):
    """The control chain would not accept this record; nothing was made."""


class Orders:
    """Builds the next control record for one signer.

    Args:
        view: what was said so far, read to the topic's end.
        key: the signer's private key.
        now_ms: the signer's clock, milliseconds since 1970 UTC; recorded, decides
            nothing.

    Every method returns one record's signed bytes.

    Raises (every method):
        OrderRefusedError: the view would ignore the record; the message says why.
    """

    def __init__(self, view: ControlView, key: Ed25519PrivateKey, now_ms: int) -> None:
        self._view = view
        self._key = key
        self._now_ms = now_ms

    def genesis(self, deployment: str, cluster_id: str, audience: str) -> bytes:
        """Begin the chain."""
        return self._next(
            ControlGenesis,
            deployment=deployment,
            cluster_id=cluster_id,
            audience=audience,
        )

    def enrol(self, purpose: KeyPurpose, public_key: bytes, name: str) -> bytes:
        """Make a key valid for a purpose."""
        return self._next(
            KeyEnrolled, purpose=int(purpose), public_key=public_key, name=name
        )

    def retire(self, purpose: KeyPurpose, public_key: bytes, reason: str) -> bytes:
        """End a key's validity for good; what it signed before stays valid."""
        return self._next(
            KeyRetired, purpose=int(purpose), public_key=public_key, reason=reason
        )

    def publish(
        self,
        name: ModuleName,
        module_s256: bytes,
        size_bytes: int,
        modules_offset: int,
        *,
        grant: Limits | None = None,
        hard_max: Limits | None = None,
    ) -> bytes:
        """Say that ``name@version`` means a module; again, to change its grant.

        Args:
            name: immutable: a version once published means its digest for ever.
            module_s256: digest of the bytes.
            size_bytes: their length.
            modules_offset: where they lie in the modules topic, already written.
            grant: limits that raise the ceilings for this module; one at or below
                its ceiling changes nothing (``UNRAISED``).
            hard_max: what no grant may exceed (HARD_MAX_* settings).
        """
        before = self._view.resolve(name)
        if before is not None and before.s256 != module_s256:
            message = (
                f"{name} already means {before.s256.hex()}: a version never changes "
                "its meaning; publish a new version"
            )
            raise OrderRefusedError(message)
        if grant is not None and hard_max is not None:
            _refuse_above(grant, hard_max)
        return self._next(
            ModulePublished,
            name=name.name,
            version=name.version,
            module_s256=module_s256,
            size_bytes=size_bytes,
            modules_offset=modules_offset,
            grant=grant,
        )

    def revoke(self, module_s256: bytes, reason: str) -> bytes:
        """Forbid a module's execution by whatever name, for good."""
        return self._next(ModuleRevoked, module_s256=module_s256, reason=reason)

    def deny(self, subject: DenySubject, value: str, reason: str) -> bytes:
        """Deny a subject, issuer, key id or module (digest in lower hex)."""
        return self._next(DenyAdded, subject=int(subject), value=value, reason=reason)

    def allow(self, subject: DenySubject, value: str) -> bytes:
        """End a denial."""
        return self._next(DenyRemoved, subject=int(subject), value=value)

    def resume(
        self,
        *,
        log_id: bytes,
        partition: int,
        next_offset: int,
        head_seq: int,
        head: bytes,
        evidence: str,
        lost: list[Range] | None = None,
        skipped: list[Range] | None = None,
        refused: list[Range] | None = None,
    ) -> bytes:
        """Order how one halted lane goes on.

        Args:
            log_id: which lane's log.
            partition: which lane.
            next_offset: requests offset to go on at.
            head_seq: seq of the last leaf that counts, a seal.
            head: its leaf hash.
            evidence: why, in words and digests.
            lost: requests offsets that can never be answered.
            skipped: audit offsets that are no leaves.
            refused: requests offsets to answer ``invalid_request``.
        """
        return self._next(
            ResumeOrdered,
            log_id=log_id,
            partition=partition,
            next=next_offset,
            head_seq=head_seq,
            head=head,
            lost=lost or [],
            skipped=skipped or [],
            refused=refused or [],
            evidence=evidence,
        )

    def _next(self, cls: type[msgspec.Struct], **said: Any) -> bytes:
        view = self._view
        record = cls(
            serial=view.serial + 1,
            prev=view.head,
            created_ms=self._now_ms,
            signer=public_bytes(self._key),
            **said,
        )
        try:
            value = signed(record, self._key)
        except ValueError as error:  # a digest or key of the wrong length
            raise OrderRefusedError(str(error)) from error
        verdict = view.judge(value)
        if isinstance(verdict, Reason):
            message = f"the control chain would ignore this record ({verdict.value})"
            if verdict in _WHY:
                message += f": {_WHY[verdict]}"
            raise OrderRefusedError(message)
        return value


def _refuse_above(grant: Limits, hard_max: Limits) -> None:
    for field in grant.__struct_fields__:
        asked, most = getattr(grant, field), getattr(hard_max, field)
        if asked > most:
            message = f"a grant of {field} {asked} is above the hard maximum {most}"
            raise OrderRefusedError(message)
