"""A reading as a record of Kafka: the device is the key, so a device's readings stay in order; headers say the rest."""

from __future__ import annotations

from collections.abc import Sequence

from crds.models.dataroute import ResolvedSource
from router_manager.domain.payload import Record
from router_manager.domain.table import Way
from router_manager.relay.kafka.producer import Headers, Message

NODE, TOPIC, INGESTED = "node", "topic", "ingested-ns"


def messages(way: Way, records: Sequence[Record], parts: Sequence[bytes]) -> list[Message]:
    """What a target gets of some records.

    Args:
        way: of the lane.
        records: of its feeds.
        parts: of each record what is sent of it.
    """
    known: dict[str, tuple[bytes, Headers]] = {}
    found = []
    for record, part in zip(records, parts, strict=True):
        topic = record.topic
        if topic not in known:
            known[topic] = _of_source(way.feeds[topic].source)
        key, headers = known[topic]
        found.append(Message(key, part, [*headers, (INGESTED, b"%d" % record.ingested_ns)]))
    return found


def _of_source(source: ResolvedSource) -> tuple[bytes, Headers]:
    said = {"flavor": source.flavor, "device": source.device, NODE: source.node, TOPIC: source.topic}
    return source.device.encode(), [(name, text.encode()) for name, text in said.items()]
