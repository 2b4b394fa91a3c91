"""Run signed WebAssembly requests from Kafka and answer each exactly once."""
