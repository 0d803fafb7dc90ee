"""Request bodies back into readings: JSON arrays, NDJSON, InfluxDB line protocol. Pure."""

from __future__ import annotations

import re
from typing import Any

import orjson

Reading = dict[str, Any]


def readings(body: bytes, *, content_type: str) -> list[Reading]:
    """Read a body by its media type.

    Raises:
        ValueError: it is not what the media type says, or not made of objects.
    """
    match content_type:
        case "application/json":
            found = orjson.loads(body)
        case "application/x-ndjson":
            found = [orjson.loads(line) for line in body.splitlines() if line]
        case "text/plain":
            found = [line_fields(line) for line in body.decode().splitlines() if line]
        case _:
            raise ValueError(f"media type {content_type!r}")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError("expected a list of objects")
    return [each["reading"] if isinstance(each.get("reading"), dict) else each for each in found]


_LINE = re.compile(
    r"""(?P<head>(?:\\.|[^\\\ ])+)\ (?P<fields>(?:"(?:\\.|[^"\\])*"|\\.|[^"\\\ ])+)(?:\ (?P<time>-?\d+))?""", re.VERBOSE
)
_FIELD = re.compile(r"""((?:\\.|[^\\,=])+)=("(?:\\.|[^"\\])*"|[^,"]+)(?:,|$)""")


def line_fields(line: str) -> Reading:
    """The fields of one line.

    Raises:
        ValueError: it is not line protocol.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not line protocol: {line[:80]!r}")
    text, at, found = match["fields"], 0, {}
    while at < len(text):
        field = _FIELD.match(text, at)
        if field is None:
            raise ValueError(f"not a field: {text[at : at + 80]!r}")
        found[re.sub(r"\\(.)", r"\1", field[1])] = _value(field[2])
        at = field.end()
    return found


def _value(text: str) -> str | bool | float:
    if text.startswith('"'):
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if text.lower() in ("t", "true", "f", "false"):
        return text[0].lower() == "t"
    return float(text.removesuffix("i"))
