"""One JSON text for one value, so that both ends of a signature hash the same bytes (JCS, RFC 8785)."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isfinite
from typing import Any

import orjson

from crds.errors import InvalidField

MAX_DEPTH = 64


def canonical(value: Any) -> bytes:
    """The canonical form of what a JSON parser returned.

    Raises:
        InvalidField: a number beyond all doubles, text with lone surrogates, or nesting that is too deep.
    """
    return "".join(_parts(value, depth=0)).encode()


def _parts(value: Any, *, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise InvalidField(field="(body)", value=value, expected=f"at most {MAX_DEPTH} levels")
    match value:
        case dict():
            yield "{"
            for index, (key, each) in enumerate(sorted(value.items(), key=_utf_16)):
                yield f"{',' if index else ''}{_text(key)}:"
                yield from _parts(each, depth=depth + 1)
            yield "}"
        case list() | tuple():
            yield "["
            for index, each in enumerate(value):
                yield "," if index else ""
                yield from _parts(each, depth=depth + 1)
            yield "]"
        case str():
            yield _text(value)
        case bool() | None:
            yield orjson.dumps(value).decode()
        case int() | float():
            yield _number(value)
        case _:
            raise InvalidField(field="(body)", value=value, expected="JSON")


def _utf_16(item: tuple[str, Any]) -> bytes:
    return item[0].encode("utf-16-be", "surrogatepass")


def _text(value: str) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise InvalidField(field="(body)", value=value, expected="text in Unicode") from error


def _number(value: float) -> str:
    """As ECMAScript writes a double: digits up to 10^21 and down to 10^-6, exponents without padding beyond."""
    try:
        double = float(value)
    except OverflowError:
        double = inf
    if not isfinite(double):
        raise InvalidField(field="(body)", value=value, expected="a number that a double holds")
    if double.is_integer() and abs(double) < 1e21:
        return _integer(double)
    mantissa, _, exponent = repr(double).partition("e")
    if not exponent:
        return mantissa
    power = int(exponent)
    if -7 < power < 0:
        sign, digits = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
        return f"{sign}0.{'0' * (-power - 1)}{digits.replace('.', '')}"
    return f"{mantissa}e{power:+d}"


def _integer(value: float) -> str:
    """The shortest digits that mean the double, filled with zeros: not all digits of its exact value."""
    mantissa, _, exponent = repr(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    filled = whole + fraction.ljust(int(exponent), "0") if exponent else whole
    return "0" if filled == "-0" else filled
