"""A request's identity, once the broker has acknowledged it."""

from __future__ import annotations

import msgspec


class Submission(msgspec.Struct, frozen=True, gc=False):
    """Where one request was appended; the place is its identity, not its id.

    Attributes:
        topic, partition, offset: the request record.
        request_id: the requester's own name for it, as in the result and the audit.
    """

    topic: str
    partition: int
    offset: int
    request_id: str

    @property
    def position(self) -> str:
        """``topic/partition/offset``, as ``wasm-executor request show`` takes it."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def __str__(self) -> str:
        return f"{self.request_id} at {self.position}"
