"""The one error of the embedded broker."""

from __future__ import annotations


class EmbeddedKafkaError(Exception):
    """Kafka could not be fetched, started or used on this machine.

    The fault is the surroundings' (no Java, no registry, a damaged file, a property
    that Kafka refuses), never a request's. ``str()`` gives what happened and the
    remedy; ``remedy`` alone is one sentence, for those who print it apart.
    """

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(f"{problem}\n{remedy}")
        self.remedy = remedy
