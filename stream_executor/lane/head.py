"""Where a lane stands: what the last committed seal said, in memory. Pure values."""

from __future__ import annotations

import msgspec

from stream_executor.audit.chain import ChainHead
from stream_executor.model.audit import ZERO32

# Seals name their window at least this far back, so that a deployment that shortens
# and later restores its limits finds what it needs (docs/wire-format.md, "Replay").
LEAST_HORIZON_MS = 150_000
# The clocks of brokers and hosts are allowed to differ by this much.
CLOCKS_APART_MS = 60_000


class SpentSeal(msgspec.Struct, frozen=True, gc=False):
    """A seal whose spent hashes may still matter.

    ``audit_offset`` is at or before the first record of its transaction.
    """

    seq: int
    audit_offset: int
    lane_time: int

    def matters_at(self, lane_time: int, horizon_ms: int) -> bool:
        """Tell whether a token spent under this seal could still be replayed."""
        return lane_time <= self.lane_time + horizon_ms


class LaneHead(msgspec.Struct, frozen=True):
    """The lane's position, chain head, clock and replay horizon.

    Attributes:
        chain: head of the audit chain.
        next: first requests offset not yet answered.
        lane_time: running maximum of LogAppendTime (ms).
        anchor_offset, anchor_timestamp, anchor_digest: the last answered record.
        control_offset, context_seq: context in force.
        audit_offset: an audit offset at or before everything not yet written.
        spent_seals: seals whose hashes still matter, oldest first.
    """

    chain: ChainHead
    next: int
    lane_time: int = 0
    anchor_offset: int = -1
    anchor_timestamp: int = 0
    anchor_digest: bytes = ZERO32
    control_offset: int = 0
    context_seq: int = 0
    audit_offset: int = 0
    spent_seals: tuple[SpentSeal, ...] = ()

    def moved(
        self,
        seq: int,
        head_hash: bytes,
        next_offset: int,
        anchor: tuple[int, int, bytes],
        lane_time: int,
        control_offset: int,
        context_seq: int,
        spent_seals: tuple[SpentSeal, ...],
    ) -> LaneHead:
        """Give the head after one more transaction."""
        return LaneHead(
            ChainHead(seq, head_hash), next_offset, lane_time, *anchor,
            control_offset, context_seq, self.audit_offset, spent_seals,
        )  # fmt: skip

    def acknowledged(self, audit_base: int) -> LaneHead:
        """Give the head once the broker has said where the transaction begins."""
        return msgspec.structs.replace(self, audit_offset=audit_base)
