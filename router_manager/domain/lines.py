"""InfluxDB line protocol: one reading, one line.

Source: InfluxData, "Line protocol reference"; what it cannot carry is handed back with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from crds.models.dataroute import ResolvedSource
from crds.models.shaping import LineProtocol, LineTimestamp
from router_manager.domain.moments import moment_ns, text_ns
from router_manager.domain.payload import NOT_JSON, NUMBERS, Pointer, Record, parse_pointer, value_at
from router_manager.domain.shaping import Unencodable, decimal_text

_INT64 = range(-(2**63), 2**63)
_MEASUREMENT = str.maketrans({",": "\\,", " ": "\\ ", "\n": "\\n", "\r": "\\r"})
_KEY = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ ", "\n": "\\n", "\r": "\\r"})
_STRING = str.maketrans({'"': '\\"', "\\": "\\\\"})
_NANOSECONDS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


class LineWriter:
    """Writes the readings of one source."""

    def __init__(self, line: LineProtocol, source: ResolvedSource) -> None:
        self._head = _head(line, source)
        self._timestamp = line.timestamp
        self._pointer: Pointer = parse_pointer(line.timestamp.field or "") if line.timestamp else ()

    def write(self, record: Record, value: Any) -> bytes | Unencodable:
        """One line with its end.

        Args:
            record: for its time.
            value: what the fields are made of: the payload's, or what a shape made of it.
        """
        fields = ",".join([f"{_escaped(key, _KEY)}={text}" for key, text in _fields(value)])
        if not fields:
            reason = "not JSON" if value is NOT_JSON else "no number, text or truth value to make a field of"
            return Unencodable(f"InfluxLine: {reason}")
        at_ns = _default_ns(record) if self._timestamp is None else self._at_ns(record, self._timestamp)
        if isinstance(at_ns, Unencodable):
            return at_ns
        return f"{self._head} {fields} {at_ns}\n".encode()

    def _at_ns(self, record: Record, timestamp: LineTimestamp) -> int | Unencodable:
        if timestamp.source == "Arrival" or timestamp.unit is None:
            return record.ingested_ns
        at_ns = _moment_ns(value_at(record.value, self._pointer), timestamp.unit)
        if at_ns is None:
            return Unencodable(f"InfluxLine: no time in {timestamp.unit} at {timestamp.field}")
        return at_ns


def _moment_ns(value: Any, unit: str) -> int | None:
    if unit == "RFC3339":
        return text_ns(value) if isinstance(value, str) else None
    if type(value) not in NUMBERS:
        return None
    at_ns = int(Decimal(repr(value)) * _NANOSECONDS[unit])
    return at_ns if at_ns in _INT64 else None


def _escaped(text: str, table: Mapping[int, str]) -> str:
    # A backslash at the end would escape the separator that follows; the protocol has no way to write one.
    return text.rstrip("\\").translate(table) or "_"


def _head(line: LineProtocol, source: ResolvedSource) -> str:
    """Measurement and tags; tags sorted by key, as InfluxDB asks for speed, and absent when empty."""
    tags = {tag: getattr(source, tag) for tag in sorted(line.tags)}
    written = "".join(f",{key}={_escaped(text, _KEY)}" for key, text in tags.items() if text)
    measurement = line.measurement or source.model or source.sensor
    # A line that starts with # is a comment.
    return _escaped(measurement.lstrip("#"), _MEASUREMENT) + written


def _fields(value: Any) -> Iterable[tuple[str, str]]:
    """Numbers, truth values and texts of the object and of its direct members, which become `member_field`."""
    if not isinstance(value, dict):
        text = _field(value)
        return [("value", text)] if text is not None else []
    found: dict[str, str] = {}
    for key, member in value.items():
        inner = {f"{key}_{name}": each for name, each in member.items()} if isinstance(member, dict) else {key: member}
        for name, each in inner.items():
            text = _field(each)
            if text is not None:
                found.setdefault(name, text)
    return found.items()


def _field(value: Any) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            # InfluxDB types a field by its first point: with integers as integers, 20 after 20.5 would be refused.
            return str(value) if value in _INT64 else repr(float(value))
        case float():
            return repr(value) if math.isfinite(value) else None
        case Decimal():
            return decimal_text(value)
        case str():
            return f'"{value.translate(_STRING)}"'
        case _:
            return None


def _default_ns(record: Record) -> int:
    """The reading's own `sentAt`, else the time of arrival."""
    at_ns = moment_ns(record.value.get("sentAt")) if isinstance(record.value, dict) else None
    return record.ingested_ns if at_ns is None else at_ns
