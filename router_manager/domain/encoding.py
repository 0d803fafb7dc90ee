"""What is sent of each record, and request bodies: JSON array, NDJSON and InfluxDB line protocol.

JSON payloads that nobody wants shaped go through byte for byte. Everything else is written by a `Writer`, one for each
form and source: targets that want the same form of the same source share the writer, and what it wrote of a record.
What an encoding cannot carry is handed back with the reason, never guessed.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal
from weakref import WeakValueDictionary

import orjson

from crds.errors import InvalidField
from crds.models.addresses import InfluxDB, Kafka, Mqtt
from crds.models.dataroute import ResolvedSource
from crds.models.delivery import Encoding, Endpoint
from crds.models.shaping import LineProtocol, Shape
from router_manager.domain.lines import LineWriter
from router_manager.domain.payload import Record
from router_manager.domain.shaping import Plan, Unencodable, compile_shape, json_bytes, shaped, units_of

CONTENT_TYPES: Mapping[Encoding, str] = {
    "JSONArray": "application/json",
    "NDJSON": "application/x-ndjson",
    "InfluxLine": "text/plain; charset=utf-8",
}


Carrier = Literal["JSONArray", "NDJSON", "InfluxLine", "Message"]
"""What stands around a reading: its neighbours in a body, or nothing."""


def carrier_of(target: Endpoint) -> Carrier:
    """How the readings of a target travel."""
    match target.address:
        case str():
            return target.encoding
        case InfluxDB():
            return "InfluxLine"
        case Kafka() | Mqtt():
            return "Message"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is sent of records.

    Attributes:
        records: those that can be sent.
        parts: of each of them, what is sent.
        wrapped: records whose payload is not JSON and that went as base64 in an object of ours.
        unencodable: the others, with the reason.
    """

    records: Sequence[Record]
    parts: Sequence[bytes]
    wrapped: int = 0
    unencodable: Sequence[tuple[Record, str]] = ()


@dataclass(frozen=True, slots=True)
class Form:
    """What a target wants of each record; the two JSON encodings differ in what stands between records only."""

    line: LineProtocol | None = None
    envelope: bool = False
    shape: Shape | None = None

    @classmethod
    def of(cls, target: Endpoint) -> Form:
        """The form of a target."""
        if carrier_of(target) == "InfluxLine":
            return cls(line=target.line or LineProtocol(), shape=target.shape)
        return cls(envelope=target.envelope, shape=target.shape)


PLAIN: Final = Form()
"""Payloads as they came; needs no writer."""


class Writer:
    """Writes the records of one source in one form."""

    __slots__ = ("__weakref__", "_envelope", "_line", "_plan")

    def __init__(self, form: Form, source: ResolvedSource) -> None:
        self._envelope = _envelope(source) if form.envelope else None
        self._line = None
        if form.line is not None:
            # Its unit is no longer that of all fields, and which are which a tag cannot say.
            converted = form.shape is not None and form.shape.convert is not None
            self._line = LineWriter(form.line, source.model_copy(update={"unit": ""}) if converted else source)
        self._plan = None if form.shape is None else _plan(form.shape, source)

    def write(self, record: Record) -> bytes | Unencodable:
        """A JSON value, or a line with its end."""
        value = record.value
        if self._plan is not None:
            value = self._plan if isinstance(self._plan, Unencodable) else shaped(value, self._plan)
            if isinstance(value, Unencodable):
                return value
        if self._line is not None:
            return self._line.write(record, value)
        reading = _payload(record) if self._plan is None else json_bytes(value)
        if self._envelope is None or isinstance(reading, Unencodable):
            return reading
        return b'%b%b","reading":%b}' % (self._envelope, rfc3339(record.ingested_ns).encode(), reading)


Writers = Mapping[str, Writer]
"""By topic."""

_WRITERS: WeakValueDictionary[tuple[Form, ResolvedSource], Writer] = WeakValueDictionary()


def writers(form: Form, sources: Mapping[str, ResolvedSource]) -> Writers:
    """Those of a target, the same ones for the same form and source as long as anybody has them.

    Args:
        form: of the target.
        sources: by topic.
    """
    found = {}
    for topic, source in sources.items():
        writer = _WRITERS.get((form, source))
        if writer is None:
            writer = _WRITERS[form, source] = Writer(form, source)
        found[topic] = writer
    return found


def write(records: Sequence[Record], *, carrier: Carrier, writers: Writers | None = None) -> Written:
    """Write records as their target wants them.

    Args:
        records: in the order of delivery.
        carrier: of the target.
        writers: of the target; None sends payloads as they are.
    """
    unencodable: list[tuple[Record, str]] = []
    if writers is None:
        if carrier == "Message":
            return Written(records=records, parts=[record.payload for record in records])
        parts = [record.payload if record.is_json else _wrapped(record) for record in records]
    else:
        parts, kept = [], []
        for record in records:
            writer = writers[record.topic]
            part = _written(record, writer)
            if isinstance(part, bytes):
                parts.append(part)
                kept.append(record)
            else:
                unencodable.append((record, part.reason))
        records = kept
    wrapped = 0 if carrier == "InfluxLine" else len(records) - sum([record.is_json for record in records])
    return Written(records=records, parts=parts, wrapped=wrapped, unencodable=unencodable)


def framed(parts: Sequence[bytes], encoding: Encoding) -> bytes:
    """One request body of what was written."""
    if encoding == "InfluxLine":
        return b"".join(parts)
    if encoding == "JSONArray":
        return b"[" + b",".join(parts) + b"]"
    # A line break in valid JSON is white space between tokens: inside strings it is escaped.
    lines = [
        part.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in part or b"\r" in part else part for part in parts
    ]
    return b"\n".join(lines) + b"\n"


def rfc3339(ns: int) -> str:
    """UTC with nanoseconds: 2026-11-21T10:00:00.000000001Z."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest:09d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _plan(shape: Shape, source: ResolvedSource) -> Plan | Unencodable:
    try:
        return compile_shape(shape, units=units_of(source.unit))
    except InvalidField as error:
        # The manager takes no such source into a route: it is of another version than this relay.
        return Unencodable(str(error))


def _written(record: Record, writer: Writer) -> bytes | Unencodable:
    """Once, whoever else wants it, and however often it has to be sent."""
    written = record.written
    if written is None:
        written = record.written = {}
    part = written.get(writer)
    if part is None:
        part = written[writer] = writer.write(record)
    return part


def _payload(record: Record) -> bytes:
    """As it came; what is not JSON in an object of ours."""
    return record.payload if record.is_json else _wrapped(record)


def _wrapped(record: Record) -> bytes:
    return orjson.dumps(
        {
            "topic": record.topic,
            "ingestedAt": rfc3339(record.ingested_ns),
            "payloadBase64": b64encode(record.payload).decode(),
        }
    )


def _envelope(source: ResolvedSource) -> bytes:
    """What stands before the time of arrival."""
    head = orjson.dumps({"flavor": source.flavor, "device": source.device, "topic": source.topic})
    return head.removesuffix(b"}") + b',"ingestedAt":"'
