"""A sensor's numbers as the fork writes them: strings with units, where a source declared integers alone."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import TypeVar

from crds.models.leafdevice import Measurement, SensorTraits
from crds.units import parse_unit

_DIGITS = Context(prec=28, rounding=ROUND_FLOOR)

T = TypeVar("T", bound=SensorTraits)


def with_declared(sensor: T) -> T:
    """The sensor with strings for all its numbers; those that its source declared stay as they are.

    Raises:
        InvalidField: a measurement's unit is unknown.
    """
    said, kinds = sensor.declared, sensor.measurements
    amounts = {
        "latency": (sensor.latency_microseconds, "us"),
        "sampling_rate": (sensor.sampling_rate_millihertz, "mHz"),
        "consumption": (sensor.consumption_microwatts, "uW"),
    }
    made: dict[str, object] = {}
    for name, (number, unit) in amounts.items():
        if number is not None and getattr(said, name) is None:
            made |= {name: str(number), f"{name}_unit": unit}
    if said.measurement_units is None and any(kind.unit for kind in kinds):
        made["measurement_units"] = tuple(kind.unit for kind in kinds)
    if said.accuracy is None and any(kind.accuracy_microunits is not None for kind in kinds):
        made["accuracy"] = tuple(_accuracy(kind) for kind in kinds)
    return sensor.model_copy(update={"declared": said.model_copy(update=made)})


def _accuracy(kind: Measurement) -> str:
    """In the measurement's own unit. Cut off, never rounded up: readers round up to a millionth of the base unit."""
    if kind.accuracy_microunits is None:
        return ""
    scale = parse_unit(kind.unit, field="measurements.unit", sensor_type=kind.type).scale
    amount = Fraction(kind.accuracy_microunits, 1_000_000) / scale
    return f"{_DIGITS.divide(Decimal(amount.numerator), Decimal(amount.denominator)):f}"
