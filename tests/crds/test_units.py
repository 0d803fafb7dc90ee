"""Units: exact, strict, and in the direction that promises no more than was declared."""

import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.errors import InvalidField
from crds.models.base import MAX_COUNT
from crds.units import Dimension, Rounding, Scale, convert, parse_unit, to_integer

SYMBOLS = re.split(
    r"\s+",
    """s ms µs us ns min h Hz mHz kHz MHz W mW µW uW kW °C degC °F degF K mK % %RH ppm ppb 1 class Pa hPa kPa mbar bar
    psi m/s² m/s^2 gauss mG µT mT T dps °/s rad/s lx lux V mV A mA dB dBA m mm cm km L mL m/s km/h mph kn µg/m³
    ug/m3 rpm Ω ohm kΩ N ° deg rad dBm pH J Wh S/cm W/m² m³/h L/min mmHg g mg kg""",
)


def integer(value: str, symbol: str, *, rounding: Rounding = "up", scale: Scale = Scale.MICRO) -> int:
    return to_integer(value, parse_unit(symbol, field="unit"), scale=scale, rounding=rounding, field="amount")


@pytest.mark.parametrize("symbol", ["", *SYMBOLS])
def test_what_sensor_people_write_is_understood(symbol: str) -> None:
    assert parse_unit(symbol, field="unit").scale > 0


@pytest.mark.parametrize(
    ("value", "symbol", "parts"),
    [
        ("16", "ms", 16_000),
        ("16.000", "ms", 16_000),
        ("16.0004", "ms", 16_001),
        ("0.016", "s", 16_000),
        ("16000", "µs", 16_000),
        ("16000", "μs", 16_000),
        ("16000000", "ns", 16_000),
        ("1.6e1", "ms", 16_000),
        ("0.06", "mW", 60),
        ("0.1", "°C", 100_000),
        ("0.9", "°F", 500_000),
        ("0.5", "%", 5_000),
        ("0.1", "hPa", 10_000_000),
        ("5", "µg/m³", 5),
        ("1.5", "mG", 150),
        ("0", "s", 0),
        ("9007199254.740991", "s", MAX_COUNT),
    ],
)
def test_amounts_are_exact_and_round_up(value: str, symbol: str, parts: int) -> None:
    assert integer(value, symbol) == parts


@pytest.mark.parametrize(
    ("value", "symbol", "millihertz"),
    [
        ("1", "Hz", 1_000),
        ("0.0019", "Hz", 1),
        ("6.66", "kHz", 6_660_000),
        ("90", "rpm", 1_500),
        ("100", "1/min", 1_666),
    ],
)
def test_rates_round_down(value: str, symbol: str, millihertz: int) -> None:
    assert integer(value, symbol, rounding="down", scale=Scale.MILLI) == millihertz


@pytest.mark.parametrize(
    "value",
    [
        "",
        " 1",
        "1 ",
        "1,5",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "-1",
        "-0.1",
        "0x10",
        "1_000",
        "3/4",
        "1e999",
        "٣",
        "1\n",
        "9" * 65,
    ],
)
def test_what_is_no_amount_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidField) as refused:
        integer(value, "ms")
    assert refused.value.field == "amount"


@pytest.mark.parametrize(("value", "symbol"), [("9007199254.740992", "s"), ("1e30", "ms"), ("1e99", "h")])
def test_absurd_numbers_are_refused(value: str, symbol: str) -> None:
    with pytest.raises(InvalidField, match="expected at most"):
        integer(value, symbol)


@pytest.mark.parametrize(
    ("symbol", "hint"), [("hz", "Hz"), ("Ms", "ms"), ("celsius", "°C"), ("C", "°C"), ("milliwatt", "mW"), ("mw", "mW")]
)
def test_an_unknown_unit_is_refused_with_what_is_close(symbol: str, hint: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse_unit(symbol, field="properties.unit.latency")
    assert refused.value.field == "properties.unit.latency"
    assert hint in refused.value.expected


def test_a_unit_of_another_dimension_is_refused() -> None:
    with pytest.raises(InvalidField, match="a unit of time, not of frequency"):
        parse_unit("Hz", field="unit", dimension=Dimension.TIME)


@pytest.mark.parametrize("symbol", ["g", "mg"])
def test_g_is_an_acceleration_for_what_accelerates_and_a_mass_else(symbol: str) -> None:
    assert parse_unit(symbol, field="unit", sensor_type="Accelerometer").dimension is Dimension.ACCELERATION
    assert parse_unit(symbol, field="unit", sensor_type="Weight").dimension is Dimension.MASS


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        ("0", "°C", "K", "273.15"),
        ("100", "°C", "°F", "212"),
        ("-40", "°F", "°C", "-40"),
        ("1013.25", "hPa", "atm", "1"),
        ("36", "km/h", "m/s", "10"),
        ("50", "%", "1", "0.5"),
        ("1", "1", "ppm", "1000000"),
    ],
)
def test_readings_convert_with_offsets(value: str, source: str, target: str, expected: str) -> None:
    units = parse_unit(source, field="source"), parse_unit(target, field="target")
    assert convert(Decimal(value), *units) == Decimal(expected)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_readings_that_are_not_finite_are_refused(value: str) -> None:
    kelvin = parse_unit("K", field="unit")
    with pytest.raises(InvalidField, match="a finite number"):
        convert(Decimal(value), kelvin, kelvin)


def test_readings_do_not_change_their_dimension() -> None:
    with pytest.raises(InvalidField, match="a pressure, not a temperature"):
        convert(Decimal(1), parse_unit("K", field="unit"), parse_unit("hPa", field="unit"))


@given(
    value=st.decimals(min_value=0, max_value=10**6, places=12),
    symbol=st.sampled_from(SYMBOLS),
    rounding=st.sampled_from(["up", "down"]),
)
def test_rounding_is_less_than_one_part_and_in_its_direction(value: Decimal, symbol: str, rounding: Rounding) -> None:
    unit = parse_unit(symbol, field="unit")
    exact = Fraction(value) * unit.scale * Scale.MICRO
    if exact > MAX_COUNT:
        return
    error = to_integer(f"{value:f}", unit, scale=Scale.MICRO, rounding=rounding, field="amount") - exact
    assert 0 <= error < 1 if rounding == "up" else -1 < error <= 0


@given(value=st.decimals(min_value=-(10**6), max_value=10**6, places=6), symbols=st.permutations(SYMBOLS))
def test_a_reading_comes_back_from_any_unit_of_its_dimension(value: Decimal, symbols: list[str]) -> None:
    units = [parse_unit(symbol, field="unit") for symbol in symbols]
    source = units[0]
    for target in units:
        if target.dimension is source.dimension:
            back = convert(convert(value, source, target), target, source)
            assert abs(back - value) <= Decimal("1e-15")


@given(symbol=st.text(max_size=20), value=st.text(max_size=70))
def test_arbitrary_text_is_understood_or_refused(symbol: str, value: str) -> None:
    try:
        unit = parse_unit(symbol, field="unit")
    except InvalidField:
        unit = parse_unit("ms", field="unit")
    try:
        amount = to_integer(value, unit, scale=Scale.MICRO, rounding="up", field="amount")
    except InvalidField:
        return
    assert 0 <= amount <= MAX_COUNT
