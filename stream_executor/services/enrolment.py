"""Keys that count: the operator enrols them on the control topic, and retires them.

A retired key never comes back; what it signed before its retirement stays believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_executor.model.control import KeyPurpose
    from stream_executor.modules.view import ControlView, EnrolledKey
    from stream_executor.services.speaking import Speaker


async def enrol(
    speaker: Speaker, purpose: KeyPurpose, public_key: bytes, name: str
) -> bool:
    """Make a key valid for its purpose; False if it is valid already.

    Args:
        speaker: the operator.
        purpose: what the key may sign.
        public_key: raw Ed25519 public key.
        name: for people.

    Raises:
        Whatever ``Speaker.say`` raises; OrderRefusedError for a retired key, too.
    """
    return await speaker.say(
        lambda: speaker.orders.enrol(purpose, public_key, name),
        lambda: _valid(speaker.view, purpose, public_key),
    )


async def retire(
    speaker: Speaker, purpose: KeyPurpose, public_key: bytes, reason: str
) -> bool:
    """End a key's validity for good; False if it had ended.

    Raises:
        LookupError: it was never enrolled for this purpose.
        Whatever ``Speaker.say`` raises.
    """
    if _enrolled(speaker.view, purpose, public_key) is None:
        raise LookupError(public_key.hex())
    return await speaker.say(
        lambda: speaker.orders.retire(purpose, public_key, reason),
        lambda: not _valid(speaker.view, purpose, public_key),
    )


def _enrolled(
    view: ControlView, purpose: KeyPurpose, public_key: bytes
) -> EnrolledKey | None:
    keys = view.enrolled_keys(purpose)
    return next((key for key in keys if key.public_key == public_key), None)


def _valid(view: ControlView, purpose: KeyPurpose, public_key: bytes) -> bool:
    key = _enrolled(view, purpose, public_key)
    return key is not None and key.retired_at is None
