"""Talk to Kafka; the only room that imports aiokafka."""
