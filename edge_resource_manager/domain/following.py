"""Sensors that follow firmware: a device has those of the Firmware whose measurement it attested.

Which Firmware of the catalog that is, and what its sensors are called and where they publish on one device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from crds.declared import with_declared
from crds.errors import InvalidField
from crds.models.base import validate
from crds.models.firmware import BoardImage, Firmware, FirmwareSensor, FirmwareStatus
from crds.models.leafdevice import LeafDeviceSpec, LeafDeviceStatus, Sensor, SensorTraits


@dataclass(frozen=True, slots=True)
class Provided:
    """What one firmware makes of one device; each sensor that cannot be is an error and hides none of the others."""

    sensors: tuple[Sensor, ...] = ()
    errors: tuple[InvalidField, ...] = ()


def is_ready(firmware: Firmware) -> bool:
    """Whether the catalog stands behind what it says of a firmware."""
    conditions = firmware.status.conditions if firmware.status else ()
    return any(each.type == "Ready" and each.status == "True" for each in conditions)


def running(status: LeafDeviceStatus | None, catalog: Iterable[Firmware]) -> Firmware | None:
    """The firmware that a device proved to run: the first by name of those with its measurement and application."""
    trust = status.trust if status else None
    if trust is None or trust.tier != "Attested" or trust.firmware is None:
        return None
    measurement = trust.firmware.measurement
    found = (
        each
        for each in catalog
        if is_ready(each)
        and each.status is not None
        and each.status.application == trust.application
        and any(image.measurement == measurement for image in each.status.boards)
    )
    return min(found, key=lambda firmware: firmware.metadata.name, default=None)


def provided(status: FirmwareStatus, *, ueid: str) -> Provided:
    """The sensors of a device that runs a firmware.

    Their uids begin with the application's name: each application numbers its sensors as it likes, and none may pass
    for that of another one.

    Args:
        status: of the firmware.
        ueid: of the device; it is what a device knows of itself, so that its topics can be made of it.
    """
    sensors, errors = [], []
    for index, each in enumerate(status.sensors):
        try:
            sensors.append(_sensor(each, application=status.application, ueid=ueid))
        except InvalidField as error:
            field = f"Firmware.status.sensors[{index}].{error.field}"
            errors.append(InvalidField(field=field, value=error.value, expected=error.expected))
    return Provided(tuple(sensors), tuple(errors))


def image_for(spec: LeafDeviceSpec, status: FirmwareStatus) -> BoardImage | None:
    """The part of an index that is for a device's board."""
    board = normalized(spec.board.name)
    return next((each for each in status.boards if board and normalized(each.board) == board), None)


def normalized(board: str) -> str:
    """`ESP32-S3`, `esp32_s3` and `esp32s3` are one board."""
    return board.lower().replace("-", "").replace("_", "")


def _sensor(declared: FirmwareSensor, *, application: str, ueid: str) -> Sensor:
    topic = declared.topic.replace("{device}", ueid).replace("{sensor}", declared.uid)
    traits = with_declared(SensorTraits(**{name: getattr(declared, name) for name in SensorTraits.model_fields}))
    return validate(
        Sensor, {**traits.dump(), "uid": f"{application}/{declared.uid}", "access": {"type": "MQTT", "topic": topic}}
    )
