"""Apache Kafka on this machine: fetch, format, start, stop."""
