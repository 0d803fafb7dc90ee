"""Devices that publish numbered readings at QoS 1 until SIGTERM, and note which of them were acknowledged.

`python -m tests.faults.publisher PORT RATE LOG BYTES WINDOW DEVICE...`. Device d of n has the ids d, d + n, d + 2n ...
and a connection and a topic of its own, and at most WINDOW messages without an acknowledgement. Who is cut connects
again and sends nothing twice: what was not acknowledged by then is not owed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

from router_manager.relay.mqtt.packets import Version, connect, publish

DEVICES = 8
_TICK_SECONDS = 0.01
_RECONNECT_SECONDS = 0.05
_LAST_SECONDS = 20.0


def topic_of(device: int) -> str:
    return f"faults/{device}"


def reading(number: int, size: int) -> bytes:
    body = b'{"id":%d,"sentAt":%d,"pad":"' % (number, time.time_ns())
    return body + b"x" * (size - 2 - len(body)) + b'"}'


@dataclass
class Device:
    """One connection at a time."""

    port: int
    number: int
    rate: float
    size: int
    window: int
    log: int
    stopping: asyncio.Event
    _sent: int = 0
    _waiting: dict[int, int] = field(default_factory=dict)

    async def run(self) -> None:
        """Until told to stop; then the acknowledgements that are under way are still waited for."""
        while not self.stopping.is_set():
            with suppress(OSError, EOFError, TimeoutError):
                await self._publish()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _publish(self) -> None:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            hello = connect(
                version=Version.V311, client_id=f"device-{self.number}", clean_start=True, keep_alive_seconds=0
            )
            writer.write(hello)
            await reader.readexactly(4)
        self._waiting.clear()
        noting = asyncio.create_task(self._note(reader))
        try:
            await self._send(writer, noting)
            async with asyncio.timeout(_LAST_SECONDS):
                while self._waiting and not noting.done():  # noqa: ASYNC110 - every read may be the last one needed
                    await asyncio.sleep(_TICK_SECONDS)
        finally:
            noting.cancel()
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, noting: asyncio.Task[None]) -> None:
        due, last = 0.0, time.monotonic()
        while not self.stopping.is_set() and not noting.done():
            now = time.monotonic()
            # What could not be sent while the other side was full is not made up for in one burst.
            due, last = min(due + (now - last) * self.rate, self.rate), now
            while due >= 1 and len(self._waiting) < self.window:
                due -= 1
                number = self._sent * DEVICES + self.number
                packet_id = self._sent % 0xFFFF + 1
                self._sent += 1
                self._waiting[packet_id] = number
                payload = reading(number, self.size)
                writer.write(
                    publish(version=Version.V311, topic=topic_of(self.number), payload=payload, packet_id=packet_id)
                )
            await asyncio.sleep(_TICK_SECONDS)

    async def _note(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while data := await reader.read(1 << 16):
            data = rest + data
            whole = len(data) // 4 * 4
            rest = data[whole:]
            ids = [self._waiting.pop(int.from_bytes(data[at + 2 : at + 4], "big")) for at in range(0, whole, 4)]
            os.write(self.log, b"".join([b"%d\n" % number for number in ids]))


async def main(port: int, rate: float, log: str, size: int, window: int, *devices: int) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with asyncio.TaskGroup() as all_of_them:
        for number in devices:
            device = Device(port, number, rate / len(devices), size, window, file, stopping)
            all_of_them.create_task(device.run())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:])))
