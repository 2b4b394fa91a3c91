"""What a look into the compile cache gave: a closed set, counted and published."""

from __future__ import annotations

from enum import StrEnum


class CacheOutcome(StrEnum):
    """How one look-up ended; stable words."""

    HIT = "hit"  # a compiled module, verified
    REFUSED = "refused"  # it is remembered that compiling it takes too much
    MISS = "miss"
    DAMAGED = "damaged"  # forged, torn or swapped: deleted, and compiled anew
