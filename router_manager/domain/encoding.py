"""Request bodies: JSON array, NDJSON and InfluxDB line protocol.

JSON payloads go through byte for byte. What an encoding cannot carry is handed back with the reason, never guessed.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_never

import orjson

from crds.models.dataroute import ResolvedSource
from crds.models.delivery import Encoding
from router_manager.domain.payload import NOT_JSON, Record

CONTENT_TYPES: Mapping[Encoding, str] = {
    "JSONArray": "application/json",
    "NDJSON": "application/x-ndjson",
    "InfluxLine": "text/plain; charset=utf-8",
}

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A request body.

    Attributes:
        body: bytes to send.
        wrapped: records whose payload is not JSON and that went as base64 in an object of ours.
        unencodable: records that the encoding cannot carry, with the reason; they are not in the body.
    """

    body: bytes
    wrapped: int
    unencodable: tuple[tuple[Record, str], ...] = ()


def encode(
    records: Sequence[Record], *, encoding: Encoding, envelope: bool, sources: Mapping[str, ResolvedSource]
) -> Encoded:
    """Write records in the target's encoding.

    Args:
        records: in the order of delivery.
        encoding: of the target.
        envelope: wrap each reading with where it comes from (JSON encodings only).
        sources: by topic.
    """
    match encoding:
        case "JSONArray":
            parts, wrapped = _json(records, envelope=envelope, sources=sources)
            return Encoded(body=b"[" + b",".join(parts) + b"]", wrapped=wrapped)
        case "NDJSON":
            parts, wrapped = _json(records, envelope=envelope, sources=sources)
            # A line break in valid JSON is white space between tokens: inside strings it is escaped.
            lines = [
                part.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in part or b"\r" in part else part
                for part in parts
            ]
            return Encoded(body=b"\n".join(lines) + b"\n", wrapped=wrapped)
        case "InfluxLine":
            return _influx(records, sources)
        case _:
            assert_never(encoding)


def rfc3339(ns: int) -> str:
    """UTC with nanoseconds: 2026-11-21T10:00:00.000000001Z."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _json(
    records: Sequence[Record], *, envelope: bool, sources: Mapping[str, ResolvedSource]
) -> tuple[list[bytes], int]:
    strangers = [record for record in records if record.value is NOT_JSON]
    parts = [_wrap(record) if record.value is NOT_JSON else record.payload for record in records]
    if envelope:
        parts = [_envelope(record, part, sources[record.topic]) for record, part in zip(records, parts, strict=True)]
    return parts, len(strangers)


def _envelope(record: Record, reading: bytes, source: ResolvedSource) -> bytes:
    return orjson.dumps(
        {
            "flavor": source.flavor,
            "device": source.device,
            "topic": record.topic,
            "ingestedAt": rfc3339(record.ingested_ns),
            "reading": orjson.Fragment(reading),
        }
    )


def _wrap(record: Record) -> bytes:
    return orjson.dumps(
        {
            "topic": record.topic,
            "ingestedAt": rfc3339(record.ingested_ns),
            "payloadBase64": b64encode(record.payload).decode(),
        }
    )


def _influx(records: Sequence[Record], sources: Mapping[str, ResolvedSource]) -> Encoded:
    lines: list[str] = []
    unencodable: list[tuple[Record, str]] = []
    heads: dict[str, str] = {}
    for record in records:
        head = heads.get(record.topic)
        if head is None:
            head = heads[record.topic] = _head(sources[record.topic])
        fields = ",".join(f"{_escaped(key, _KEY)}={text}" for key, text in _fields(record.value))
        if fields:
            lines.append(f"{head} {fields} {_timestamp_ns(record)}\n")
        else:
            reason = "not JSON" if record.value is NOT_JSON else "no number, text or truth value to make a field of"
            unencodable.append((record, f"InfluxLine: {reason}"))
    return Encoded(body="".join(lines).encode(), wrapped=0, unencodable=tuple(unencodable))


_MEASUREMENT = str.maketrans({",": "\\,", " ": "\\ ", "\n": "\\n", "\r": "\\r"})
_KEY = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ ", "\n": "\\n", "\r": "\\r"})
_STRING = str.maketrans({'"': '\\"', "\\": "\\\\"})


def _escaped(text: str, table: Mapping[int, str]) -> str:
    # A backslash at the end would escape the separator that follows; the protocol has no way to write one.
    return text.rstrip("\\").translate(table) or "_"


def _head(source: ResolvedSource) -> str:
    """Measurement and tags; tags sorted by key, as InfluxDB asks for speed, and absent when empty."""
    tags = {"device": source.device, "provider": source.provider, "sensor": source.sensor, "unit": source.unit}
    written = "".join(f",{key}={_escaped(text, _KEY)}" for key, text in tags.items() if text)
    # A line that starts with # is a comment.
    return _escaped((source.model or source.sensor).lstrip("#"), _MEASUREMENT) + written


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
        case str():
            return f'"{value.translate(_STRING)}"'
        case _:
            return None


def _timestamp_ns(record: Record) -> int:
    """The reading's own `sentAt` (RFC 3339 or epoch in s, ms, us or ns, told by its size), else the time of arrival."""
    sent = record.value.get("sentAt") if isinstance(record.value, dict) else None
    match sent:
        case bool():
            pass
        case int() | float() if sent > 0:
            return _epoch_ns(sent)
        case str():
            try:
                moment = datetime.fromisoformat(sent)
            except ValueError:
                return record.ingested_ns
            if moment.tzinfo is not None:
                return _exact_ns(moment)
        case _:
            pass
    return record.ingested_ns


def _epoch_ns(number: float) -> int:
    """Seconds have ten digits until 2286, and every unit is a thousand of the next."""
    for limit, factor in ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000)):
        if number < limit:
            return int(number * factor)
    return int(number) if number < 2**63 else 2**63 - 1


def _exact_ns(moment: datetime) -> int:
    delta = moment - datetime.fromtimestamp(0, UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1_000
