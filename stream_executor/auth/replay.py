"""Remember which jtis were spent on one lane, for as long as that can matter.

``spend`` is the only way to use up a jti: it says fresh exactly once. What is spent
stays spent for the life of the window, committed or not: a lane that is discarded
discards its window, and the next one is rebuilt from the seals with ``load``. The
outcome depends on hashes and lane times alone, never on how they are stored; only
``FULL`` depends on this worker's memory, and a request refused so spends nothing.

Storage: pages of entries in order of time, an entry being the 16-byte hash and one
byte that names its slice of lane time. A lookup searches one page of about 24 entries
with one C call; an expired slice is a prefix of each page, and cutting it off moves
no bytes. The table grows and shrinks by one page at a time (linear hashing, Litwin
1980), so no record waits for a rebuild. Measured at a sustained rate: 25 bytes an
entry where a set of bytes objects takes 100, and 1.5 microseconds to spend (growth and
expiry included) where the set takes 0.5.

How long a jti matters is ``TokenProfile.replay_window_ms``; seals are not known here.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import msgspec

from stream_executor.model.errors import MalformedError

HASH_BYTES = 16
DEFAULT_BUDGET_BYTES = 64 * 1024 * 1024

_STRIDE = HASH_BYTES + 1
_FIRST_PAGES = 16
_PAGE_ENTRIES = 24
# What a page with all its entries takes, the spare room of a growing bytearray and
# the allocator's share included; a test holds it against tracemalloc.
_PAGE_BYTES = 96 + _PAGE_ENTRIES * 20
# Parts of the horizon: each costs a pass over the pages, and a tenth of the horizon
# is how much longer than needed an entry may stay. One byte can name many more.
_SLICES = 10
_TAGS = 256


class SpendOutcome(Enum):
    """What ``ReplayWindow.spend`` found."""

    FRESH = "fresh"
    REPLAYED = "replayed"
    FULL = "full"


class ReplayBudget:
    """Memory that the windows of one worker share, in bytes.

    Attributes:
        limit_bytes: the most that may be used.
        used_bytes: what is used; above the limit only if seals demanded it.
    """

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class _Slice(msgspec.Struct, frozen=True, gc=False):
    """A span of lane time: what has this tag was spent at ``ends_ms`` or before."""

    tag: int
    ends_ms: int


class ReplayWindow:
    """The spent jtis of one lane.

    Args:
        budget: shared by the windows of this worker.
        horizon_ms: how long after its spending a jti must be remembered, in lane
            time.
    """

    def __init__(self, budget: ReplayBudget, horizon_ms: int) -> None:
        self._budget = budget
        self._horizon_ms = horizon_ms
        self._slice_ms = horizon_ms // _SLICES
        self._pages: list[bytearray] = []
        self._slices: deque[_Slice] = deque()
        self._clear()

    def __len__(self) -> int:
        """How many hashes are held; some may be past the horizon."""
        return self._count

    def spend(self, jti_hash: bytes, lane_time_ms: int) -> SpendOutcome:
        """Use up a jti, once.

        Args:
            jti_hash: 16 bytes (``token.jti_hash``).
            lane_time_ms: the lane's time at this record; never falls.

        Returns:
            ``FRESH``: it is spent now. ``REPLAYED``: it was before. ``FULL``: the
            budget is used up, nothing was spent.
        """
        if lane_time_ms > self._slice_ends_ms:
            self._open_slice(lane_time_ms)
        place = hash(jti_hash)  # ``_page_of``, in place: the one hot line of this file
        index = place & self._mask
        page = self._pages[index if index >= self._split else place & self._wide_mask]
        at = page.find(jti_hash)
        if at >= 0 and _is_entry(page, jti_hash, at):
            return SpendOutcome.REPLAYED
        if self._count >= self._capacity:
            if self._budget.used_bytes + _PAGE_BYTES > self._budget.limit_bytes:
                return SpendOutcome.FULL
            page = self._make_room(jti_hash)
        page += jti_hash + self._tag
        self._count += 1
        return SpendOutcome.FRESH

    def load(self, spent: bytes, lane_time_ms: int) -> None:
        """Take over what a seal says was spent; oldest seal first.

        Goes beyond the budget if it must: what was spent stays spent.

        Args:
            spent: hashes, n x 16 bytes.
            lane_time_ms: the seal's lane time; none of its hashes was spent later.

        Raises:
            MalformedError: ``spent`` is no whole number of hashes.
        """
        if len(spent) % HASH_BYTES:
            raise MalformedError(f"{len(spent)} bytes are no whole number of hashes")
        if lane_time_ms > self._slice_ends_ms:
            self._open_slice(lane_time_ms)
        for start in range(0, len(spent), HASH_BYTES):
            jti_hash = spent[start : start + HASH_BYTES]
            page = self._page_of(jti_hash)
            if _is_entry(page, jti_hash, page.find(jti_hash)):
                continue
            if self._count >= self._capacity:
                page = self._make_room(jti_hash)
            page += jti_hash + self._tag
            self._count += 1

    def expire(self, lane_time_ms: int) -> None:
        """Forget what no token can repeat any more; cheap if there is nothing.

        A slice goes when its end lies more than the horizon before ``lane_time_ms``:
        until then a token with one of its jtis could still pass the time step.
        """
        slices = self._slices
        if not slices or slices[0].ends_ms + self._horizon_ms >= lane_time_ms:
            return
        while slices and slices[0].ends_ms + self._horizon_ms < lane_time_ms:
            self._cut(slices.popleft().tag)
        if not slices:
            self._clear()
        while self._count * 4 < self._capacity and len(self._pages) > _FIRST_PAGES:
            self._merge_page()

    def discard(self) -> None:
        """Give the memory back; the window is not to be used again."""
        self._clear()
        self._budget.used_bytes -= _FIRST_PAGES * _PAGE_BYTES

    def _clear(self) -> None:
        self._budget.used_bytes += (_FIRST_PAGES - len(self._pages)) * _PAGE_BYTES
        self._pages = [bytearray() for _ in range(_FIRST_PAGES)]
        # Pages before ``_split`` are split in the current doubling and found by the
        # wide mask, the others by the mask.
        self._mask = _FIRST_PAGES - 1
        self._wide_mask = 2 * _FIRST_PAGES - 1
        self._split = 0
        self._capacity = _FIRST_PAGES * _PAGE_ENTRIES
        self._count = 0
        self._slices.clear()
        self._slice_ends_ms = -1  # of the newest slice
        self._tag = b"\0"

    def _page_of(self, jti_hash: bytes) -> bytearray:
        # Python's hash of bytes is keyed per process: whoever can choose jtis cannot
        # choose pages.
        place = hash(jti_hash)
        index = place & self._mask
        if index < self._split:
            index = place & self._wide_mask
        return self._pages[index]

    def _make_room(self, jti_hash: bytes) -> bytearray:
        """Split one page in two, in order; give the page of the hash anew."""
        halves = bytearray(), bytearray()
        for entry in _entries(self._pages[self._split]):
            is_upper = hash(entry[:HASH_BYTES]) & self._wide_mask > self._mask
            halves[is_upper].extend(entry)
        self._pages[self._split] = halves[0]
        self._pages.append(halves[1])
        self._split += 1
        if self._split > self._mask:
            self._resize_doubling(self._wide_mask)
            self._split = 0
        self._resized(1)
        return self._page_of(jti_hash)

    def _merge_page(self) -> None:
        """Undo the latest split; entries of both halves go in order of time."""
        if self._split == 0:
            self._resize_doubling(self._mask // 2)
            self._split = self._mask + 1
        self._split -= 1
        oldest = self._slices[0].tag
        both = _entries(self._pages[self._split]) + _entries(self._pages.pop())
        both.sort(key=lambda entry: (entry[HASH_BYTES] - oldest) % _TAGS)
        self._pages[self._split] = bytearray().join(both)
        self._resized(-1)

    def _resize_doubling(self, mask: int) -> None:
        self._mask, self._wide_mask = mask, 2 * mask + 1

    def _resized(self, pages: int) -> None:
        self._capacity += pages * _PAGE_ENTRIES
        self._budget.used_bytes += pages * _PAGE_BYTES

    def _open_slice(self, lane_time_ms: int) -> None:
        self.expire(lane_time_ms)
        tag = (self._tag[0] + 1) % _TAGS
        self._tag = bytes([tag])
        self._slice_ends_ms = lane_time_ms + self._slice_ms
        self._slices.append(_Slice(tag, self._slice_ends_ms))

    def _cut(self, tag: int) -> None:
        """Drop the entries of the oldest slice: a prefix of every page."""
        for page in self._pages:
            entries = page[HASH_BYTES::_STRIDE].count(tag)
            self._count -= entries
            del page[: entries * _STRIDE]


def _entries(page: bytearray) -> list[bytes]:
    held = bytes(page)
    return [held[at : at + _STRIDE] for at in range(0, len(held), _STRIDE)]


def _is_entry(page: bytearray, jti_hash: bytes, at: int) -> bool:
    """Tell whether a find is an entry, or a later one; not bytes across entries."""
    while at >= 0 and at % _STRIDE:
        at = page.find(jti_hash, at + 1)
    return at >= 0
