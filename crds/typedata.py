"""The fork's sensor description, both ways: an annotation's entry or a Flavor's `typeData` to a typed sensor and back.

Outside every scalar is a string and every number has its unit elsewhere; inside there are integers. The declared
strings are kept beside them, so that what goes out is byte for byte what came in. What the fork's format has no place
for (board, MCU, how many may share the sensor) lives under `properties.additional`, which its JSON decoder ignores.
Source: otto-tom/fluidos-node-edge, features/edge-support: SensorInfo and SensorCharacteristics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from crds.errors import InvalidField
from crds.mcu import mcu_family
from crds.models.base import Model, Word, validate
from crds.models.fluidos import FlavorSpec
from crds.models.leafdevice import (
    Access,
    Board,
    Bounded,
    Declared,
    Measurement,
    Sensor,
    SensorTraits,
)
from crds.models.shaping import JsonPointer
from crds.models.trust import Hex, Integrity, SpiffeIdText, Tier
from crds.units import Dimension, Rounding, Scale, parse_unit, to_integer

MAX_QUANTITIES = 16

_Natural = Annotated[str, Field(max_length=16, pattern=r"^[0-9]+$")]
_Words = Annotated[tuple[Bounded, ...], Field(max_length=MAX_QUANTITIES)]


class _Type(Model):
    sensor_category: Bounded
    sensor_type: Annotated[tuple[Word, ...], Field(min_length=1, max_length=MAX_QUANTITIES)]


class _Units(Model):
    measurement: _Words | None = None
    consumption: Bounded | None = None
    sampling_rate: Bounded | None = None
    latency: Bounded | None = None


class _Additional(Model):
    board: Bounded | None = None
    mcu: Bounded | None = None
    mcu_family: Bounded | None = None
    max_consumers: Bounded | None = None
    integrity: Integrity | None = None
    timestamp_pointer: JsonPointer | None = None
    observed_latency_micros: _Natural | None = None
    repurpose_seconds: _Natural | None = None
    trust_tier: Tier | None = None
    spiffe_id: Annotated[SpiffeIdText | None, Field(alias="spiffeID")] = None
    application: Bounded | None = None
    firmware: Hex | None = None


class _Properties(Model):
    unit: _Units | None = None
    additional: _Additional | None = None


class _Resource(Model):
    topic: Annotated[str, Field(max_length=512)] = ""
    node: Annotated[str, Field(max_length=253)] = ""


class _Access(Model):
    type: Bounded
    source: Bounded
    resource: _Resource = _Resource()


class _Characteristics(Model):
    """The fork's struct; the order of the fields is the order of its keys."""

    uid: Word
    # Whoever publishes the sensor fills `node` and the fork never fills `name`: a source may leave both out.
    node: Annotated[str, Field(max_length=253)] = ""
    name: Bounded = ""
    model: Word
    manufacturer: Bounded
    market: Bounded | None = None
    type: _Type
    sampling_rate: Bounded | None = None
    accuracy: _Words | None = None
    consumption: Bounded | None = None
    latency: Bounded | None = None
    properties: _Properties | None = None
    access: _Access


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredSensor:
    """One sensor as its source declares it; node and topic may still be empty, whoever publishes it knows them."""

    traits: SensorTraits
    board: Board
    access_type: str
    access_source: str
    node: str
    topic: str
    trust: FlavorTrust | None = None
    observed_latency_microseconds: int | None = None
    repurpose_seconds: int | None = None

    def at(self, topic: str) -> Sensor:
        """The sensor whose readings appear at an MQTT topic.

        Raises:
            InvalidField: no topic name (empty, too long, or with a wildcard).
        """
        access = validate(
            Access, {"type": self.access_type, "source": self.access_source, "topic": topic}, field="access.resource"
        )
        return Sensor(**dict(self.traits), access=access)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlavorView:
    """A Sensor flavor's typeData, typed.

    Attributes:
        sensor: as its source declares it.
        board: that it is on.
        node: of the board.
        trust: what the device has proven.
        observed_latency_microseconds: p99 of its deliveries, as its provider has measured; None where it has not.
        repurpose_seconds: how long it takes, as its provider expects, to flash the device into this; None where it is.
    """

    sensor: Sensor
    board: Board
    node: str
    trust: FlavorTrust | None = None
    observed_latency_microseconds: int | None = None
    repurpose_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlavorTrust:
    """What a provider says that its device has proven.

    Attributes:
        tier: how well.
        spiffe_id: who the device is.
        application: what it runs.
        firmware: measurement of that, in hex.
    """

    tier: Tier
    spiffe_id: str | None = None
    application: str = ""
    firmware: str | None = None


