"""LeafDevice: one physical device, whatever found it. The truth of which every Flavor is a projection.

Integers are SI with the unit in the field's name; `declared` keeps the strings that the source gave, because the Flavor
repeats them byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from crds.models.base import (
    ATOMIC,
    MAX_COUNT,
    Column,
    Conditions,
    Crd,
    Label,
    Model,
    Name,
    Resource,
    Rule,
    Text,
    Timestamp,
    Word,
)
from crds.models.shaping import JsonPointer
from crds.models.trust import Integrity, Trust, UeidText

MAX_SENSORS = 64
Bounded = Annotated[str, Field(max_length=128)]
MAX_TOPIC = 512
Topic = Annotated[str, Field(min_length=1, max_length=MAX_TOPIC, pattern=r"^[^+#\x00]+$")]
Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Natural = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Measurement(Model):
    """One quantity that a sensor measures. `unit` is a symbol of crds.units; empty for dimensionless values."""

    type: Word
    unit: Bounded = ""
    accuracy_microunits: Natural | None = None
    """Millionths of the base unit of the quantity as crds.units.Dimension names it (0.1 degC is 100000, 0.5 % 5000)."""


class Declared(Model):
    """The numbers and units as the source wrote them (fork's characteristics), for the border only."""

    sampling_rate: Bounded | None = None
    accuracy: Annotated[tuple[Bounded, ...], Field(max_length=16)] | None = None
    consumption: Bounded | None = None
    latency: Bounded | None = None
    measurement_units: Annotated[tuple[Bounded, ...], Field(max_length=16)] | None = None
    consumption_unit: Bounded | None = None
    sampling_rate_unit: Bounded | None = None
    latency_unit: Bounded | None = None


class Access(Model):
    """Where the readings appear. `source` is the KubeEdge eventbus RuleEndpoint that the fork names."""

    type: Bounded = "MQTT"
    source: Bounded = ""
    topic: Topic


class SensorTraits(Model):
    """What a sensor is and can do, wherever its readings appear."""

    uid: Word
    name: Bounded = ""
    model: Word
    manufacturer: Bounded = ""
    market: Bounded | None = None
    category: Bounded = ""
    measurements: Annotated[tuple[Measurement, ...], Field(min_length=1, max_length=16)]
    latency_microseconds: Natural | None = None
    sampling_rate_millihertz: Positive | None = None
    consumption_microwatts: Natural | None = None
    max_consumers: Annotated[int, Field(ge=1, le=10000)] | None = None
    """How many contracts may share this sensor; the provider's default where absent."""
    integrity: Integrity = "None"
    """What a receiver can verify of its readings by itself."""
    timestamp_pointer: JsonPointer | None = None
    """Where its readings say when they were taken (RFC 6901): latency is measured from then on."""
    declared: Declared = Declared()


class Sensor(SensorTraits):
    """One sensor of a device: what is offered as one Flavor."""

    access: Access


class Board(Model):
    """What the device is built on."""

    name: Bounded = ""
    mcu: Bounded = ""
    mcu_family: Bounded = ""


class Link(Model):
    """How the device is reached: protocol as the source names it (bluetooth, modbus, usb ...) and its address there."""

    protocol: Bounded = ""
    address: Bounded = ""


_BAUD_IS_SERIAL = "must have the protocol MCUmgrSerial where baudRate is set"
UpdateProtocol = Literal["MCUmgrUDP", "MCUmgrSerial", "MCUmgrBLE", "NubificusOTA", "FluidosOTA", "BlueST"]

_HOST_PORT = r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}$"
_SERIAL = r"^(/[A-Za-z0-9._/:-]+|socket://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5})$"
_MAC = r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"
_ADDRESSES: Mapping[str, tuple[str, str]] = {
    "MCUmgrUDP": (_HOST_PORT, "host:port"),
    "MCUmgrSerial": (_SERIAL, "the path of a port, or socket://host:port"),
    "MCUmgrBLE": (_MAC, "a MAC address"),
    "NubificusOTA": (_HOST_PORT, "host:port"),
    "FluidosOTA": (_HOST_PORT, "host:port"),
    "BlueST": (_MAC, "a MAC address"),
}


