"""Denials: one word of an Administrator that the whole fleet obeys within a second.

Not here: what a denial does to a request (``auth.deny``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_executor.model.control import DenySubject
    from stream_executor.modules.view import ControlView
    from stream_executor.services.speaking import Speaker


async def deny(speaker: Speaker, subject: DenySubject, value: str, reason: str) -> bool:
    """Refuse a subject, issuer, key or module from now on; False if it was denied.

    Args:
        speaker: an enrolled Administrator.
        subject: what ``value`` names.
        value: exact, no pattern; a module's digest in lower hex.
        reason: recorded, for people.

    Raises:
        Whatever ``Speaker.say`` raises.
    """
    return await speaker.say(
        lambda: speaker.orders.deny(subject, value, reason),
        lambda: _denied(speaker.view, subject, value),
    )


async def allow(speaker: Speaker, subject: DenySubject, value: str) -> bool:
    """End a denial; False if there is none. Arguments and errors as ``deny``."""
    return await speaker.say(
        lambda: speaker.orders.allow(subject, value),
        lambda: not _denied(speaker.view, subject, value),
    )


def _denied(view: ControlView, subject: DenySubject, value: str) -> bool:
    return any((one.subject, one.value) == (subject, value) for one in view.denials())
