"""A reading as a record of Kafka: the device is the key, so a device's readings stay in order; headers say the rest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from crds.models.dataroute import ResolvedSource
from router_manager.domain.payload import Record
from router_manager.domain.table import Way
from router_manager.relay.kafka.producer import Header, Message

NODE, TOPIC, INGESTED = "node", "topic", "ingested-ns"
_SOURCES_KEPT = 1 << 14


def messages(way: Way, records: Sequence[Record], parts: Sequence[bytes]) -> list[Message]:
    """What a target gets of some records.

    Args:
        way: of the lane.
        records: of its feeds.
        parts: of each record what is sent of it.
    """
    known: dict[str, tuple[bytes, Header, Header, Header]] = {}
    found: list[Message] = []
    at_ns, time = -1, (INGESTED, b"")
    for record, part in zip(records, parts, strict=True):
        topic = record.topic
        if topic not in known:
            known[topic] = _of_source(way.feeds[topic].source)
        if record.ingested_ns != at_ns:  # those of one read of the socket share it
            at_ns = record.ingested_ns
            time = INGESTED, b"%d" % at_ns
        key, *said = known[topic]
        found.append((key, part, [*said, time]))
    return found


@lru_cache(_SOURCES_KEPT)
def _of_source(source: ResolvedSource) -> tuple[bytes, Header, Header, Header]:
    """The key, and the headers that all its readings have."""
    flavor, node, topic = (text.encode() for text in (source.flavor, source.node, source.topic))
    return source.device.encode(), ("flavor", flavor), (NODE, node), (TOPIC, topic)
