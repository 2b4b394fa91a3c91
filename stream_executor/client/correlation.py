"""Which result answers which request: by place alone, pure.

A request is (partition, offset) of its own acknowledged send. Results may be read
before the acknowledgement was (the executor is quick), and one result may answer a
range of offsets. A ``request_id`` plays no part: anybody may write one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream_executor.model.result import ExecutionResult

W = TypeVar("W")


class _Partition(Generic[W]):
    __slots__ = ("early", "in_flight", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[int, W] = {}
        self.in_flight = 0
        # Results of unknown offsets, kept while a send may still turn out theirs.
        self.early: list[ExecutionResult] = []


class Correlator(Generic[W]):
    """Matches results with whoever waits for them (``W``: any value).

    Memory: one entry for each unanswered request, and the results that arrive in a
    partition while a send to it is unacknowledged. Requests that nobody waits for
    are forgotten with ``forget``.
    """

    def __init__(self) -> None:
        self._partitions: defaultdict[int, _Partition[W]] = defaultdict(_Partition)

    def sending(self, partition: int) -> None:
        """A send to this partition begins: early results are kept from here on."""
        self._partitions[partition].in_flight += 1

    def sent(
        self, partition: int, waiters: Iterable[tuple[int, W]]
    ) -> list[tuple[W, ExecutionResult]]:
        """A send ended, with these offsets (none if it failed).

        Returns:
            Those whose result is here already.
        """
        state = self._partitions[partition]
        state.in_flight -= 1
        state.waiting.update(waiters)
        matched = []
        for result in state.early:
            matched += self._match(state, result)
        if not state.in_flight:
            state.early.clear()
        return matched

    def arrived(self, result: ExecutionResult) -> list[tuple[W, ExecutionResult]]:
        """A result was read; give whoever waited for it, usually one or nobody."""
        state = self._partitions.get(result.partition)
        if state is None:
            return []
        matched = self._match(state, result)
        if state.in_flight and len(matched) < result.count:
            state.early.append(result)
        return matched

    def forget(self, partition: int, offset: int) -> None:
        """Nobody waits for this request any more."""
        self._partitions[partition].waiting.pop(offset, None)

    def drain(self) -> list[W]:
        """Give everybody who still waits, and forget them: the client closes."""
        left = [w for p in self._partitions.values() for w in p.waiting.values()]
        self._partitions.clear()
        return left

    @staticmethod
    def _match(
        state: _Partition[W], result: ExecutionResult
    ) -> list[tuple[W, ExecutionResult]]:
        waiting = state.waiting
        if result.count == 1:
            waiter = waiting.pop(result.offset, None)
            return [] if waiter is None else [(waiter, result)]
        end = result.offset + result.count
        covered = sorted(o for o in waiting if result.offset <= o < end)
        return [(waiting.pop(offset), result) for offset in covered]
