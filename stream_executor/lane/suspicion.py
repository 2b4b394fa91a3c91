"""Which requests are tried alone because workers died over them. Pure.

A child's death is its job's affair (``sandbox.pool``). This is about requests that
take the whole worker down: nothing was written then, so only what the log says of
terms that came and went tells. Two terms in a row, of two processes, begun at one
offset and neither released in good order: from there on, as many requests as the
terms had in flight are tried one at a time, each announced by ``attempt.started``.
An attempt that nobody answered counts once per process, so that a broker's hiccup is
no attempt. Normal running writes nothing and reads nothing for this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stream_executor.model.audit import AttemptStarted, LaneAcquired, LaneReleased
from stream_executor.model.errors import MalformedError
from stream_executor.wire.avro import class_of, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream_executor.audit.segments import Leaf

MAX_ATTEMPTS = 3
_TERMS_BEFORE = 2


class Suspicion(msgspec.Struct, frozen=True):
    """What is to be tried alone: offsets below ``until``.

    Attributes:
        until: the first requests offset that is beyond suspicion; -1 if none is.
        first: the request that was next when this was said.
        attempts: how many processes died over that one, alone.
    """

    until: int = -1
    first: int = -1
    attempts: int = 0

    def number_of(self, offset: int) -> int:
        """Give the number of the attempt that comes; 1 for the first."""
        return self.attempts + 1 if offset == self.first else 1


class _Term(msgspec.Struct):
    next: int
    window: int
    incarnation: bytes


class Standstill:
    """Reads sealed leaves in order; says at the end what is suspect."""

    def __init__(self) -> None:
        self._terms: list[_Term] = []
        self._attempts: dict[int, set[bytes]] = {}

    def note(self, leaves: Iterable[Leaf]) -> None:
        """Take one transaction's leaves."""
        for leaf in leaves:
            if class_of(leaf.value) not in _TOLD_BY:
                continue
            try:
                said = decode(leaf.value)
            except MalformedError:
                continue
            if isinstance(said, LaneAcquired):
                term = _Term(said.next, said.window, said.incarnation)
                self._terms = [*self._terms[-_TERMS_BEFORE + 1 :], term]
            elif isinstance(said, AttemptStarted) and self._terms:
                tried = self._attempts.setdefault(said.offset, set())
                tried.add(self._terms[-1].incarnation)
            elif isinstance(said, LaneReleased):
                self._terms.clear()
                self._attempts.clear()

    def suspicion(
        self, next_offset: int, requests_end: int, incarnation: bytes
    ) -> Suspicion:
        """Say what this process must try alone.

        Args:
            next_offset: the lane's next request.
            requests_end: the end of the requests partition.
            incarnation: of the process that acquires the lane now.
        """
        if not self._terms or next_offset >= requests_end:
            return Suspicion()
        tried = self._attempts.get(next_offset, set()) - {incarnation}
        stuck = [t for t in self._terms if t.next == next_offset]
        dead = {t.incarnation for t in stuck} - {incarnation}
        if not tried and len(dead) < _TERMS_BEFORE:
            return Suspicion()
        until = next_offset + self._terms[-1].window
        return Suspicion(until, next_offset, len(tried))


_TOLD_BY = frozenset({LaneAcquired, LaneReleased, AttemptStarted})
