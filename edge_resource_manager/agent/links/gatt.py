"""Bluetooth Low Energy: one characteristic is written without response, and notifies."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from bleak import BleakClient
from bleak.backends.client import BaseBleakClient
from bleak.exc import BleakError

from crds.models.leafdevice import UpdateProtocol
from crds.models.links import MAX_FRAME
from edge_resource_manager.agent.links.base import CLOSE_SECONDS, MAX_WAITING, OPEN_SECONDS, SEND_SECONDS, DeviceGone

CHARACTERISTICS: Final[dict[UpdateProtocol, str]] = {
    "MCUmgrBLE": "da2e7828-fbce-4e01-ae9e-261174997c48",  # of SMP
    "BlueST": "00000001-000e-11e1-ac36-0002a5d5c51b",  # terminal of the debug console
}


class Gatt:
    """A connection to one device.

    Attributes:
        max_frame: of one write.
    """

    def __init__(self, address: str, *, backend: type[BaseBleakClient] | None = None) -> None:
        """Use `open`."""
        self.max_frame = 0
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING)
        self._client = BleakClient(address, lambda _: self._end(), timeout=OPEN_SECONDS, backend=backend)

    @classmethod
    async def open(cls, address: str, *, characteristic: str, backend: type[BaseBleakClient] | None = None) -> Gatt:
        """Connect.

        Args:
            address: MAC address of the device.
            characteristic: its UUID.
            backend: of bleak; that of the operating system where there is none.

        Raises:
            DeviceGone: it is not in reach, or has no such characteristic.
        """
        link = cls(address, backend=backend)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await link._client.connect()
                await link._listen(characteristic)
        except (BleakError, OSError) as error:
            await link.close()
            raise DeviceGone(f"{address}: {error or type(error).__name__}") from error
        return link

    async def send(self, frame: bytes) -> None:
        """See `Way`."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._client.write_gatt_char(self._characteristic, frame, response=False)
        except (BleakError, OSError) as error:
            raise DeviceGone(f"the device takes no write: {error or type(error).__name__}") from error

    async def receive(self) -> bytes:
        """See `Way`."""
        frame = await self._arrived.get()
        if frame is None:
            raise DeviceGone("the device disconnected, or notifies faster than anybody reads")
        return frame

    async def close(self) -> None:
        """See `Way`."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.disconnect()
        except (BleakError, OSError):
            self._end()

    async def _listen(self, uuid: str) -> None:
        found = self._client.services.get_characteristic(uuid)
        if found is None:
            raise BleakError(f"the device has no characteristic {uuid}")
        self._characteristic = found
        self.max_frame = min(found.max_write_without_response_size, MAX_FRAME)
        await self._client.start_notify(found, self._notified)

    def _notified(self, _: Any, data: bytearray) -> None:
        # A notification that is lost leaves a hole in a stream: better no link than that one.
        if self._arrived.full():
            self._end()
        elif data:
            self._arrived.put_nowait(bytes(data))

    def _end(self) -> None:
        if self._arrived.full():
            self._arrived.get_nowait()
        self._arrived.put_nowait(None)
