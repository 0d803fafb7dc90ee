"""DER (X.690), one level at a time: where the values in a stretch of bytes begin and end.

What a value means is for who asks. That it stays within the one around it, in the shortest form of its length, is
checked here, so that no reader looks past what it was given.
"""

from __future__ import annotations

from typing import TypeAlias

from spire.domain.errors import Malformed

Span: TypeAlias = tuple[int, int]
"""Where the content of a value begins, and where it ends: there the next value starts."""


def split(data: bytes, start: int, end: int) -> tuple[bytearray, list[Span]]:
    """The values that fill `data` from `start` to `end`: their tags (first bytes), and where the content of each is.

    Tags of several bytes are in no format that we read: their first byte is no tag that a caller expects.

    Raises:
        Malformed: a value is cut off, crosses the end, or has a length in a longer form than it needs.
    """
    tags, spans = bytearray(), []
    at = start
    try:
        while at < end:
            tags.append(data[at])
            size = data[at + 1]
            at += 2
            if size >= 0x80:
                width = size & 0x7F
                size = int.from_bytes(data[at : at + width], "big")
                if size < 0x80 or not data[at]:
                    raise Malformed(field="DER", value=data[at : at + width], expected="the shortest form of a length")
                at += width
            spans.append((at, at + size))
            at += size
    except IndexError:
        at = -1
    if at != end:
        raise Malformed(field="DER", value=data[start:end], expected="values that end where they should")
    return tags, spans


def fields(data: bytes, span: Span, *, tags: bytes, field: str) -> list[Span]:
    """The values in `span`, which have exactly these tags.

    Raises:
        Malformed: as `split`, or other values are there.
    """
    found, spans = split(data, *span)
    if found != tags:
        raise Malformed(field=field, value=found.hex(" "), expected=f"values with the tags {tags.hex(' ')}")
    return spans


def tlv(tag: int, content: bytes) -> bytes:
    """The encoding of one value; lengths past 127 need a length of the length."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
