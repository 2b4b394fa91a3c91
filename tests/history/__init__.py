"""What a run left behind, read back and counted: the second opinion on exactly once.

Independent of ``audit.verify``: it knows nothing of seals' inner workings, only what
a ``read_committed`` reader of the three topics can see. ``counting`` is pure and is fed
by the model's in-memory log as well as by real Kafka (``reading``); ``plain_run`` says
what a request should have given, and ``judge`` whether it should have run at all.
"""

from tests.history.counting import FAULTS, Counted, Outcome, PartitionHistory, Sent
from tests.history.reading import (
    History,
    LaneTimes,
    assert_sound,
    assert_sound_at,
    read_history,
)

__all__ = [
    "FAULTS",
    "Counted",
    "History",
    "LaneTimes",
    "Outcome",
    "PartitionHistory",
    "Sent",
    "assert_sound",
    "assert_sound_at",
    "read_history",
]
