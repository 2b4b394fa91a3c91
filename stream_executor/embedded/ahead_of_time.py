"""The JVM's startup cache: trained by the first broker, used by all later ones.

It brings the broker's start from about 2.2 s to 0.75 s (JEP 483, 514, 515; Java 25).
The JVM writes it when the trained process ends, which takes some five seconds, once.
"""

from __future__ import annotations

import fcntl
import hashlib
from typing import TYPE_CHECKING, Self

from stream_executor.embedded.jars import cache_folder
from stream_executor.embedded.java import OLDEST_WITH_ONE_STEP_AOT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stream_executor.embedded.java import Java


def cache_file(java: Java, jars: Iterable[Path]) -> Path:
    """Return the file for this Java and these jars, whether it is there or not.

    The JVM refuses a cache when a jar's path, size or time has changed, so the name
    depends on them: such a change makes a new file instead of slow starts for ever.
    """
    facts = [str(java.home), java.build]
    for jar in jars:
        status = jar.stat()
        facts.append(f"{jar} {status.st_size} {status.st_mtime_ns}")
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    return cache_folder() / f"startup-{key}.aot"


class Training:
    """The right to write the startup cache: one process at a time has it.

    The JVM writes beside the final name; ``finish`` puts the file in place by rename.
    A process that dies loses the right, and the next one writes over its remains.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.output = target.with_suffix(".training")
        self._lock = target.with_suffix(".lock").open("wb")

    @classmethod
    def begin(cls, java: Java, target: Path) -> Self | None:
        """Return the right to train, None if Java is too old or another has it."""
        if java.major < OLDEST_WITH_ONE_STEP_AOT:
            return None
        training = cls(target)
        try:
            fcntl.flock(training._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            training._lock.close()
            return None
        training.output.unlink(missing_ok=True)
        return training

    def finish(self, *, complete: bool) -> None:
        """Put the file in place if the JVM wrote all of it; give up the right."""
        if complete and self.output.exists():
            self.output.replace(self._target)
        self.output.unlink(missing_ok=True)
        self._lock.close()
