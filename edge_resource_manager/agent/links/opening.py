"""Which way leads to a device: its LeafDevice says it, and nobody who asks."""

from __future__ import annotations

from typing import assert_never
from urllib.parse import urlsplit

from bleak.backends.client import BaseBleakClient

from crds.errors import Terminal
from crds.models.leafdevice import Update
from edge_resource_manager.agent.links.base import Way
from edge_resource_manager.agent.links.datagrams import Datagrams
from edge_resource_manager.agent.links.gatt import CHARACTERISTICS, Gatt
from edge_resource_manager.agent.links.inbound import Port
from edge_resource_manager.agent.links.streams import open_serial


class Opener:
    """Opens ways.

    Args:
        inbound: where devices dial in, if they may.
        bluetooth: bleak's backend; that of the operating system where there is none.
    """

    def __init__(self, inbound: Port | None = None, *, bluetooth: type[BaseBleakClient] | None = None) -> None:
        self._inbound = inbound
        self._bluetooth = bluetooth

    async def open(self, update: Update) -> Way:
        """The way that a LeafDevice names.

        Raises:
            DeviceGone: not now.
            Terminal: this node has no such way.
        """
        match update.protocol:
            case "MCUmgrUDP":
                return await Datagrams.open(*_place(update.address))
            case "MCUmgrSerial":
                return await open_serial(update.address, baud=update.baud_rate)
            case "MCUmgrBLE" | "BlueST" as protocol:
                characteristic = CHARACTERISTICS[protocol]
                return await Gatt.open(update.address, characteristic=characteristic, backend=self._bluetooth)
            case "NubificusOTA" | "FluidosOTA":
                if self._inbound is None:
                    raise Terminal("devices cannot dial in: the edge agent has no --inbound-port", reason="NoInbound")
                return await self._inbound.open(*_place(update.address))
        assert_never(update.protocol)


def _place(address: str) -> tuple[str, int]:
    """Host and port; the model has seen to their form."""
    parts = urlsplit(f"//{address}")
    return parts.hostname or "", parts.port or 0
