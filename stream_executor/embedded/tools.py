"""Run a class from Kafka's jars to its end: Kafka's command-line tools, its formatter.

The broker itself, which stays up, is started in ``broker.py``.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stream_executor.embedded.ahead_of_time import cache_file
from stream_executor.embedded.jars import ensure_jars
from stream_executor.embedded.java import Java, find_java

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOGGING = Path(__file__).with_name("log4j2.properties")


@dataclass(frozen=True)
class Installation:
    """A Java runtime, Kafka's checked jars, and the startup cache made for the two."""

    java: Java
    jars: Sequence[Path]
    startup_cache: Path

    @classmethod
    def ready(cls) -> Self:
        """Find Java and fetch what is missing. See ``ensure_jars`` for the errors."""
        java, jars = find_java(), ensure_jars()
        return cls(java, jars, cache_file(java, jars))

    def command(
        self, class_name: str, *arguments: str, jvm: Sequence[str] = (), log_level: str
    ) -> list[str]:
        """Return the command line that runs a class of the jars."""
        fixed = (f"-Dlog4j2.configurationFile={_LOGGING}", f"-Dlog.level={log_level}")
        class_path = ":".join(map(str, self.jars))
        return [
            *(self.java.executable, *fixed, *jvm, "-cp", class_path),
            *(class_name, *arguments),
        ]

    def run(self, class_name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a class that ends by itself; do not judge its exit code."""
        jvm = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
        if self.startup_cache.exists():
            jvm.append(f"-XX:AOTCache={self.startup_cache}")
        command = self.command(class_name, *arguments, jvm=jvm, log_level="error")
        return subprocess.run(command, capture_output=True, text=True, check=False)


def kafka_tool(
    class_name: str, arguments: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run one of Kafka's own command-line tools and wait for its end.

    Args:
        class_name: e.g. ``org.apache.kafka.tools.TopicCommand``, as in the last line
            of the script of that name in Kafka's ``bin`` folder.
        arguments: as the tool documents them, e.g. ``["--bootstrap-server",
            kafka.bootstrap, "--list"]``.

    Returns:
        The finished process: ``returncode``, ``stdout``, ``stderr``. A tool that
        failed is not an exception.

    Raises:
        EmbeddedKafkaError: Java or the jars are not to be had.
    """
    return Installation.ready().run(class_name, *arguments)
