"""Publishes 200-byte JSON readings at QoS 1, at a rate or as fast as the broker takes them.

`python -m benchmarks.relay_publisher PORT COUNT RATE` (RATE 0: flood). Ends when the broker has acknowledged all.
"""

from __future__ import annotations

import asyncio
import sys
import time

from router_manager.relay.mqtt.packets import Version, connect, publish

TOPICS = tuple(f"sensors/edge-1/sensor-{number:04d}/humidity" for number in range(100))
_BYTES = 200
_WINDOW = 20_000
_BURST = 200


def reading(number: int) -> bytes:
    """JSON of exactly 200 bytes with id and send time."""
    body = b'{"id":%d,"sentAt":%d,"value":%d.5,"unit":"%%","pad":"' % (number, time.time_ns(), number % 100)
    return body + b"x" * (_BYTES - 2 - len(body)) + b'"}'


async def main(port: int, count: int, rate: float) -> None:
    """Publish all, and wait for the last PUBACK."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(connect(version=Version.V311, client_id="publisher", clean_start=True, keep_alive_seconds=0))
    await reader.readexactly(4)
    acknowledged = 0

    async def count_acknowledgements() -> None:
        nonlocal acknowledged
        rest = 0
        while acknowledged < count:
            rest += len(await reader.read(1 << 16))
            acknowledged, _ = divmod(rest, 4)

    counting = asyncio.create_task(count_acknowledgements())
    started = time.perf_counter()
    waiting: list[bytes] = []
    for number in range(count):
        waiting.append(
            publish(
                version=Version.V311,
                topic=TOPICS[number % len(TOPICS)],
                payload=reading(number),
                packet_id=number % 0xFFFF + 1,
            )
        )
        if rate or number % _BURST == 0 or number + 1 == count:
            writer.write(b"".join(waiting))
            waiting.clear()
        if rate:
            ahead = (number + 1) / rate - (time.perf_counter() - started)
            if ahead > 0:
                await asyncio.sleep(ahead)
        elif number % _BURST == 0:
            await writer.drain()
            while number - acknowledged > _WINDOW:  # noqa: ASYNC110 - the counter moves with every read
                await asyncio.sleep(0.001)
    async with asyncio.timeout(60):
        await counting
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
