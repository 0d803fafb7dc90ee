"""Filters on sensors: what a list request asks, and what a claim may leave to the provider to filter.

`[range][min]` and `[range][max]` are inclusive as in FLUIDOS; because a sensor of 16.000 ms is not faster than 16 ms
there are `[range][lessThan]` and `[range][greaterThan]` too. All filters must hold; case does not count in texts.

A number is in ms (latency), Hz (samplingRate), mW (consumption) or the sensor's own unit of measurement (accuracy),
unless it carries a unit of its own: `16ms`, `0.5 kHz`. Limits are rounded as declared numbers are, so that equals stay
equal. A sensor that does not declare a number satisfies no filter on it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

from crds.errors import InvalidField
from crds.models.leafdevice import Measurement, Sensor
from crds.models.sensorclaim import Bound, LatencyBasis, Limits, SensorNeed
from crds.models.trust import TIERS, Integrity, Tier
from crds.typedata import FlavorView
from crds.units import Dimension, Rounding, Scale, Unit, parse_unit, to_integer
from edge_resource_manager.domain.filters import DEFAULT_LIMIT, Filter, Pairs, parse_filters

# A client generated from REAR's OpenAPI sends `sensor_type=v`: an object in a query is exploded by default.
_ALIASES = {
    "sensor_type": "sensorType",
    "sensor_model": "model",
    "sensor_manufacturer": "manufacturer",
    "sampling_rate": "samplingRate",
}
_AMOUNT = re.compile(r"(?P<number>[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)\s?(?P<unit>\S*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Interval:
    """Integers from `lower` to `upper`, both included; None where there is no limit."""

    lower: int | None = None
    upper: int | None = None

    @classmethod
    def of(cls, operator: str, value: int) -> Interval:
        """What an operator allows."""
        match operator:
            case "match":
                return cls(value, value)
            case "min":
                return cls(value, None)
            case "max":
                return cls(None, value)
            case "greaterThan":
                return cls(value + 1, None)
            case _:
                return cls(None, value - 1)

    def __contains__(self, value: int | None) -> bool:
        return (
            value is not None
            and (self.lower is None or value >= self.lower)
            and (self.upper is None or value <= self.upper)
        )


@dataclass(frozen=True, slots=True)
class _Number:
    """A field that is compared as a number."""

    unit: str
    dimension: Dimension
    scale: Scale
    rounding: Rounding
    read: Callable[[FlavorView], int | None]


_NUMBERS: dict[str, _Number] = {
    "latency": _Number("ms", Dimension.TIME, Scale.MICRO, "up", lambda view: view.sensor.latency_microseconds),
    "observedLatency": _Number(
        "ms", Dimension.TIME, Scale.MICRO, "up", lambda view: view.observed_latency_microseconds
    ),
    "samplingRate": _Number(
        "Hz", Dimension.FREQUENCY, Scale.MILLI, "down", lambda view: view.sensor.sampling_rate_millihertz
    ),
    "consumption": _Number("mW", Dimension.POWER, Scale.MICRO, "up", lambda view: view.sensor.consumption_microwatts),
}

_TEXTS: dict[str, Callable[[FlavorView], Iterable[str]]] = {
    "sensorType": lambda view: (measurement.type for measurement in view.sensor.measurements),
    "category": lambda view: (view.sensor.category,),
    "model": lambda view: (view.sensor.model,),
    "manufacturer": lambda view: (view.sensor.manufacturer,),
    "market": lambda view: (view.sensor.market or "",),
    "uid": lambda view: (view.sensor.uid,),
    "board": lambda view: (view.board.name,),
    "mcu": lambda view: (view.board.mcu,),
    "mcuFamily": lambda view: (view.board.mcu_family,),
    "node": lambda view: (view.node,),
    "integrity": lambda view: (view.sensor.integrity,),
}
SENSOR_FIELDS = (*_TEXTS, "unit", *_NUMBERS, "accuracy", "trustTier")


@dataclass(frozen=True, slots=True)
class _AccuracyLimit:
    """A limit whose unit may be that of the sensor, so that it is a number only when a sensor is looked at."""

    name: str
    operator: str
    number: str
    unit: str

    def holds(self, measurement: Measurement) -> bool:
        if measurement.accuracy_microunits is None:
            return False
        own = parse_unit(measurement.unit, field=self.name, sensor_type=measurement.type)
        unit = own
        if self.unit:
            unit = parse_unit(self.unit, field=self.name, sensor_type=measurement.type)
        if unit.dimension is not own.dimension:
            return False
        try:
            limit = to_integer(self.number, unit, scale=Scale.MICRO, rounding="up", field=self.name)
        except InvalidField:
            return False  # so large in this sensor's unit that no integer holds it; checked in ratio units before
        return measurement.accuracy_microunits in Interval.of(self.operator, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorQuery:
    """A list request for sensors, understood."""

    texts: tuple[tuple[str, str], ...] = ()
    units: tuple[str, ...] = ()
    numbers: tuple[tuple[str, Interval], ...] = ()
    accuracies: tuple[_AccuracyLimit, ...] = ()
    tiers: tuple[Interval, ...] = ()
    limit: int = DEFAULT_LIMIT

    def matches(self, view: FlavorView) -> bool:
        """Whether a flavor satisfies every filter."""
        return (
            all(any(folded(has) == asked for has in _TEXTS[name](view)) for name, asked in self.texts)
            and all(any(measures_in(unit, has) for has in view.sensor.measurements) for unit in self.units)
            and all(_NUMBERS[name].read(view) in interval for name, interval in self.numbers)
            and all(self._accurate(limit, view.sensor) for limit in self.accuracies)
            and all(TIERS.index(view.trust.tier if view.trust else "None") in tiers for tiers in self.tiers)
        )

    def _accurate(self, limit: _AccuracyLimit, sensor: Sensor) -> bool:
        """By each sensor type that was asked for: a humidity's accuracy says nothing about a temperature."""
        asked = {text for name, text in self.texts if name == "sensorType"}
        about = [measurement for measurement in sensor.measurements if folded(measurement.type) in asked]
        return bool(about) and all(limit.holds(measurement) for measurement in about)


