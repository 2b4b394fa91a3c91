"""Which module is compiled ahead next."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.signing import public_bytes
from stream_executor.lane.admission import Ceilings
from stream_executor.model.control import DenySubject
from stream_executor.model.job import Limits
from stream_executor.model.request import ModuleName
from stream_executor.modules.orders import UNRAISED, Orders
from stream_executor.modules.view import ControlView
from stream_executor.services.compile_ahead import next_module

LIMITS = Limits(1, 1, 1)
CEILINGS = Ceilings(LIMITS, 100, LIMITS, 1_000, 1)
OPERATOR = Ed25519PrivateKey.generate()


def digest(name: str) -> bytes:
    """The digest of a module of this name."""
    return sha256(name.encode()).digest()


class Published:
    """A view that modules are published to."""

    def __init__(self) -> None:
        self.view = ControlView(public_bytes(OPERATOR))
        self.seen: set[bytes] = set()
        self.say(self.orders.genesis("d", "c", "a"))

    @property
    def orders(self) -> Orders:
        """The operator's next word."""
        return Orders(self.view, OPERATOR, 1)

    def say(self, value: bytes) -> None:
        """Append it."""
        self.view.apply(self.view.next_offset, 1, value)

    def publish(self, name: str, size: int = 4, grant: Limits | None = None) -> None:
        """Publish a module whose bytes are its name."""
        ref = ModuleName(name, "1")
        self.say(self.orders.publish(ref, digest(name), size, 0, grant=grant))

    def order(self) -> list[str]:
        """Give everything that is compiled ahead, in order."""
        names = []
        while (found := next_module(self.view, CEILINGS, self.seen)) is not None:
            self.seen.add(found.s256)
            names.append(str(found.name).partition("@")[0])
        return names


def test_the_newest_comes_first_and_each_once() -> None:
    published = Published()
    for name in ("old", "middle", "new"):
        published.publish(name)
    assert published.order() == ["new", "middle", "old"]
    published.publish("newest")
    assert published.order() == ["newest"]
    assert published.order() == []


def test_what_may_not_run_is_not_compiled() -> None:
    published = Published()
    for name in ("revoked", "denied", "good"):
        published.publish(name)
    published.publish("large", size=101)
    published.publish("granted", 101, Limits(UNRAISED, UNRAISED, UNRAISED))
    published.publish("huge", 1_001, Limits(UNRAISED, UNRAISED, UNRAISED))
    published.say(published.orders.revoke(digest("revoked"), "test"))
    denied = digest("denied").hex()
    published.say(published.orders.deny(DenySubject.MODULE, denied, "test"))
    assert published.order() == ["granted", "good"]
