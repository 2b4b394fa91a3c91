"""What somebody with too many rights does to a log between two owners; the way back.

No lane survives this by itself: it halts, the operator orders, it goes on. Which audit
records are no leaves is known here from what was done, not from what the lane found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.segments import link_of, resume_order
from stream_executor.audit.signing import public_bytes, signed
from stream_executor.audit.verify import PartitionVerifier, Place
from stream_executor.model.audit import ZERO32, Genesis, LaneReleased, Resumed, Seal
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.wire.avro import CODECS, class_of, encode
from tests.lane_world import AUDIT, OPERATOR, REQUESTS
from tests.model.incarnation import control_log, process_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.lane.damage import DamagedError
    from stream_executor.modules.view import ResumeOrder
    from tests.memory_log import MemoryBroker

KINDS = ("foreign", "torn", "tail lost", "stray", "requests lost")
# What retention removes without harm, and what somebody removes too early.
TRIMS = ("answered requests", "audit leaves", "audit leaves that matter")


class Damages:
    """Harms one audit partition; remembers what it did and what was ordered.

    Attributes:
        planted: audit offsets that hold no leaf.
        halting: whether anything was done that a lane may halt over.
        orders: what operators said.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self.planted: set[int] = set()
        self.halting = False
        self.orders: list[ResumeOrder] = []
        self._broker = broker

    def strike(self, kind: str, many: int) -> None:
        """Do one thing while nobody writes; what was open is decided before."""
        self._broker.fence((AUDIT, 0))
        self.halting |= kind != "foreign"
        if kind == "requests lost":
            self._broker.remove(REQUESTS, 0, self._sealed_next() + many + 1)
            return
        if kind == "foreign":
            self._plant(b"no leaf %d" % many)
        elif kind == "torn":
            last = self._last_leaf()
            link = (link_of(last)[0] + 1, leaf_hash(last))
            self._plant(encode(LaneReleased(*link, 1, 1, "drain")))
        elif kind == "stray":
            self._plant(_stray_seal(many))
        else:
            self._lose(many + 1)

    def _plant(self, value: bytes) -> None:
        self.planted.add(self._broker.append(AUDIT, 0, value))

    def _last_leaf(self) -> bytes:
        records = self._broker.records(AUDIT, 0)
        leaves = [r.value or b"" for r in records if r.offset not in self.planted]
        return leaves[-1]

    def _lose(self, many: int) -> None:
        """Cut the log's end off, but for its first seal; half a transaction is no leaf.

        Where genesis is there still, that is all that must stay.
        """
        log = self._broker.log(AUDIT, 0)
        begin = self._broker.begin(AUDIT, 0)
        least = next((at for at, _ in self._seals() if at >= begin), 0) if begin else 0
        del log[max(least + 1, len(log) - many) :]
        self.planted = {offset for offset in self.planted if offset < len(log)}
        for record in reversed(self._broker.records(AUDIT, 0)):
            if record.offset in self.planted:
                continue
            if class_of(record.value or b"") in {Seal, Genesis}:
                break
            self.planted.add(record.offset)

    def trim(self, which: str, many: int) -> None:
        """Remove a beginning while everybody works.

        Of the audit log a whole transaction stays; the last seal says how far back it
        needs the others.
        """
        seals = self._seals()
        if not seals:
            return
        _, last = seals[-1]
        if which == "answered requests":
            self._broker.remove(REQUESTS, 0, self._sealed_next() - many)
        elif which == "audit leaves":
            self._broker.remove(AUDIT, 0, last.window_from_offset - many)
        elif len(seals) > 1:
            self._broker.remove(AUDIT, 0, seals[-2][0] + 1 - many)
            self.halting |= self._broker.begin(AUDIT, 0) > last.window_from_offset

    def _seals(self) -> list[tuple[int, Seal]]:
        """Give the lane's own seals, with their offsets."""
        return [
            (record.offset, CODECS[Seal].decode(record.value or b""))
            for record in self._broker.records(AUDIT, 0)
            if record.offset not in self.planted
            and class_of(record.value or b"") is Seal
        ]

    def _sealed_next(self) -> int:
        seals = self._seals()
        return seals[-1][1].next if seals else 0

    def order(self, error: DamagedError) -> None:
        """Say what the error proposes."""
        back = error.way_back
        assert back is not None, error
        view = self.control()
        value = Orders(view, OPERATOR, 1).resume(
            log_id=back.log_id, partition=0, next_offset=back.next,
            head_seq=back.head.seq - 1, head=back.head.hash, evidence=error.damage,
            lost=list(back.lost), skipped=list(back.skipped),
            refused=list(back.refused),
        )  # fmt: skip
        view.apply(view.next_offset, 1, value)
        self.orders = list(view.resumes(back.log_id))

    def control(self) -> ControlView:
        """Give all that operators ever say, and what was ordered."""
        view = ControlView(public_bytes(OPERATOR))
        for value in (*control_log(), *(one.value for one in self.orders)):
            view.apply(view.next_offset, 1, value)
        return view

    def resumes(self, _: bytes) -> list[ResumeOrder]:
        """Give what was ordered: there is one log."""
        return self.orders

    def lost(self) -> set[int]:
        """Give the requests offsets that the log itself declares lost."""
        values = [r.value or b"" for r in self._broker.written(AUDIT, 0)]
        applied = [resume_order(v) for v in values if class_of(v) is Resumed]
        return {
            offset
            for order in applied
            if order is not None
            for one in order.lost
            for offset in range(one.start, one.end)
        }

    def refused(self) -> set[int]:
        """Give the requests offsets that were ordered to be refused."""
        return {
            offset
            for one in self.orders
            for r in one.order.refused
            for offset in range(r.start, r.end)
        }

    def verify(self) -> dict[str, str]:
        """Have the log verified; say what the report says more, or less, than it must.

        For harmed logs only: verifying each of 20,000 would double what they cost.
        """
        if not self.planted and not self.orders:
            return {}
        place = Place(public_bytes(OPERATOR), 0)
        verifier = PartitionVerifier(place, self.control())
        for record in self._broker.written(AUDIT, 0):  # an archive keeps the beginning
            verifier.feed(record.offset, record.value)
        report = verifier.finish()
        lost = {o for one in report.lost for o in range(one.start, one.end)}
        problems = {}
        if report.findings or report.torn:
            problems["verify finds"] = f"{report.findings} {report.torn}"
        if set(report.foreign) != self.planted:
            problems["verify skips"] = f"{report.foreign}, not {sorted(self.planted)}"
        if lost != self.lost():
            problems["verify loses"] = f"{sorted(lost)}, not {sorted(self.lost())}"
        return problems


def _stray_seal(number: int) -> bytes:
    """A seal of another lane's log, by one of the fleet."""
    key, by = process_key(number)
    seal = Seal(
        20 + number, bytes(range(32)), bytes(16), 1, 9, 3, 3, 0, [], -1, 0, ZERO32,
        1, 20, 0, b"", 2, 1, 0, 0, 0, 0, 0,
        by.process_key, by.fleet_key, by.certified_ms, by.certificate,
    )  # fmt: skip
    return signed(seal, cast("Ed25519PrivateKey", key))
