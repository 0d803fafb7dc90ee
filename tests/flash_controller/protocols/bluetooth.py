"""Air with one peripheral in it, between two virtual controllers; and bleak's way to it, in place of BlueZ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient, NotifyCallback
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakError
from bumble.controller import Controller
from bumble.device import Connection, Device, Peer
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.hci import Address
from bumble.host import Host
from bumble.link import LocalLink
from bumble.transport.common import AsyncPipeSink

CENTRAL, PERIPHERAL = "F0:F0:F0:F0:F0:F0", "F1:F1:F1:F1:F1:F1"
Board = Callable[[bytes], Iterable[bytes]]
"""What a board notifies when something is written to it."""


def _device(address: str, air: LocalLink) -> Device:
    controller = Controller(address, link=air, public_address=address)
    return Device(address=Address(address), host=Host(controller, AsyncPipeSink(controller)))


@asynccontextmanager
async def in_reach(
    board: Board, *, service: str, characteristic: str, mtu: int
) -> AsyncIterator[type[BaseBleakClient]]:
    """A board on the air, and the backend that reaches it at `PERIPHERAL`."""
    air = LocalLink()  # type: ignore[no-untyped-call]  # bumble is annotated in part
    central, peripheral = _device(CENTRAL, air), _device(PERIPHERAL, air)
    waiting: asyncio.Queue[tuple[Connection, bytes]] = asyncio.Queue()

    def written(connection: Connection, value: bytes) -> None:
        for notification in board(value):
            waiting.put_nowait((connection, notification))

    async def notify() -> None:
        while True:
            connection, notification = await waiting.get()
            size = connection.att_mtu - 3
            for start in range(0, len(notification), size):
                await peripheral.notify_subscriber(connection, found, notification[start : start + size])

    found: Characteristic[bytes] = Characteristic(
        characteristic,
        Characteristic.Properties.WRITE_WITHOUT_RESPONSE | Characteristic.Properties.NOTIFY,
        Characteristic.WRITEABLE,
        CharacteristicValue(write=written),
    )
    peripheral.add_service(Service(service, [found]))
    for each in (central, peripheral):
        await each.power_on()
    await peripheral.start_advertising(auto_restart=True)
    notifying = asyncio.create_task(notify())

    class Backend(Client):
        device = central
        uuids = (service, characteristic)
        longest = mtu

    try:
        yield Backend
    finally:
        notifying.cancel()
        await asyncio.gather(notifying, return_exceptions=True)


class Client(BaseBleakClient):
    """What of bleak's interface a link uses."""

    device: Device
    uuids: tuple[str, str]
    longest: int
    _peer: Peer | None = None

    async def connect(self, pair: bool, **_: Any) -> None:  # noqa: ARG002 - nobody pairs here
        try:
            connection = await self.device.connect(self.address, timeout=self._timeout)
        except TimeoutError as error:
            raise BleakError("not in reach") from error
        connection.on(connection.EVENT_DISCONNECTION, self._lost)
        self._peer = Peer(connection)
        await self._peer.request_mtu(self.longest)
        await self._peer.discover_all()  # type: ignore[no-untyped-call]  # as above
        self.services = BleakGATTServiceCollection()
        for service in self._peer.services:
            known = BleakGATTService(service, service.handle, service.uuid.to_hex_str("-").lower())
            self.services.add_service(known)
            for each in service.characteristics:
                uuid = each.uuid.to_hex_str("-").lower()
                self.services.add_characteristic(
                    BleakGATTCharacteristic(each, each.handle, uuid, ["notify"], lambda: self.mtu_size - 3, known)
                )

    def _lost(self, _: int) -> None:
        self._peer = None
        if self._disconnected_callback:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        if self._peer:
            await self._peer.connection.disconnect()

    @property
    def is_connected(self) -> bool:
        return self._peer is not None

    @property
    def mtu_size(self) -> int:
        return self._peer.connection.att_mtu if self._peer else 23

    async def write_gatt_char(self, characteristic: BleakGATTCharacteristic, data: Any, response: bool) -> None:
        if self._peer is None:
            raise BleakError("not connected")
        await self._peer.write_value(characteristic.obj, bytes(data), with_response=response)

    async def start_notify(self, characteristic: BleakGATTCharacteristic, callback: NotifyCallback, **_: Any) -> None:
        if self._peer is None:
            raise BleakError("not connected")
        await self._peer.subscribe(characteristic.obj, lambda value: callback(bytearray(value)))

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        raise NotImplementedError

    async def pair(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError

    async def unpair(self) -> None:
        raise NotImplementedError

    async def read_gatt_char(self, *_: Any, **__: Any) -> bytearray:
        raise NotImplementedError

    async def read_gatt_descriptor(self, *_: Any, **__: Any) -> bytearray:
        raise NotImplementedError

    async def write_gatt_descriptor(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError
