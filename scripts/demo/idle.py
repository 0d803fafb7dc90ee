"""Boards that measure nothing yet, and the firmware that there is for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from crds.models.firmware import FirmwareSensor
from crds.models.leafdevice import Measurement
from edge_resource_manager.domain.devices import BOARD_KEY, MCU_KEY, UEID_KEY, UPDATE_KEY
from scripts.demo.inventory import MODEL, NAMESPACE
from scripts.simulator.firmware import Application

BOARD: Final = "stwinbx1"
MCU: Final = "STM32U585AI"
SIZE: Final = 256 * 1024
"""Of each image: as large as a real one."""

VISIBILITY: Final = FirmwareSensor(
    uid="pwd22",
    model="pwd22",
    manufacturer="Vaisala",
    category="Meteorological",
    measurements=(Measurement(type="Visibility", unit="m"),),
    latency_microseconds=30_000,
    sampling_rate_millihertz=1000,
    topic="device/{device}/{sensor}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One firmware of the catalog.

    Attributes:
        name: of the Firmware object and of the repository.
        application: what the board does.
        version: of it.
        counter: for anti-rollback.
    """

    name: str
    application: Application
    version: str
    counter: int = 1


IDLE: Final = Package(name="idle", application=Application(application="idle"), version="1.0.0")
"""What the boards leave their factory with."""
WATCHFUL: Final = Package(
    name="visibility",
    application=Application(application="visibility", messages_per_second=10.0, sensors=(VISIBILITY,)),
    version="1.0.0",
)
BROKEN: Final = Package(
    name="idle-next",
    application=Application(application="idle", defect="Hangs"),
    version="1.1.0",
)
"""It starts, and then does nothing: nobody can tell before a board has tried."""
PACKAGES: Final = (IDLE, WATCHFUL, BROKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleBoard:
    """One device that can be flashed.

    Attributes:
        name: of the device.
        ueid: the name that it can prove.
        update: host and port of its SMP server.
    """

    name: str
    ueid: str
    update: str

    def device(self, *, node: str) -> dict[str, Any]:
        """The KubeEdge Device (v1beta1): no sensors, and how firmware gets in."""
        annotations = {
            UEID_KEY: self.ueid,
            BOARD_KEY: BOARD,
            MCU_KEY: MCU,
            UPDATE_KEY: orjson.dumps({"protocol": "MCUmgrUDP", "address": self.update}).decode(),
        }
        return {
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "Device",
            "metadata": {"name": self.name, "namespace": NAMESPACE, "annotations": annotations},
            "spec": {
                "deviceModelRef": {"name": MODEL},
                "nodeName": node,
                "protocol": {"protocolName": "mcumgr", "configData": {"address": self.update}},
            },
        }
