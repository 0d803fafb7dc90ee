"""What is sent instead of a payload: fields, names, units; and what cannot be sent."""

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField
from crds.models.shaping import Shape
from crds.units import convert, parse_unit
from router_manager.domain.payload import NOT_JSON
from router_manager.domain.shaping import Plan, Unencodable, compile_shape, json_bytes, shaped

SOURCE_UNITS = ["°C", "%"]


def plan(units: list[str] = SOURCE_UNITS, **wishes: Any) -> Plan:
    return compile_shape(Shape.model_validate_json(orjson.dumps(wishes)), units=units)


def sent(value: Any, **wishes: Any) -> Any:
    """The reading as a receiver parses it, numbers as they are written; or why there is none."""
    made = shaped(value, plan(**wishes))
    written = made if isinstance(made, Unencodable) else json_bytes(made)
    return written.reason if isinstance(written, Unencodable) else json.loads(written, parse_float=Decimal)


READING = {"t": 21.5, "rh": 40, "at": {"lat": 1.5, "lon": 2.5}, "raw": [{"v": 1, "w": 2}, {"v": 3}], "ok": True}


def test_kept_fields_stay_where_they_are() -> None:
    assert sent(READING, keep=["/t", "/at/lon", "/raw/0/v", "/absent"]) == {
        "t": Decimal("21.5"),
        "at": {"lon": Decimal("2.5")},
        "raw": [{"v": 1}],
    }
    assert sent(READING, keep=["/at", "/at/lon"]) == {"at": {"lat": Decimal("1.5"), "lon": Decimal("2.5")}}


def test_members_get_other_names_and_all_else_stays() -> None:
    assert sent(READING, rename=[{"field": "/t", "to": "temperature"}, {"field": "/at/lat", "to": "y"}]) == {
        "temperature": Decimal("21.5"),
        "rh": 40,
        "at": {"y": Decimal("1.5"), "lon": Decimal("2.5")},
        "raw": READING["raw"],
        "ok": True,
    }
    swapped = [{"field": "/a", "to": "b"}, {"field": "/b", "to": "a"}]
    assert sent({"a": 1, "b": 2}, rename=swapped) == {"b": 1, "a": 2}


def test_numbers_change_their_unit_exactly() -> None:
    fahrenheit = [{"field": "/t", "to": "°F"}]
    assert sent({"t": 21.5}, convert=fahrenheit) == {"t": Decimal("70.7")}
    assert sent({"t": 0.1}, convert=[{"field": "/t", "to": "K"}]) == {"t": Decimal("273.25")}
    assert sent({"t": None, "x": 1}, convert=fahrenheit) == {"t": None, "x": 1}
    assert sent({"x": 1}, convert=fahrenheit) == {"x": 1}
    nanoseconds = [{"field": "/t", "from": "ns", "to": "s"}]
    assert sent({"t": 1795255200123456789}, convert=nanoseconds) == {"t": Decimal("1795255200.123456789")}


def test_a_reading_that_is_a_number_alone_changes_its_unit_too() -> None:
    assert sent(20, convert=[{"field": "", "to": "°F"}]) == 68


def test_all_three_together_speak_of_the_payload_as_it_came() -> None:
    wishes = {
        "keep": ["/t", "/at/lat"],
        "convert": [{"field": "/t", "to": "K"}],
        "rename": [{"field": "/t", "to": "kelvin"}, {"field": "/at", "to": "place"}],
    }
    assert sent(READING, **wishes) == {"kelvin": Decimal("294.65"), "place": {"lat": Decimal("1.5")}}


