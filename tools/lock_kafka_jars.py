"""Write the lock of Kafka's jars: coordinate, size in bytes and SHA-256 of each.

Run it to move to another Kafka (``make lock``), then read the difference. What
fetches and checks the jars is ``stream_executor/embedded/jars.py``.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from jgo.maven import MavenContext

from stream_executor.embedded.jars import KAFKA_VERSION, LOCK, Jar

BROKER = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Taken alone, without what they depend on: the broker brings all that we use of it.
ALONE = (
    # Kafka's command-line tools. (Its dependencies are Kafka Connect and a web server.)
    f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}",
    # Kafka's jars hold no SLF4J provider, so that without this one nothing is logged.
    # Kafka 4.3 brings SLF4J 1.7 and Log4j 2.25.4, hence this artifact and version.
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
)


def main() -> None:
    """Resolve, download to a temporary folder, hash, write."""
    with tempfile.TemporaryDirectory() as folder:
        maven = MavenContext(repo_cache=Path(folder))
        broker = maven.create_dependency(BROKER)
        inputs, dependencies = maven.resolver.resolve([broker])
        alone = [maven.create_dependency(coordinate) for coordinate in ALONE]
        jars = set()
        for found in [*inputs, *dependencies, *alone]:
            content = found.artifact.resolve().read_bytes()
            coordinate = f"{found.groupId}:{found.artifactId}:{found.version}"
            digest = hashlib.sha256(content).hexdigest()
            jars.add(Jar(coordinate, len(content), digest))
    LOCK.write_text("".join(f"{jar}\n" for jar in sorted(jars)), encoding="utf-8")


if __name__ == "__main__":
    main()