def parse_sensor(entry: object, *, field: str) -> DeclaredSensor:
    """Read one element of the annotation, or a flavor's `characteristics`, as strictly as Go's decoder.

    Raises:
        InvalidField: a key is missing or of the wrong type, a unit is unknown or absent, a number is none.
    """
    raw = validate(_Characteristics, entry, field=field)
    units = (raw.properties and raw.properties.unit) or _Units()
    additional = (raw.properties and raw.properties.additional) or _Additional()
    traits = SensorTraits(
        uid=raw.uid,
        name=raw.name,
        model=raw.model,
        manufacturer=raw.manufacturer,
        market=raw.market,
        category=raw.type.sensor_category,
        measurements=tuple(_measurements(raw, units, field=field)),
        latency_microseconds=_amount(
            "latency", raw.latency, units.latency, dimension=Dimension.TIME, scale=Scale.MICRO, field=field
        ),
        sampling_rate_millihertz=_sampling_rate(raw.sampling_rate, units.sampling_rate, field=field),
        consumption_microwatts=_amount(
            "consumption", raw.consumption, units.consumption, dimension=Dimension.POWER, scale=Scale.MICRO, field=field
        ),
        max_consumers=parse_max_consumers(
            additional.max_consumers, field=f"{field}.properties.additional.maxConsumers"
        ),
        integrity=additional.integrity or "None",
        timestamp_pointer=additional.timestamp_pointer,
        declared=Declared(
            sampling_rate=raw.sampling_rate,
            accuracy=raw.accuracy,
            consumption=raw.consumption,
            latency=raw.latency,
            measurement_units=units.measurement,
            consumption_unit=units.consumption,
            sampling_rate_unit=units.sampling_rate,
            latency_unit=units.latency,
        ),
    )
    mcu = additional.mcu or ""
    return DeclaredSensor(
        traits=traits,
        board=Board(name=additional.board or "", mcu=mcu, mcu_family=mcu_family(mcu) or additional.mcu_family or ""),
        access_type=raw.access.type,
        access_source=raw.access.source,
        node=raw.node or raw.access.resource.node,
        topic=raw.access.resource.topic,
        trust=_trust(additional),
        observed_latency_microseconds=_count(additional.observed_latency_micros),
        repurpose_seconds=_count(additional.repurpose_seconds),
    )


def _count(text: str | None) -> int | None:
    return None if text is None else int(text)


def _trust(additional: _Additional) -> FlavorTrust | None:
    if additional.trust_tier is None:
        return None
    return FlavorTrust(
        tier=additional.trust_tier,
        spiffe_id=additional.spiffe_id,
        application=additional.application or "",
        firmware=additional.firmware,
    )


def characteristics(
    sensor: Sensor, *, node: str, board: Board | None = None, trust: FlavorTrust | None = None
) -> dict[str, Any]:
    """The fork's `characteristics`: its keys in its order, the declared strings as they were declared."""
    declared = sensor.declared
    board = board or Board()
    units = _Units(
        measurement=declared.measurement_units,
        consumption=declared.consumption_unit,
        sampling_rate=declared.sampling_rate_unit,
        latency=declared.latency_unit,
    )
    additional = _Additional(
        board=board.name or None,
        mcu=board.mcu or None,
        mcu_family=board.mcu_family or None,
        max_consumers=None if sensor.max_consumers is None else str(sensor.max_consumers),
        integrity=None if sensor.integrity == "None" else sensor.integrity,
        timestamp_pointer=sensor.timestamp_pointer,
        trust_tier=trust.tier if trust else None,
        spiffe_id=trust.spiffe_id if trust else None,
        application=(trust.application or None) if trust else None,
        firmware=trust.firmware if trust else None,
    )
    properties = _Properties(
        unit=units if units != _Units() else None,
        additional=additional if additional != _Additional() else None,
    )
    return _Characteristics(
        uid=sensor.uid,
        node=node,
        name=sensor.name,
        model=sensor.model,
        manufacturer=sensor.manufacturer,
        market=sensor.market,
        type=_Type(
            sensor_category=sensor.category,
            sensor_type=tuple(measurement.type for measurement in sensor.measurements),
        ),
        sampling_rate=declared.sampling_rate,
        accuracy=declared.accuracy,
        consumption=declared.consumption,
        latency=declared.latency,
        properties=properties if properties != _Properties() else None,
        access=_Access(
            type=sensor.access.type,
            source=sensor.access.source,
            resource=_Resource(topic=sensor.access.topic, node=node),
        ),
    ).dump()


