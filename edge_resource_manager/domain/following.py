"""Sensors that follow firmware: a device has those of the Firmware whose measurement it attested.

Which Firmware of the catalog that is, and what its sensors are called and where they publish on one device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from crds.declared import with_declared
from crds.errors import InvalidField
from crds.models.base import validate
from crds.models.firmware import Firmware, FirmwareSensor, FirmwareStatus, Release
from crds.models.leafdevice import Access, LeafDeviceSpec, LeafDeviceStatus, Sensor, SensorTraits
from edge_resource_manager.domain.devices import Description
from edge_resource_manager.domain.publication import is_flashed


@dataclass(frozen=True, slots=True)
class Provided:
    """What one firmware makes of one device; each sensor that cannot be is an error and hides none of the others."""

    sensors: tuple[Sensor, ...] = ()
    errors: tuple[InvalidField, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A Firmware of the catalog, read once: devices are looked at often, firmware changes seldom.

    Attributes:
        name: of the Firmware.
        ready: whether it can be rolled out now.
        current: what it means now.
        known: what it means and meant, by application and measurement. While its registry is away, it still does.
    """

    name: str
    ready: bool
    current: Release | None
    known: Mapping[tuple[str, str], Release]

    @classmethod
    def of(cls, firmware: Firmware) -> Entry:
        """Read a Firmware."""
        status = firmware.status or FirmwareStatus()
        known: dict[tuple[str, str], Release] = {}
        for release in status.releases:
            for image in release.boards:
                if image.measurement is not None:
                    known.setdefault((release.application, image.measurement), release)
        return cls(
            name=firmware.metadata.name,
            ready=any((each.type, each.status) == ("Ready", "True") for each in status.conditions),
            current=status.current,
            known=known,
        )


def running(status: LeafDeviceStatus, catalog: Iterable[Entry]) -> Release | None:
    """What a device proved to run, as the catalog knows it; the first of those that agree."""
    trust = status.trust
    if trust is None or trust.tier != "Attested" or trust.firmware is None:
        return None
    proof = (trust.application, trust.firmware.measurement)
    return next((entry.known[proof] for entry in catalog if proof in entry.known), None)


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
    description: Description, *, before: LeafDeviceSpec | None, status: LeafDeviceStatus, catalog: Iterable[Entry]
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
    if before is not None and is_flashed(status):
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


def _sensor(declared: FirmwareSensor, *, application: str, ueid: str) -> Sensor:
    topic = declared.topic.replace("{device}", ueid).replace("{sensor}", declared.uid)
    access = validate(Access, {"topic": topic}, field="access")
    return Sensor(**dict(_described(declared, application)), access=access)


@lru_cache(maxsize=4096)
def _described(declared: FirmwareSensor, application: str) -> SensorTraits:
    return validate(SensorTraits, {**with_declared(declared).dump(), "uid": f"{application}/{declared.uid}"})
