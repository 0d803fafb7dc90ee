"""What is sent of a reading instead of its payload: fields kept, their units and names changed.

A `Shape` of the specification becomes a tree once for each source, because units depend on the sensor; a reading is
then rebuilt in one walk. Arithmetic is decimal, on numbers as they were written, and rounds once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from crds.errors import InvalidField
from crds.models.shaping import Shape
from crds.units import Conversion, conversion_to
from router_manager.domain.payload import NOT_JSON, NUMBERS, Pointer, parse_pointer


class Unencodable(NamedTuple):
    """Why a record cannot be sent in the form that its target asked for."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of one place in the payload.

    Attributes:
        keeps: it is sent, with all beneath it that has no plan of its own.
        conversion: of the number that stands there.
        name: of the member, where it has a new one.
        members: plans beneath it, by member name or index.
    """

    keeps: bool
    conversion: Conversion | None
    name: str | None
    members: Mapping[str, Plan]


def compile_shape(shape: Shape, *, units: Sequence[str], field: str = "shape") -> Plan:
    """The plan for readings of one sensor.

    Args:
        shape: of the target.
        units: symbols of the sensor's units.
        field: where the shape stands, for errors.

    Raises:
        InvalidField: an unknown unit, one that the sensor's cannot be converted to, a field that is changed but not
            kept, or two fields of one name.
    """
    wishes = [_Wish(parse_pointer(pointer), pointer, keep=True) for pointer in shape.keep or ()]
    for change in shape.convert or ():
        known = units if change.source is None else [change.source]
        conversion = conversion_to(change.to, of=known, field=f"{field}.convert[{change.field}].to")
        wishes.append(_Wish(parse_pointer(change.field), change.field, conversion=conversion))
    wishes += [_Wish(parse_pointer(one.field), one.field, name=one.to) for one in shape.rename or ()]
    return _plan(wishes, keeps=shape.keep is None, field=field)


def units_of(unit: str) -> list[str]:
    """The symbols in the `unit` of a source; a sensor of several measurements has them with commas between."""
    return unit.split(",")


def shaped(value: Any, plan: Plan) -> Any | Unencodable:
    """The reading as it is sent; Decimals stand where numbers were converted.

    Args:
        value: of the record; it is not changed.
        plan: of the record's source.
    """
    if value is NOT_JSON:
        return Unencodable("shape: not JSON")
    try:
        made = _walk(value, plan)
    except _Misfit as misfit:
        return Unencodable(f"shape: {misfit}")
    return Unencodable("shape: none of the fields to keep is there") if made is _NOTHING else made


def json_bytes(value: Any) -> bytes | Unencodable:
    """A shaped reading as JSON."""
    try:
        return orjson.dumps(value, default=_fragment)
    except orjson.JSONEncodeError as error:
        # The library reads 1,024 levels and writes 254.
        return Unencodable(f"shape: cannot be written ({error})")


def decimal_text(number: Decimal) -> str:
    """A number of JSON, and of line protocol: without exponent where that is not longer than needed."""
    return f"{number:f}" if -10 <= number.adjusted() <= 20 else f"{number:e}"


class _Wish(NamedTuple):
    rest: Pointer
    text: str
    keep: bool = False
    conversion: Conversion | None = None
    name: str | None = None


class _Misfit(Exception):  # noqa: N818 - no error of the program: a reading that does not fit
    """The reading is not what the shape says it is."""


_NOTHING = object()
_TOO_LARGE = 308
"""Digits before the point that a double may not hold: a receiver would refuse the whole batch."""


def _plan(wishes: Sequence[_Wish], *, keeps: bool, field: str) -> Plan:
    here = [wish for wish in wishes if not wish.rest]
    keeps = keeps or any(wish.keep for wish in here)
    beneath: dict[str, list[_Wish]] = {}
    for wish in wishes:
        if wish.rest:
            beneath.setdefault(wish.rest[0], []).append(wish._replace(rest=wish.rest[1:]))
    members = {token: _plan(several, keeps=keeps, field=field) for token, several in beneath.items()}
    if here and not keeps and not members:
        raise InvalidField(field=field, value=here[0].text, expected="a field that is kept, or beneath one")
    names = [member.name or token for token, member in members.items()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidField(field=f"{field}.rename", value=min(twice), expected="names that differ")
    return Plan(
        keeps=keeps,
        conversion=next((wish.conversion for wish in here if wish.conversion), None),
        name=next((wish.name for wish in here if wish.name), None),
        members=members,
    )


def _walk(value: Any, plan: Plan) -> Any:
    """No deeper than the longest pointer."""
    if plan.conversion is not None and value is not None:
        if type(value) not in NUMBERS:
            # Not the value itself: it may be too deep to be written, and of any size.
            raise _Misfit(f"a unit to convert, and no number but a {type(value).__name__}")
        number = plan.conversion.apply(Decimal(repr(value)))
        if number.adjusted() >= _TOO_LARGE:
            raise _Misfit(f"no number of the wished unit is as large as {value!r}")
        return number.normalize()
    if not plan.members or not isinstance(value, dict | list):
        return value if plan.keeps else _NOTHING
    made: Any
    if isinstance(value, list):
        made = [member for token, one in enumerate(value) if (member := _member(one, str(token), plan)) is not _NOTHING]
    else:
        made = {}
        for name, member in _members(value, plan):
            if name in made:
                raise _Misfit(f"two members would have the name {name[:60]!r}")
            made[name] = member
    return made if made or plan.keeps else _NOTHING


def _members(value: Mapping[str, Any], plan: Plan) -> Iterator[tuple[str, Any]]:
    for token, one in value.items():
        member = _member(one, token, plan)
        if member is not _NOTHING:
            found = plan.members.get(token)
            yield (found and found.name) or token, member


def _member(value: Any, token: str, plan: Plan) -> Any:
    found = plan.members.get(token)
    if found is None:
        return value if plan.keeps else _NOTHING
    return _walk(value, found)


def _fragment(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(decimal_text(value))
    raise TypeError(type(value).__name__)
