"""Units of measurement at the border: symbols that sensor people write, exact integers inside.

Everything is a Fraction: no float ever decides whether 16.0004 ms is less than 16 ms. A symbol that is not in the table
is refused; nothing is guessed from its spelling.
Sources: SI Brochure (9th edition), RFC 8428 (SenML units), the fork's sample devices.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from difflib import get_close_matches
from enum import IntEnum, StrEnum
from fractions import Fraction
from math import lcm
from typing import Literal

from crds.errors import InvalidField
from crds.models.base import MAX_COUNT


class Dimension(StrEnum):
    """What a unit measures; the value is the base unit that integers count millionths (or thousandths) of."""

    TIME = "s"
    FREQUENCY = "Hz"
    POWER = "W"
    ENERGY = "J"
    TEMPERATURE = "K"
    RATIO = "1"
    CATEGORY = "class"
    PRESSURE = "Pa"
    ACCELERATION = "m/s²"
    MASS = "kg"
    # Millionths of T and kg/m³ are coarser than what magnetometers and dust sensors tell apart.
    MAGNETIC_FIELD = "mT"
    CONCENTRATION = "g/m³"
    ANGLE = "rad"
    ANGULAR_VELOCITY = "rad/s"
    ILLUMINANCE = "lx"
    IRRADIANCE = "W/m²"
    VOLTAGE = "V"
    CURRENT = "A"
    RESISTANCE = "Ω"
    CONDUCTIVITY = "S/m"
    LEVEL = "dB"
    SIGNAL = "dBm"
    ACIDITY = "pH"
    LENGTH = "m"
    AREA = "m²"
    VOLUME = "m³"
    FLOW = "m³/s"
    SPEED = "m/s"
    FORCE = "N"


class Scale(IntEnum):
    """How many parts of the base unit an integer counts."""

    MILLI = 1_000
    MICRO = 1_000_000


@dataclass(frozen=True, slots=True)
class Unit:
    """One symbol: base = value * scale + offset."""

    symbol: str
    dimension: Dimension
    scale: Fraction
    offset: Fraction = Fraction(0)


Rounding = Literal["up", "down"]
"""`up` for what should be small (latency, consumption, accuracy), `down` for rates: no promise beyond the declared."""

# Long enough that no number of at most 64 digits comes near a rounding border because of it.
_PI = Fraction("3.1415926535897932384626433832795028841971693993751058209749445923078164062862089986280348253421170679")
_G = Fraction("9.80665")  # standard gravity
_PREFIXES = {"n": -9, "u": -6, "μ": -6, "m": -3, "c": -2, "": 0, "h": 2, "k": 3, "M": 6, "G": 9}
_EXACT = Context(prec=400)
"""A double has at most 309 digits before the point, and a conversion some hundred: the sum loses nothing that shows."""
_ROUNDED = Context(prec=28)
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?", re.ASCII)
_MAX_NUMBER = 64


def _prefixed(
    symbols: str, dimension: Dimension, prefixes: str, scale: Fraction | str | int = 1
) -> Iterator[tuple[str, Unit]]:
    """`symbols` are synonyms; `prefixes` one letter each, the bare symbol always included."""
    for prefix in ("", *prefixes):
        for symbol in symbols.split():
            name = prefix + symbol
            yield name, Unit(name, dimension, Fraction(scale) * Fraction(10) ** _PREFIXES[prefix])


def _table() -> dict[str, Unit]:
    d = Dimension
    rows: list[tuple[str, Dimension, str, Fraction | str | int]] = [
        ("s", d.TIME, "numμ", 1),
        ("min", d.TIME, "", 60),
        ("h", d.TIME, "", 3600),
        ("Hz", d.FREQUENCY, "mkMG", 1),
        ("rpm", d.FREQUENCY, "", Fraction(1, 60)),
        ("1/s", d.FREQUENCY, "", 1),
        ("1/min beat/min bpm", d.FREQUENCY, "", Fraction(1, 60)),
        ("W", d.POWER, "numμkM", 1),
        ("J", d.ENERGY, "mk", 1),
        ("Wh", d.ENERGY, "mkM", 3600),
        ("K", d.TEMPERATURE, "m", 1),
        ("1", d.RATIO, "", 1),
        ("% %RH", d.RATIO, "", "0.01"),
        ("ppm", d.RATIO, "", "1e-6"),
        ("ppb", d.RATIO, "", "1e-9"),
        ("class", d.CATEGORY, "", 1),
        ("Pa", d.PRESSURE, "mhkM", 1),
        ("bar", d.PRESSURE, "m", 100_000),
        ("atm", d.PRESSURE, "", 101_325),
        ("mmHg", d.PRESSURE, "", "133.322387415"),
        ("psi", d.PRESSURE, "", Fraction("4.4482216152605") / Fraction("0.00064516")),
        ("m/s2", d.ACCELERATION, "m", 1),
        ("kg", d.MASS, "", 1),
        ("T", d.MAGNETIC_FIELD, "numμ", 1000),
        ("G gauss", d.MAGNETIC_FIELD, "umμ", "0.1"),
        ("g/m3", d.CONCENTRATION, "numμk", 1),
        ("rad", d.ANGLE, "m", 1),
        ("° deg", d.ANGLE, "", _PI / 180),
        ("rad/s", d.ANGULAR_VELOCITY, "m", 1),
        ("°/s deg/s dps", d.ANGULAR_VELOCITY, "m", _PI / 180),
        ("lx lux", d.ILLUMINANCE, "mk", 1),
        ("W/m2", d.IRRADIANCE, "umμk", 1),
        ("V", d.VOLTAGE, "umμk", 1),
        ("A", d.CURRENT, "numμ", 1),
        ("Ω ohm", d.RESISTANCE, "mkM", 1),
        ("S/m", d.CONDUCTIVITY, "mμu", 1),
        ("S/cm", d.CONDUCTIVITY, "mμu", 100),
        ("dB dBA dBC dB(A) dB(C) dBSPL", d.LEVEL, "", 1),
        ("dBm", d.SIGNAL, "", 1),
        ("pH", d.ACIDITY, "", 1),
        ("m", d.LENGTH, "numμck", 1),
        ("in", d.LENGTH, "", "0.0254"),
        ("ft", d.LENGTH, "", "0.3048"),
        ("mi", d.LENGTH, "", "1609.344"),
        ("m2", d.AREA, "", 1),
        ("m3", d.VOLUME, "", 1),
        ("L l", d.VOLUME, "mμu", "0.001"),
        ("m3/s", d.FLOW, "", 1),
        ("m3/h", d.FLOW, "", Fraction(1, 3600)),
        ("L/s l/s", d.FLOW, "m", "0.001"),
        ("L/min l/min", d.FLOW, "m", Fraction(1, 60_000)),
        ("L/h l/h", d.FLOW, "m", Fraction(1, 3_600_000)),
        ("m/s", d.SPEED, "μcmk", 1),
        ("km/h", d.SPEED, "", Fraction(10, 36)),
        ("mph", d.SPEED, "", Fraction(1_609_344, 3_600_000)),
        ("kn", d.SPEED, "", Fraction(1852, 3600)),
        ("N", d.FORCE, "mk", 1),
    ]
    units: dict[str, Unit] = {"": Unit("", Dimension.RATIO, Fraction(1))}
    for symbols, dimension, prefixes, scale in rows:
        units.update(_prefixed(symbols, dimension, prefixes, scale))
    for symbol in ("°C", "degC", "Cel"):
        units[symbol] = Unit(symbol, d.TEMPERATURE, Fraction(1), Fraction("273.15"))
    for symbol in ("°F", "degF"):
        units[symbol] = Unit(symbol, d.TEMPERATURE, Fraction(5, 9), Fraction("459.67") * 5 / 9)
    return units


_UNITS = _table()
_GRAVITIES = dict(_prefixed("g", Dimension.ACCELERATION, "mμu", _G))
_GRAMS = dict(_prefixed("g", Dimension.MASS, "mμu", "0.001"))
_ACCELERATIONS = re.compile("accel|vibration|shock|gravity", re.IGNORECASE)


def parse_unit(symbol: str, *, field: str, sensor_type: str = "", dimension: Dimension | None = None) -> Unit:
    """Look a symbol up.

    Args:
        symbol: as written; compatible characters mean the same (both micro signs, `m/s²` and `m/s^2`, `℃`).
        field: where it stands, for the error.
        sensor_type: what is measured: `g` and `mg` are accelerations for an accelerometer, else masses.
        dimension: what the unit has to measure, if that is fixed.

    Raises:
        InvalidField: an unknown symbol, or one of another dimension.
    """
    key = unicodedata.normalize("NFKC", symbol).replace("^", "")
    weights = _GRAVITIES if _ACCELERATIONS.search(sensor_type) else _GRAMS
    unit = _UNITS.get(key) or weights.get(key)
    if unit is None:
        raise InvalidField(field=field, value=symbol, expected=f"a known unit such as {_suggestions(key, dimension)}")
    if dimension is not None and unit.dimension is not dimension:
        expected = f"a unit of {_word(dimension)}, not of {_word(unit.dimension)}"
        raise InvalidField(field=field, value=symbol, expected=expected)
    return unit


def to_integer(value: str, unit: Unit, *, scale: Scale, rounding: Rounding, field: str) -> int:
    """A declared amount as an integer.

    Amounts are differences (a duration, a rate, a tolerance): an accuracy of 0.1 °C is 0.1 K, so offsets do not count.

    Returns:
        Parts of the base unit, rounded in the direction that never promises more than was declared.

    Raises:
        InvalidField: not a decimal number, negative, or more than 2^53-1 parts.
    """
    if len(value) > _MAX_NUMBER or not _NUMBER.fullmatch(value):
        raise InvalidField(field=field, value=value, expected=f"a decimal number of at most {_MAX_NUMBER} characters")
    exact = Fraction(value) * unit.scale * scale
    if exact < 0:
        raise InvalidField(field=field, value=value, expected="a number that is not negative")
    floor, rest = divmod(exact, 1)
    whole = floor + (rounding == "up" and rest > 0)
    if whole > MAX_COUNT:
        limit = Fraction(MAX_COUNT, scale) / unit.scale
        raise InvalidField(field=field, value=value, expected=f"at most {float(limit):.3g} {unit.symbol}".rstrip())
    return whole


@dataclass(frozen=True, slots=True)
class Conversion:
    """From one unit to another: (value * factor + shift) / divisor, all of them integers."""

    factor: Decimal
    shift: Decimal
    divisor: Decimal

    @classmethod
    def between(cls, source: Unit, target: Unit) -> Conversion:
        """Between units of one dimension."""
        factor, shift = source.scale / target.scale, (source.offset - target.offset) / target.scale
        divisor = lcm(factor.denominator, shift.denominator)
        return cls(Decimal(int(factor * divisor)), Decimal(int(shift * divisor)), Decimal(divisor))

    def apply(self, value: Decimal) -> Decimal:
        """A finite number converted: rounded once, to 28 significant digits."""
        return _ROUNDED.divide(_EXACT.fma(value, self.factor, self.shift), self.divisor)


def conversion_to(target: str, *, of: Iterable[str], field: str) -> Conversion:
    """From the one of several units that can be converted.

    Args:
        target: symbol of the wished unit.
        of: symbols of what there is; those that nobody knows are passed over.
        field: where the wish stands, for the error.

    Raises:
        InvalidField: the wished unit is unknown, or none of them can be converted, or several in different ways.
    """
    wished, there = _meanings(target, field=field), list(of)
    found = {
        Conversion.between(one, other)
        for symbol in there
        for one in _known(symbol)
        for other in wished
        if one.dimension is other.dimension
    }
    if len(found) == 1:
        return found.pop()
    units = ", ".join(repr(symbol) for symbol in there) or "nothing"
    expected = f"a unit that exactly one of {units} can be converted to" + ("; say which by `from`" if found else "")
    raise InvalidField(field=field, value=target, expected=expected)


def convert(value: Decimal, source: Unit, target: Unit, *, field: str = "value") -> Decimal:
    """A reading in another unit of the same dimension, offsets included; to 28 significant digits.

    Raises:
        InvalidField: not finite, or the dimensions differ.
    """
    if not value.is_finite():
        raise InvalidField(field=field, value=value, expected="a finite number")
    if source.dimension is not target.dimension:
        expected = f"a {_word(target.dimension)}, not a {_word(source.dimension)}"
        raise InvalidField(field=field, value=f"{value} {source.symbol}", expected=expected)
    return Conversion.between(source, target).apply(value)


def _meanings(symbol: str, *, field: str) -> set[Unit]:
    """`g` alone does not say whether it is a mass or an acceleration; together with another unit it does."""
    return {parse_unit(symbol, field=field, sensor_type=sensor_type) for sensor_type in ("", "acceleration")}


def _known(symbol: str) -> set[Unit]:
    try:
        return _meanings(symbol, field="unit")
    except InvalidField:
        return set()


def _suggestions(key: str, dimension: Dimension | None) -> str:
    fitting = [symbol for symbol, unit in _UNITS.items() if symbol and dimension in (None, unit.dimension)]
    same_letters = [symbol for symbol in fitting if symbol.casefold() == key.casefold()]
    usual = [symbol for symbol in ("ms", "Hz", "mW", "°C", "%", "hPa") if symbol in fitting]
    # Bounded: the symbol may be of any length, and comparing is quadratic.
    return ", ".join(same_letters or get_close_matches(key[:16], fitting, cutoff=0.7) or usual or fitting[:3])


def _word(dimension: Dimension) -> str:
    return dimension.name.lower().replace("_", " ")