@pytest.mark.parametrize(
    ("value", "wishes", "why"),
    [
        (NOT_JSON, {"keep": ["/a"]}, "not JSON"),
        ({"b": 1}, {"keep": ["/a"]}, "none of the fields"),
        (21.5, {"keep": ["/a"]}, "none of the fields"),
        ({"t": "21.5"}, {"convert": [{"field": "/t", "to": "K"}]}, "no number but a str"),
        ({"t": True}, {"convert": [{"field": "/t", "to": "K"}]}, "no number but a bool"),
        ({"t": {"v": 1}}, {"convert": [{"field": "/t", "to": "K"}]}, "no number but a dict"),
        ({"t": 1e308}, {"convert": [{"field": "/t", "to": "°F"}]}, "as large as"),
        ({"a": 1, "b": 2}, {"rename": [{"field": "/a", "to": "b"}]}, "two members would have the name 'b'"),
        ({"b": 2, "a": 1}, {"rename": [{"field": "/a", "to": "b"}]}, "two members would have the name 'b'"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_shape_is_handed_back_with_the_reason(value: Any, wishes: Any, why: str) -> None:
    assert why in sent(value, **wishes)


@pytest.mark.parametrize(
    ("wishes", "field", "value"),
    [
        ({"convert": [{"field": "/t", "to": "furlong"}]}, "shape.convert[/t].to", "furlong"),
        ({"convert": [{"field": "/t", "to": "hPa"}]}, "shape.convert[/t].to", "hPa"),
        ({"convert": [{"field": "/t", "from": "hPa", "to": "K"}]}, "shape.convert[/t].to", "K"),
        ({"keep": ["/a"], "convert": [{"field": "/t", "to": "K"}]}, "shape", "/t"),
        ({"keep": ["/a"], "rename": [{"field": "/b", "to": "c"}]}, "shape", "/b"),
        ({"keep": ["/a", "/b"], "rename": [{"field": "/b", "to": "a"}]}, "shape.rename", "a"),
    ],
    ids=str,
)
def test_a_shape_that_cannot_be_is_refused_by_name(wishes: Any, field: str, value: str) -> None:
    with pytest.raises(InvalidField) as refused:
        plan(**wishes)
    assert (refused.value.field, refused.value.value) == (field, value)


def test_of_two_units_that_fit_nobody_chooses() -> None:
    with pytest.raises(InvalidField, match="say which by `from`"):
        plan(["°C", "K"], convert=[{"field": "/t", "to": "°F"}])
    assert plan(["g"], convert=[{"field": "/a", "to": "m/s²"}]) != plan(["g"], convert=[{"field": "/a", "to": "kg"}])


def test_the_reading_itself_is_not_changed() -> None:
    before = orjson.dumps(READING)
    sent(READING, keep=["/t", "/at/lat"], convert=[{"field": "/t", "to": "K"}], rename=[{"field": "/at", "to": "x"}])
    assert orjson.dumps(READING) == before


@given(
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([("°C", "°F"), ("°F", "K"), ("hPa", "psi"), ("g", "m/s²"), ("deg", "rad"), ("ns", "h")]),
)
@settings(max_examples=200)
def test_a_converted_number_is_right_to_28_digits_and_can_be_read(value: float, units: tuple[str, str]) -> None:
    one, other = (parse_unit(unit, field="u", sensor_type="acceleration") for unit in units)
    read = sent({"t": value}, convert=[{"field": "/t", "from": units[0], "to": units[1]}])
    if isinstance(read, str):
        assert abs(value) >= 1e300
        return
    exact = (Fraction(repr(value)) * one.scale + one.offset - other.offset) / other.scale
    assert abs(Fraction(read["t"]) - exact) <= abs(exact) * Fraction(1, 10**27)
    assert read["t"] == convert(Decimal(repr(value)), one, other)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab01/~é", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0", ""]), inner, max_size=4)
    ),
    max_leaves=12,
)
POINTERS = st.lists(
    st.sampled_from(["/a", "/b", "/0", "/a/b", "/a/0", "/b/a/b", "/"]), min_size=1, max_size=4, unique=True
)


@given(JSON, POINTERS)
@settings(max_examples=200)
def test_what_is_kept_is_part_of_what_came_and_keeping_twice_changes_nothing(value: Any, keep: list[str]) -> None:
    kept = shaped(value, plan(keep=keep))
    if isinstance(kept, Unencodable):
        return
    assert is_part(kept, value)
    if not any("0" in pointer for pointer in keep):  # elements move up
        assert shaped(kept, plan(keep=keep)) == kept


def is_part(part: Any, whole: Any) -> bool:
    match part, whole:
        case dict(), dict():
            return all(key in whole and is_part(one, whole[key]) for key, one in part.items())
        case list(), list():
            rest = iter(whole)
            return all(any(is_part(one, other) for other in rest) for one in part)
        case _:
            return bool(part == whole)


@given(JSON, POINTERS, st.sampled_from(["a", "b", "c"]), st.sampled_from(["°F", "K", "1"]))
@settings(max_examples=200)
def test_any_reading_is_sent_or_handed_back(value: Any, pointers: list[str], name: str, unit: str) -> None:
    try:
        made = plan(
            rename=[{"field": pointers[0], "to": name}], convert=[{"field": one, "to": unit} for one in pointers]
        )
    except InvalidField:
        return
    result = shaped(value, made)
    if not isinstance(result, Unencodable):
        written = json_bytes(result)
        assert isinstance(written, bytes)
        orjson.loads(written)


def test_a_subtree_that_is_too_deep_to_write_is_handed_back() -> None:
    deep = orjson.loads(b'{"a":' * 1000 + b"1" + b"}" * 1000)
    assert "cannot be written" in sent({"x": 1, **deep}, keep=["/a"])
