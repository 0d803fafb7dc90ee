"""The spool's file format: records, each with a mark and a checksum.

Records are found again after damage: behind a wrong checksum the next mark with a right one counts. A flipped bit
costs the record that it is in, a torn tail costs what was not yet acknowledged. The mark is the spool's own secret, or
a device could hide a forged record in a payload and wait for a bit to flip in front of it.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from router_manager.domain.payload import Record

MARK_BYTES = 4
MAX_RECORD_BYTES = 64 << 20
_BODY = struct.Struct("<IQqH")
"""Length of the body, record id, ingest time in ns since the epoch, length of the topic; topic and payload follow."""
_BODY_AT = MARK_BYTES + 4
LEAST_RECORD_BYTES = _BODY_AT + _BODY.size


class Damage(NamedTuple):
    """Bytes that are no record."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What a piece of a segment holds.

    Attributes:
        records: the wanted ones, in order.
        end: offset behind the last whole record, within the piece.
        next_id: one more than the id of the last whole record, wanted or not; None where there is none.
        damage: what was skipped.
    """

    records: list[Record]
    end: int
    next_id: int | None
    damage: list[Damage]


def frame(records: Iterable[Record], *, mark: bytes) -> bytes:
    """Write records as they are appended to a segment."""
    parts: list[bytes] = []
    pack = _BODY.pack
    size = _BODY.size
    for record in records:
        topic = record.topic.encode()
        payload = record.payload
        body = pack(size + len(topic) + len(payload), record.id, record.ingested_ns, len(topic)) + topic + payload
        parts += (mark, crc32(body).to_bytes(4, "little"), body)
    return b"".join(parts)


def parse(data: bytes, *, mark: bytes, final: bool, topics: Container[str] | None = None) -> Parsed:
    """Read records out of a piece of a segment that starts where a record does.

    Args:
        data: bytes of the segment.
        mark: of the spool.
        final: nothing follows. Else a record that seems to be cut off by the end of `data` is left for the next
            piece; no progress (`end` is 0) asks for a longer piece.
        topics: the wanted ones; None for all.
    """
    records: list[Record] = []
    damage: list[Damage] = []
    names: dict[bytes, str | None] = {}
    next_id: int | None = None
    position = 0
    while position < len(data):
        stop = _end_of_record(data, position, mark)
        if stop is None or stop > len(data):
            found = None if stop is not None and not final else _next_record(data, position + 1, mark)
            if found is None:
                break
            damage.append(Damage(position, found - position))
            position = found
            continue
        _, record_id, ingested_ns, topic_length = _BODY.unpack_from(data, position + _BODY_AT)
        next_id = record_id + 1
        at = position + _BODY_AT + _BODY.size
        raw = data[at : at + topic_length]
        if raw not in names:
            # Damage that the checksum does not show makes a topic of nobody, and no more.
            text = raw.decode(errors="replace")
            names[raw] = text if topics is None or text in topics else None
        topic = names[raw]
        if topic is not None:
            records.append(Record(record_id, ingested_ns, topic, data[at + topic_length : stop]))
        position = stop
    return Parsed(records=records, end=position, next_id=next_id, damage=damage)


def _end_of_record(data: bytes, position: int, mark: bytes) -> int | None:
    """Where the record at `position` ends, beyond the data if it may be cut off, None if it is none."""
    body = position + _BODY_AT
    if len(data) < body + _BODY.size:
        return len(data) + 1 if data.startswith(mark[: len(data) - position], position) else None
    if not data.startswith(mark, position):
        return None
    length, _, _, topic_length = _BODY.unpack_from(data, body)
    stop = body + length
    if not _BODY.size + topic_length <= length <= MAX_RECORD_BYTES:
        return None
    if stop <= len(data) and crc32(data[body:stop]).to_bytes(4, "little") != data[position + MARK_BYTES : body]:
        return None
    return int(stop)


def _next_record(data: bytes, start: int, mark: bytes) -> int | None:
    """The next place where a whole record starts."""
    position = data.find(mark, start)
    while position >= 0:
        stop = _end_of_record(data, position, mark)
        if stop is not None and stop <= len(data):
            return position
        position = data.find(mark, position + 1)
    return None
