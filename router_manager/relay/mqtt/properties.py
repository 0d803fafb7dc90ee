"""MQTT 5 properties (section 2.2.2): a length, then identifier and value, again and again."""

from __future__ import annotations

from enum import IntEnum

PropertyValue = int | str | bytes | list[tuple[str, str]] | list[int]
Properties = dict[int, PropertyValue]
"""By identifier. User properties are a list of pairs, subscription identifiers a list; all others occur once."""

USER_PROPERTY = 0x26
SUBSCRIPTION_IDENTIFIER = 0x0B
SESSION_EXPIRY_INTERVAL = 0x11
SERVER_KEEP_ALIVE = 0x13
REASON_STRING = 0x1F
RECEIVE_MAXIMUM = 0x21
MAXIMUM_QOS = 0x24
MAXIMUM_PACKET_SIZE = 0x27


class _Kind(IntEnum):
    BYTE = 1
    TWO = 2
    FOUR = 4
    VARIABLE = 5
    TEXT = 6
    BINARY = 7
    PAIR = 8


# Table 2-4.
_KINDS = {
    0x01: _Kind.BYTE,
    0x02: _Kind.FOUR,
    0x03: _Kind.TEXT,
    0x08: _Kind.TEXT,
    0x09: _Kind.BINARY,
    SUBSCRIPTION_IDENTIFIER: _Kind.VARIABLE,
    SESSION_EXPIRY_INTERVAL: _Kind.FOUR,
    0x12: _Kind.TEXT,
    SERVER_KEEP_ALIVE: _Kind.TWO,
    0x15: _Kind.TEXT,
    0x16: _Kind.BINARY,
    0x17: _Kind.BYTE,
    0x18: _Kind.FOUR,
    0x19: _Kind.BYTE,
    0x1A: _Kind.TEXT,
    0x1C: _Kind.TEXT,
    REASON_STRING: _Kind.TEXT,
    RECEIVE_MAXIMUM: _Kind.TWO,
    0x22: _Kind.TWO,
    0x23: _Kind.TWO,
    MAXIMUM_QOS: _Kind.BYTE,
    0x25: _Kind.BYTE,
    USER_PROPERTY: _Kind.PAIR,
    MAXIMUM_PACKET_SIZE: _Kind.FOUR,
    0x28: _Kind.BYTE,
    0x29: _Kind.BYTE,
    0x2A: _Kind.BYTE,
}


class MalformedError(ValueError):
    """The bytes are not properties."""


def encode_properties(properties: Properties) -> bytes:
    """With the length in front."""
    body = bytearray()
    for identifier, value in properties.items():
        kind = _KINDS[identifier]
        each = value if isinstance(value, list) else [value]
        for one in each:
            body.append(identifier)
            body += _encode(kind, one)
    return _variable(len(body)) + bytes(body)


def decode_properties(data: bytes, start: int) -> tuple[Properties, int]:
    """Read properties at `start`.

    Returns:
        The properties, and where they end.

    Raises:
        MalformedError: cut off, unknown identifier, one that may not repeat, or text that is not UTF-8.
    """
    length, position = decode_variable(data, start)
    end = position + length
    if end > len(data):
        raise MalformedError("properties are longer than their packet")
    found: Properties = {}
    while position < end:
        identifier = data[position]
        kind = _KINDS.get(identifier)
        if kind is None:
            raise MalformedError(f"unknown property 0x{identifier:02x}")
        value, position = _decode(kind, data, position + 1, end)
        if identifier in (USER_PROPERTY, SUBSCRIPTION_IDENTIFIER):
            many = found.setdefault(identifier, [])
            many.append(value)  # type: ignore[union-attr, arg-type] # these two hold lists, of what _decode gives
        elif identifier in found:
            raise MalformedError(f"property 0x{identifier:02x} twice")
        else:
            found[identifier] = value  # type: ignore[assignment] # a pair comes of USER_PROPERTY only
    return found, end


def decode_variable(data: bytes, start: int) -> tuple[int, int]:
    """A variable byte integer (section 1.5.5) and where it ends.

    Raises:
        MalformedError: cut off, or longer than four bytes.
    """
    value = 0
    for index in range(4):
        if start + index >= len(data):
            raise MalformedError("variable byte integer is cut off")
        byte = data[start + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, start + index + 1
    raise MalformedError("variable byte integer is longer than four bytes")


def _variable(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _encode(kind: _Kind, value: object) -> bytes:
    match kind, value:
        case ((_Kind.BYTE | _Kind.TWO | _Kind.FOUR), int()):
            return value.to_bytes(kind, "big")
        case _Kind.VARIABLE, int():
            return _variable(value)
        case _Kind.TEXT, str():
            return _sized(value.encode())
        case _Kind.BINARY, bytes():
            return _sized(value)
        case _Kind.PAIR, (str() as name, str() as text):
            return _sized(name.encode()) + _sized(text.encode())
        case _:
            msg = f"{value!r} is no value of a {kind.name} property"
            raise TypeError(msg)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _decode(kind: _Kind, data: bytes, start: int, end: int) -> tuple[int | str | bytes | tuple[str, str], int]:
    if kind in (_Kind.BYTE, _Kind.TWO, _Kind.FOUR):
        stop = start + kind
        if stop > end:
            raise MalformedError("property is cut off")
        return int.from_bytes(data[start:stop], "big"), stop
    if kind is _Kind.VARIABLE:
        return decode_variable(data[:end], start)
    raw, stop = _take(data, start, end)
    if kind is _Kind.BINARY:
        return raw, stop
    if kind is _Kind.TEXT:
        return _utf8(raw), stop
    second, stop = _take(data, stop, end)
    return (_utf8(raw), _utf8(second)), stop


def _take(data: bytes, start: int, end: int) -> tuple[bytes, int]:
    stop = start + 2 + int.from_bytes(data[start : start + 2], "big")
    if start + 2 > end or stop > end:
        raise MalformedError("property is cut off")
    return data[start + 2 : stop], stop


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("text is not UTF-8") from error