def parse_query(pairs: Pairs) -> SensorQuery:
    """Read the query of `GET /flavors/sensors`.

    Args:
        pairs: decoded keys and values in their order; a key may come more than once.

    Raises:
        InvalidField: an unknown field, operator or unit, a number that is none, or a limit on accuracy without a
            `sensorType` to say whose.
    """
    texts: list[tuple[str, str]] = []
    units: list[str] = []
    numbers: list[tuple[str, Interval]] = []
    accuracies: list[_AccuracyLimit] = []
    tiers: list[Interval] = []
    filters, limit = parse_filters(pairs, SENSOR_FIELDS, aliases=_ALIASES)
    for asked in filters:
        if asked.field in _TEXTS:
            texts.append((asked.field, folded(asked.text())))
        elif asked.field == "unit":
            parse_unit(asked.text(), field=asked.name)
            units.append(asked.value)
        elif asked.field == "accuracy":
            accuracies.append(_accuracy(asked))
        elif asked.field == "trustTier":
            tiers.append(_tiers(asked))
        else:
            numbers.append((asked.field, _interval(asked, _NUMBERS[asked.field])))
    if accuracies and not any(name == "sensorType" for name, _ in texts):
        raise InvalidField(
            field=accuracies[0].name, value=accuracies[0].number, expected="a filter[sensorType][match] beside it"
        )
    return SensorQuery(
        texts=tuple(texts),
        units=tuple(units),
        numbers=tuple(numbers),
        accuracies=tuple(accuracies),
        tiers=tuple(tiers),
        limit=limit,
    )


def to_query(
    *,
    need: SensorNeed | None = None,
    limits: Limits | None = None,
    minimum_tier: Tier = "None",
    integrity: Integrity = "None",
    latency_basis: LatencyBasis = "Declared",
) -> list[tuple[str, str]]:
    """What a claim can leave to the provider: never narrower than the claim.

    A limit on accuracy stays with the consumer: it counts millionths of a base unit that the wire has no symbol for.

    Returns:
        Keys and values for the query string, not yet percent-encoded.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in (need.dump() if need else {}).items():
        pairs.append((f"filter[{'sensorType' if name == 'type' else name}][match]", value))
    if limits:
        basis = "latency" if latency_basis == "Declared" else "observedLatency"
        pairs += _limit_pairs(basis, limits.latency_microseconds, "us")
        pairs += _limit_pairs("samplingRate", limits.sampling_rate_millihertz, "mHz")
        pairs += _limit_pairs("consumption", limits.consumption_microwatts, "uW")
    if minimum_tier != "None":
        pairs.append(("filter[trustTier][range][min]", minimum_tier))
    if integrity != "None":
        pairs.append(("filter[integrity][match]", integrity))
    return pairs


def _limit_pairs(name: str, bound: Bound | None, unit: str) -> list[tuple[str, str]]:
    sides = bound and {
        "lessThan": bound.less_than,
        "max": bound.at_most,
        "greaterThan": bound.greater_than,
        "min": bound.at_least,
    }
    return [
        (f"filter[{name}][range][{side}]", f"{value}{unit}")
        for side, value in (sides or {}).items()
        if value is not None
    ]


def _amount(asked: Filter) -> tuple[str, str]:
    parts = _AMOUNT.fullmatch(asked.value.strip())
    if parts is None:
        raise InvalidField(field=asked.name, value=asked.value, expected="a number, with a unit if not the usual one")
    return parts["number"], parts["unit"]


def _interval(asked: Filter, number: _Number) -> Interval:
    amount, symbol = _amount(asked)
    unit = parse_unit(symbol or number.unit, field=asked.name, dimension=number.dimension)
    return Interval.of(
        asked.operator, to_integer(amount, unit, scale=number.scale, rounding=number.rounding, field=asked.name)
    )


def _tiers(asked: Filter) -> Interval:
    ranks = {tier.casefold(): rank for rank, tier in enumerate(TIERS)}
    rank = ranks.get(asked.value.casefold())
    if rank is None:
        raise InvalidField(field=asked.name, value=asked.value, expected=f"one of {', '.join(TIERS)}")
    return Interval.of(asked.operator, rank)


def _accuracy(asked: Filter) -> _AccuracyLimit:
    amount, symbol = _amount(asked)
    unit = parse_unit(symbol, field=asked.name) if symbol else _NO_UNIT
    to_integer(amount, unit, scale=Scale.MICRO, rounding="up", field=asked.name)
    return _AccuracyLimit(asked.name, asked.operator, amount, symbol)


_NO_UNIT = Unit("", Dimension.RATIO, Fraction(1))


def measures_in(symbol: str, measurement: Measurement) -> bool:
    """By meaning, not by spelling: degC is °C, but mW is not MW."""
    asked = parse_unit(symbol, field="unit", sensor_type=measurement.type)
    has = parse_unit(measurement.unit, field="unit", sensor_type=measurement.type)
    return (asked.dimension, asked.scale, asked.offset) == (has.dimension, has.scale, has.offset)


def folded(text: str) -> str:
    """For comparison without regard to case and to compatible characters."""
    return unicodedata.normalize("NFKC", text).casefold()
