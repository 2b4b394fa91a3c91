"""What a verifier can find wrong: stable codes, and where it lies.

Nothing here decides; ``audit.segments`` and ``audit.verify`` do.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stream_executor.model.errors import IntegrityError


class FindingCode(StrEnum):
    """Every kind of finding; strings here never change and are never reused."""

    GENESIS_MISSING = "genesis_missing"
    GENESIS_INVALID = "genesis_invalid"
    GENESIS_MISMATCH = "genesis_mismatch"

    LEAF_ALTERED = "leaf_altered"
    LEAF_MISSING = "leaf_missing"
    LEAF_MISPLACED = "leaf_misplaced"
    LEAF_MISNUMBERED = "leaf_misnumbered"
    LEAF_UNDECODABLE = "leaf_undecodable"
    LEAF_UNEXPECTED = "leaf_unexpected"
    FORK = "fork"
    SEAL_FORGED = "seal_forged"
    SEAL_DISCONTINUOUS = "seal_discontinuous"
    RESUME_UNFOUNDED = "resume_unfounded"

    TERM_WRONG = "term_wrong"
    PROCESS_KEY_WRONG = "process_key_wrong"
    CONTEXT_UNKNOWN = "context_unknown"
    CONTROL_HEAD_WRONG = "control_head_wrong"
    LANE_TIME_WRONG = "lane_time_wrong"

    REQUEST_UNANSWERED = "request_unanswered"
    REQUEST_ANSWERED_TWICE = "request_answered_twice"
    GAP_ANSWERED = "gap_answered"
    GAP_INVALID = "gap_invalid"
    GAP_UNPROVEN = "gap_unproven"
    RANGE_NOT_ALLOWED = "range_not_allowed"
    COUNTS_WRONG = "counts_wrong"
    SPENT_WRONG = "spent_wrong"
    ANCHOR_WRONG = "anchor_wrong"
    STATUS_WRONG = "status_wrong"

    RESULT_MISSING = "result_missing"
    RESULT_ALTERED = "result_altered"
    RESULT_UNEXPECTED = "result_unexpected"
    REQUEST_ALTERED = "request_altered"


MEANINGS: dict[FindingCode, str] = {
    FindingCode.GENESIS_MISSING: "The partition holds no genesis of this operator.",
    FindingCode.GENESIS_INVALID: "The first leaf is a genesis that does not verify.",
    FindingCode.GENESIS_MISMATCH: "The genesis was written for another place.",
    FindingCode.LEAF_ALTERED: "A leaf's bytes are not those that were sealed.",
    FindingCode.LEAF_MISSING: "A sealed leaf is not in the log any more.",
    FindingCode.LEAF_MISPLACED: "A sealed leaf lies after one that follows it.",
    FindingCode.LEAF_MISNUMBERED: "A leaf's seq is not its place in the chain.",
    FindingCode.LEAF_UNDECODABLE: "A leaf is no audit record known to this release.",
    FindingCode.LEAF_UNEXPECTED: "A leaf of this kind must not stand there.",
    FindingCode.FORK: "Two believed seals claim the same place in the chain.",
    FindingCode.SEAL_FORGED: (
        "A seal continues this log under a signature or key that is not believed."
    ),
    FindingCode.SEAL_DISCONTINUOUS: "A seal does not follow the one before it.",
    FindingCode.RESUME_UNFOUNDED: "A resume rests on no order of the operator.",
    FindingCode.TERM_WRONG: "A term is not the one that lane.acquired began.",
    FindingCode.PROCESS_KEY_WRONG: "A seal's key is not the one of its term.",
    FindingCode.CONTEXT_UNKNOWN: "A decision cites a context that was not in force.",
    FindingCode.CONTROL_HEAD_WRONG: (
        "A context's control head is not the control topic's at that offset."
    ),
    FindingCode.LANE_TIME_WRONG: "lane_time is not the running maximum of the times.",
    FindingCode.REQUEST_UNANSWERED: "Offsets have no terminal event and are no gap.",
    FindingCode.REQUEST_ANSWERED_TWICE: "Offsets have more than one terminal event.",
    FindingCode.GAP_ANSWERED: "A terminal event lies in an attested gap.",
    FindingCode.GAP_INVALID: "A seal's gaps are not sorted, maximal and inside it.",
    FindingCode.GAP_UNPROVEN: "An attested gap holds a committed request record.",
    FindingCode.RANGE_NOT_ALLOWED: (
        "One event covers several records, but not with an auth_* code alone."
    ),
    FindingCode.COUNTS_WRONG: "A seal's counts are not those of its events.",
    FindingCode.SPENT_WRONG: "A seal's spent hashes are not those of its events.",
    FindingCode.ANCHOR_WRONG: "A seal's anchor is not the last answered record.",
    FindingCode.STATUS_WRONG: "An event's status does not belong to its code.",
    FindingCode.RESULT_MISSING: "An event has no record in the results topic.",
    FindingCode.RESULT_ALTERED: "A result's bytes are not those that were sealed.",
    FindingCode.RESULT_UNEXPECTED: "A record in the results topic has no event.",
    FindingCode.REQUEST_ALTERED: "A retained request is not the one that was answered.",
}


class Problem(msgspec.Struct, frozen=True, gc=False):
    """A finding before it is known in which partition; fields as ``Finding``."""

    code: FindingCode
    offset: int
    seq: int | None
    expected: str
    found: str


class Finding(msgspec.Struct, frozen=True, gc=False):
    """One thing that is not as it must be.

    Attributes:
        code: which kind.
        partition: audit partition.
        offset: audit offset where it shows (for requests and results: of the event).
        seq: leaf index concerned; None where there is none.
        expected: what had to be there.
        found: what was there.
    """

    code: FindingCode
    partition: int
    offset: int
    seq: int | None
    expected: str
    found: str


class ChainError(IntegrityError):
    """The chain cannot be followed across a believed seal; ``problem`` says where."""

    def __init__(
        self, code: FindingCode, offset: int, seq: int, expected: str, found: str
    ) -> None:
        super().__init__(
            f"{code.value} at audit offset {offset} (seq {seq}): "
            f"expected {expected}, found {found}"
        )
        self.problem = Problem(code, offset, seq, expected, found)
