"""Run Apache Kafka itself on this machine: fetch, format, start, stop.

One KRaft node on free loopback ports, for development and tests; or a few as a
cluster, for tests of what happens when one of them goes. Needs the extra
``dev`` (a Java runtime and what resolves Kafka's jars) and, the first time, the
registry they come from. Not here: anything of this project; production.
"""

from stream_executor.embedded.broker import EmbeddedKafka
from stream_executor.embedded.cluster import EmbeddedCluster
from stream_executor.embedded.errors import EmbeddedKafkaError
from stream_executor.embedded.jars import KAFKA_VERSION
from stream_executor.embedded.tools import kafka_tool

__all__ = [
    "KAFKA_VERSION",
    "EmbeddedCluster",
    "EmbeddedKafka",
    "EmbeddedKafkaError",
    "kafka_tool",
]