def _address_message(protocol: str, expected: str) -> str:
    return f"must have as address {expected} where protocol is {protocol}"


class Update(Model):
    """How firmware gets into the device. The node's edge agent goes there and nowhere else."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *(
            Rule(f"self.protocol != '{protocol}' || self.address.matches(r'{form}')", _address_message(protocol, name))
            for protocol, (form, name) in _ADDRESSES.items()
        ),
        Rule("!has(self.baudRate) || self.protocol == 'MCUmgrSerial'", _BAUD_IS_SERIAL),
    )

    protocol: UpdateProtocol
    address: Annotated[str, Field(min_length=1, max_length=256)]
    baud_rate: Annotated[int, Field(ge=1200, le=12_000_000)] | None = None
    """Of a serial port; 115200 when absent."""

    @model_validator(mode="after")
    def _goes_by_the_protocol(self) -> Self:
        form, expected = _ADDRESSES[self.protocol]
        if re.fullmatch(form, self.address) is None:
            raise ValueError(_address_message(self.protocol, expected))
        if self.baud_rate is not None and self.protocol != "MCUmgrSerial":
            raise ValueError(_BAUD_IS_SERIAL)
        return self


class Source(Model):
    """What found the device."""

    kind: Literal["KubeEdgeDevice"]
    api_version: Bounded
    name: Name


class LeafDeviceSpec(Model):
    """Written by edge_resource_manager."""

    node_name: Name
    source: Source
    ueid: UeidText | None = None
    """Of the device that this must prove to be; absent where it cannot prove anything."""
    link: Link = Link()
    board: Board = Board()
    update: Update | None = None
    """Absent where the device is flashed by nobody here."""
    sensors: Annotated[
        tuple[Sensor, ...],
        # A create took the API server 3.6 ms where every field of every sensor was managed by itself.
        Field(max_length=MAX_SENSORS, json_schema_extra=ATOMIC),
    ] = ()


class Offer(Model):
    """A Flavor that this device stands behind."""

    sensor: Word
    flavor: Name


class LeafDeviceStatus(Model):
    """What is observed. Nothing here changes with every reading."""

    observed_generation: Natural | None = None
    conditions: Conditions = ()
    last_seen_time: Timestamp | None = None
    trust: Annotated[Trust | None, Field(json_schema_extra={"x-kubernetes-map-type": "atomic"})] = None
    """One writer says all of it: what another one said before does not shine through. Written by the identity issuer;
    where an edge agent speaks for the device, by that."""
    sensor_models: Annotated[str, Field(max_length=1024)] = ""
    """For people: a printer column shows of a list its first element alone."""
    offers: Annotated[
        tuple[Offer, ...],
        Field(max_length=MAX_SENSORS, json_schema_extra=ATOMIC),
    ] = ()


class LeafDevice(Resource):
    """One physical device and the sensors on it (`kubectl get leaf`)."""

    crd: ClassVar[Crd] = Crd(
        group="edge.fluidos.eu",
        version="v1alpha1",
        kind="LeafDevice",
        plural="leafdevices",
        short_names=("leaf", "ld"),
        categories=("fluidos",),
        columns=(
            Column("Node", ".spec.nodeName"),
            Column("Board", ".spec.board.name"),
            Column("Sensors", ".status.sensorModels"),
            Column("Trust", ".status.trust.tier"),
            Column("Online", '.status.conditions[?(@.type=="Online")].status'),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("SPIFFE ID", ".status.trust.spiffeID"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Application", ".status.trust.application", priority=1),
            Column("Firmware", ".status.trust.firmware.version", priority=1),
            Column("Link", ".spec.link.protocol", priority=1),
            Column("Address", ".spec.link.address", priority=1),
            Column("Source", ".spec.source.kind", priority=1),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
        ),
        selectable=(".spec.nodeName",),
    )

    spec: LeafDeviceSpec
    status: LeafDeviceStatus | None = None


__all__ = [
    "Access",
    "Board",
    "Declared",
    "Label",
    "LeafDevice",
    "LeafDeviceSpec",
    "LeafDeviceStatus",
    "Link",
    "Measurement",
    "Offer",
    "Sensor",
    "SensorTraits",
    "Source",
    "Text",
    "Update",
    "UpdateProtocol",
]