def sensor_from_flavor(spec: FlavorSpec) -> FlavorView:
    """Read a flavor of type Sensor, ours or a stock provider's.

    Raises:
        InvalidField: another type, or a `typeData` that does not describe a sensor.
    """
    kind = spec.flavor_type.type_identifier
    if kind != "Sensor":
        raise InvalidField(field="flavorType.typeIdentifier", value=kind, expected="Sensor")
    field = "flavorType.typeData.characteristics"
    declared = parse_sensor(spec.flavor_type.type_data.get("characteristics"), field=field)
    return FlavorView(
        sensor=declared.at(declared.topic),
        board=declared.board,
        node=declared.node,
        trust=declared.trust,
        observed_latency_microseconds=declared.observed_latency_microseconds,
        repurpose_seconds=declared.repurpose_seconds,
    )


def _measurements(raw: _Characteristics, units: _Units, *, field: str) -> Iterator[Measurement]:
    """`accuracy[i]` and `measurement[i]` belong to `sensorType[i]`; an empty accuracy says nothing."""
    types = raw.type.sensor_type
    for where, values in (("accuracy", raw.accuracy), ("properties.unit.measurement", units.measurement)):
        if values is not None and len(values) > len(types):
            expected = f"at most one for each of {len(types)} sensor types"
            raise InvalidField(field=f"{field}.{where}", value=list(values), expected=expected)
    for index, sensor_type in enumerate(types):
        unit_field = f"{field}.properties.unit.measurement[{index}]"
        symbol = _at(units.measurement, index)
        unit = parse_unit(symbol or "", field=unit_field, sensor_type=sensor_type)
        tolerance = _at(raw.accuracy, index)
        if not tolerance:
            yield Measurement(type=sensor_type, unit=symbol or "")
            continue
        if symbol is None:
            raise InvalidField(field=unit_field, value=None, expected=f"the unit of accuracy {tolerance!r}")
        accuracy_field = f"{field}.accuracy[{index}]"
        if unit.dimension is Dimension.CATEGORY:
            raise InvalidField(field=accuracy_field, value=tolerance, expected="nothing, classes have no accuracy")
        accuracy = to_integer(tolerance, unit, scale=Scale.MICRO, rounding="up", field=accuracy_field)
        yield Measurement(type=sensor_type, unit=symbol, accuracy_microunits=accuracy)


def _at(values: tuple[str, ...] | None, index: int) -> str | None:
    return values[index] if values is not None and index < len(values) else None


def _amount(
    name: str,
    value: str | None,
    symbol: str | None,
    *,
    dimension: Dimension,
    scale: Scale,
    field: str,
    rounding: Rounding = "up",
) -> int | None:
    unit_field = f"{field}.properties.unit.{name}"
    unit = None if symbol is None else parse_unit(symbol, field=unit_field, dimension=dimension)
    if value is None:
        return None
    if unit is None:
        raise InvalidField(field=unit_field, value=None, expected=f"the unit of {name} {value!r}")
    return to_integer(value, unit, scale=scale, rounding=rounding, field=f"{field}.{name}")


def _sampling_rate(value: str | None, symbol: str | None, *, field: str) -> int | None:
    rate = _amount(
        "samplingRate",
        value,
        symbol,
        dimension=Dimension.FREQUENCY,
        scale=Scale.MILLI,
        field=field,
        rounding="down",
    )
    if rate == 0:
        raise InvalidField(field=f"{field}.samplingRate", value=value, expected="at least 0.001 Hz")
    return rate


def parse_max_consumers(value: str | None, *, field: str) -> int | None:
    """How many contracts may share a sensor, as a source writes it; None where it says nothing.

    Raises:
        InvalidField: no whole number from 1 to 10000.
    """
    if value is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,3}|10000", value, re.ASCII):
        raise InvalidField(field=field, value=value, expected="a whole number from 1 to 10000, as a string")
    return int(value)
