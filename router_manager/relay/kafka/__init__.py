"""Kafka as a way out, as a source, and as where commands come from; by librdkafka."""
