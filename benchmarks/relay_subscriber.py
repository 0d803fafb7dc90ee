"""Counts what a broker hands on at QoS 1, with the relay's own client codec: the limit of that broker.

`python -m benchmarks.relay_subscriber PORT COUNT`. Says `ready` when subscribed, `seen` and how many different ids when
it has all or nothing more comes, and stays until it is stopped.
"""

from __future__ import annotations

import asyncio
import sys

import orjson
import uvloop

from router_manager.relay.mqtt.decoder import Decoder
from router_manager.relay.mqtt.packets import Connack, Suback, Version, connect, pubacks, subscribe


async def main(port: int, count: int) -> None:
    """Read until all ids were seen, or nothing came for ten seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    decoder = Decoder(Version.V311, max_packet_bytes=1 << 20)
    writer.write(connect(version=Version.V311, client_id="limit", clean_start=True, keep_alive_seconds=0))
    seen: set[int] = set()
    while len(seen) < count:
        try:
            async with asyncio.timeout(30):
                data = await reader.read(1 << 18)
        except TimeoutError:
            break
        if not data:
            break
        received = decoder.feed(data)
        seen.update([orjson.loads(message.payload)["id"] for message in received.publishes])
        writer.write(pubacks(received.packet_ids))
        for packet in received.control:
            if isinstance(packet, Connack):
                writer.write(subscribe(version=Version.V311, packet_id=1, topics=["sensors/#"]))
            if isinstance(packet, Suback):
                print("ready", flush=True)
    print(f"seen {len(seen)}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
