"""Sensors that follow firmware: a device has those of the Firmware whose measurement it attested.

Which Firmware of the catalog that is, and what its sensors are called and where they publish on one device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from crds.declared import with_declared
from crds.errors import InvalidField
from crds.models.base import validate
from crds.models.firmware import BoardImage, Firmware, FirmwareSensor, Release
from crds.models.leafdevice import LeafDeviceSpec, LeafDeviceStatus, Sensor
from edge_resource_manager.domain.devices import Description
from edge_resource_manager.domain.publication import flashed_since


@dataclass(frozen=True, slots=True)
class Provided:
    """What one firmware makes of one device; each sensor that cannot be is an error and hides none of the others."""

    sensors: tuple[Sensor, ...] = ()
    errors: tuple[InvalidField, ...] = ()


def running(status: LeafDeviceStatus | None, catalog: Iterable[Firmware]) -> Release | None:
    """What a device proved to run, as the catalog knows it; of several that agree, the first by the Firmware's name.

    A Firmware that is not ready at present, because its registry is away, still stands behind what was verified.
    """
    trust = status.trust if status else None
    if trust is None or trust.tier != "Attested" or trust.firmware is None:
        return None
    return next(
        (
            release
            for firmware in sorted(catalog, key=lambda each: each.metadata.name)
            if firmware.status is not None
            for release in firmware.status.releases
            if release.application == trust.application
            and any(image.measurement == trust.firmware.measurement for image in release.boards)
        ),
        None,
    )


def provided(release: Release, *, ueid: str) -> Provided:
    """The sensors of a device that runs a release.

    Their uids begin with the application's name: each application numbers its sensors as it likes, and none may pass
    for that of another one.

    Args:
        release: of a firmware.
        ueid: of the device; it is what a device knows of itself, so that its topics can be made of it.
    """
    sensors, errors = [], []
    for index, each in enumerate(release.sensors):
        try:
            sensors.append(_sensor(each, application=release.application, ueid=ueid))
        except InvalidField as error:
            field = f"sensors[{index}] of {release.application} {release.version}, {error.field}"
            errors.append(InvalidField(field=field, value=error.value, expected=error.expected))
    return Provided(tuple(sensors), tuple(errors))


def following(
    description: Description, *, before: LeafDeviceSpec | None, status: LeafDeviceStatus, catalog: Iterable[Firmware]
) -> Description:
    """A device as its source describes it, with the sensors of the firmware that it proved to run.

    While it is being flashed, it keeps those that it had: nobody knows yet which ones it will have.

    Args:
        description: by its source.
        before: the LeafDevice as it is stored.
        status: of that.
        catalog: all firmware of its namespace.
    """
    spec = description.spec
    if before is not None and flashed_since(status):
        return replace(description, spec=spec.model_copy(update={"sensors": before.sensors}))
    release = running(status, catalog)
    if release is None or spec.ueid is None:
        return description
    found = provided(release, ueid=spec.ueid)
    return replace(
        description,
        spec=spec.model_copy(update={"sensors": found.sensors}),
        errors=(*description.errors, *found.errors),
    )


def image_for(spec: LeafDeviceSpec, release: Release) -> BoardImage | None:
    """The part of an index that is for a device's board."""
    board = normalized(spec.board.name)
    return next((each for each in release.boards if board and normalized(each.board) == board), None)


def normalized(board: str) -> str:
    """`ESP32-S3`, `esp32_s3` and `esp32s3` are one board."""
    return board.lower().replace("-", "").replace("_", "")


def _sensor(declared: FirmwareSensor, *, application: str, ueid: str) -> Sensor:
    topic = declared.topic.replace("{device}", ueid).replace("{sensor}", declared.uid)
    described = {**with_declared(declared).dump(), "uid": f"{application}/{declared.uid}"}
    return validate(Sensor, {**described, "access": {"type": "MQTT", "topic": topic}})
