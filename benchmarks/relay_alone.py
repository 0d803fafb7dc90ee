"""The two halves of the way from a broker to Kafka, each alone in a process; says its CPU for a message at the end.

`python -m benchmarks.relay_alone read PORT COUNT` subscribes with the relay's codec, acknowledges and forgets.
`python -m benchmarks.relay_alone produce HOST:PORT TOPIC COUNT` produces as the relay does: one idempotent record a
message, with key and headers, and a report for each.
"""

from __future__ import annotations

import asyncio
import sys
import time

import confluent_kafka
import uvloop
from confluent_kafka import KafkaError

from benchmarks.relay_stage import TOPICS
from router_manager.relay.kafka.producer import SETTINGS
from router_manager.relay.mqtt.decoder import Decoder
from router_manager.relay.mqtt.packets import Connack, Suback, Version, connect, pubacks, subscribe

_BYTES = 200
_AT_ONCE = 500
_LIMIT_SECONDS = 60.0


async def read(port: int, count: int) -> float:
    """Microseconds a message."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    decoder = Decoder(Version.V311, max_packet_bytes=1 << 20)
    writer.write(connect(version=Version.V311, client_id="alone", clean_start=True, keep_alive_seconds=0))
    seen, began = 0, 0.0
    while seen < count:
        async with asyncio.timeout(_LIMIT_SECONDS):
            received = decoder.feed(await reader.read(1 << 18))
        if received.publishes and not seen:
            began = time.process_time()
        seen += len(received.publishes)
        writer.write(pubacks(received.packet_ids))
        for packet in received.control:
            if isinstance(packet, Connack):
                writer.write(subscribe(version=Version.V311, packet_id=1, topics=list(TOPICS)))
            if isinstance(packet, Suback):
                print("ready", flush=True)
    return (time.process_time() - began) * 1e6 / count


def produce(servers: str, topic: str, count: int) -> float:
    """Microseconds a message."""
    producer = confluent_kafka.Producer({**SETTINGS, "bootstrap.servers": servers})
    producer.list_topics(topic, timeout=_LIMIT_SECONDS)
    delivered = 0

    def report(error: KafkaError | None, _: object) -> None:
        nonlocal delivered
        delivered += error is None

    said = {"flavor": "bench-0", "node": "bench", "topic": TOPICS[0]}
    headers: list[tuple[str, str | bytes | None]] = [(name, text.encode()) for name, text in said.items()]
    keys = [topic.encode() for topic in TOPICS]
    value = b"x" * _BYTES
    began = time.process_time()
    for number in range(count):
        stamped = [*headers, ("ingested-ns", b"%d" % time.time_ns())]
        producer.produce(topic, value, keys[number % len(keys)], headers=stamped, on_delivery=report)
        if number % _AT_ONCE == 0:
            producer.poll(0)
    producer.flush(_LIMIT_SECONDS)
    used = time.process_time() - began
    if delivered != count:
        sys.exit(f"{delivered} of {count} records were delivered")
    return used * 1e6 / count


def main(half: str, *arguments: str) -> float:
    """One of them."""
    match half, arguments:
        case "read", (port, count):
            return uvloop.run(read(int(port), int(count)))
        case "produce", (servers, topic, count):
            return produce(servers, topic, int(count))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    print(main(*sys.argv[1:]), flush=True)
