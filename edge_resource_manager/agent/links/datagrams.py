"""UDP to one device."""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

from edge_resource_manager.agent.links.base import MAX_WAITING, OPEN_SECONDS, DeviceGone

MAX_PAYLOAD: Final = 65507
# linux/in.h and linux/in6.h; Python's socket module has no names for them.
_PATH_MTU: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 14, 20 + 8),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 24, 40 + 8),
}


class Datagrams(asyncio.DatagramProtocol):
    """A connected socket: others than the device are not heard.

    Attributes:
        max_frame: what goes to the device without being fragmented.
    """

    def __init__(self) -> None:
        self.max_frame = 0
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING)
        self._why = ""

    @classmethod
    async def open(cls, host: str, port: int) -> Datagrams:
        """A socket for one device; whether that is there shows by its answers.

        Raises:
            DeviceGone: the host is unknown or out of reach.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                _, link = await loop.create_datagram_endpoint(cls, remote_addr=(host, port))
        except OSError as error:
            raise DeviceGone(f"{host}:{port}: {error.strerror or error}") from error
        return link

    async def send(self, frame: bytes) -> None:
        """See `Way`."""
        if self._why:
            raise DeviceGone(self._why)
        self._transport.sendto(frame)

    async def receive(self) -> bytes:
        """See `Way`."""
        frame = await self._arrived.get()
        if frame is None:
            raise DeviceGone(self._why)
        return frame

    async def close(self) -> None:
        """See `Way`."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.DatagramTransport", transport)
        opened: socket.socket = transport.get_extra_info("socket")
        level, option, overhead = _PATH_MTU[socket.AddressFamily(opened.family)]
        self.max_frame = min(opened.getsockopt(level, option) - overhead, MAX_PAYLOAD)

    def datagram_received(self, data: bytes, _: object) -> None:
        """Called by the loop; what is too much is lost, as datagrams are."""
        if data and not self._arrived.full():
            self._arrived.put_nowait(data)

    def error_received(self, error: Exception) -> None:
        """Called by the loop: nobody listens at the device, which may be restarting."""
        self._end(f"the device refuses datagrams: {error}")

    def connection_lost(self, _: Exception | None) -> None:
        """Called by the loop."""
        self._end("the link is closed")

    def _end(self, why: str) -> None:
        if not self._why:
            self._why = why
            if self._arrived.full():
                self._arrived.get_nowait()
            self._arrived.put_nowait(None)
