"""Which requests are tried alone because workers died over them. Pure.

A child's death is its job's affair (``sandbox.pool``). This is about requests that
take the whole worker down: nothing was written then, so only what the log says of
terms that came and went tells. Two other processes in a row, whose last terms began
at one offset and were not released in good order: from there on, as many requests as
the terms had in flight are tried one at a time, each announced by
``attempt.started``. A process counts once however often it acquired the lane, and so
does an attempt that nobody answered: a broker's hiccup is no death. Normal running
writes nothing and reads nothing for this.
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
_DEATHS = 2


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
        self._terms: list[_Term] = []  # the last of each process, the latest last
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
                self._terms = [*self._of_others(said.incarnation)[-_DEATHS:], term]
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
        others = self._of_others(incarnation)[-_DEATHS:]
        if not others or next_offset >= requests_end:
            return Suspicion()
        tried = self._attempts.get(next_offset, set()) - {incarnation}
        dead = [term for term in others if term.next == next_offset]
        if not tried and len(dead) < _DEATHS:
            return Suspicion()
        return Suspicion(next_offset + others[-1].window, next_offset, len(tried))

    def _of_others(self, incarnation: bytes) -> list[_Term]:
        return [term for term in self._terms if term.incarnation != incarnation]


_TOLD_BY = frozenset({LaneAcquired, LaneReleased, AttemptStarted})
