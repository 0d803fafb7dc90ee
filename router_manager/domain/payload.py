"""One message as the relay holds it, and what can be read from its payload.

Every other part of the relay passes `Record`s on: the spool stores them, filters look into them, encodings write them.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import orjson


class NotJson(Enum):
    """The value of a payload that is not JSON (RFC 8259: NaN and Infinity are not)."""

    NOT_JSON = "not JSON"


NOT_JSON: Final = NotJson.NOT_JSON


class _Unread(Enum):
    """What is known of a payload whose value nobody has asked for."""

    NOTHING = 0
    JSON = 1


# Members as globals: to look one up in its class costs as much as all else that is done for a record that is known.
_NOTHING: Final = _Unread.NOTHING
_JSON: Final = _Unread.JSON


class Record:
    """A message that a source handed to the relay. Shared by all targets, so it is parsed at most once.

    Attributes:
        id: position in the relay's spool; grows by one with each record, never used twice.
        ingested_ns: when the relay read it, nanoseconds since the epoch.
        topic: MQTT topic, exact.
        payload: as published.
        written: what was made of it for several targets, by who wrote it.
    """

    __slots__ = ("_value", "id", "ingested_ns", "payload", "topic", "written")

    def __init__(self, id: int, ingested_ns: int, topic: str, payload: bytes) -> None:  # noqa: A002 - the field's name
        self.id = id
        self.ingested_ns = ingested_ns
        self.topic = topic
        self.payload = payload
        self.written: dict[Any, Any] | None = None
        self._value: Any = _NOTHING

    @property
    def value(self) -> Any:
        """The payload as JSON value, or NOT_JSON."""
        value = self._value
        if value is _NOTHING or value is _JSON:
            value = self._value = _parsed(self.payload)
        return value

    @property
    def is_json(self) -> bool:
        """Whether the payload is JSON; its value is not kept, most targets want none."""
        value = self._value
        if value is _NOTHING:
            value = self._value = NOT_JSON if _parsed(self.payload) is NOT_JSON else _JSON
        return value is not NOT_JSON

    def __repr__(self) -> str:
        return f"Record(id={self.id}, topic={self.topic!r}, payload={self.payload[:60]!r})"


def _parsed(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return NOT_JSON


NUMBERS = (int, float)
"""Types of the JSON parser, exactly: a bool is an int to isinstance."""

Pointer = tuple[str, ...]
"""The unescaped reference tokens of a JSON pointer."""


def parse_pointer(text: str) -> Pointer:
    """Split an RFC 6901 pointer; the empty pointer is the whole document.

    Raises:
        ValueError: it neither is empty nor starts with a slash.
    """
    if not text:
        return ()
    if not text.startswith("/"):
        msg = f"{text!r} is not a JSON pointer: expected a leading slash"
        raise ValueError(msg)
    # ~1 first: RFC 6901 section 4, so that ~01 becomes ~1 and not a slash.
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/"))


def value_at(value: Any, pointer: Pointer) -> Any:
    """What the pointer leads to; None where that is null or nothing."""
    for token in pointer:
        if isinstance(value, dict):
            value = value.get(token)
        elif isinstance(value, list) and token.isascii() and token.isdigit() and int(token) < len(value):
            value = value[int(token)]
        else:
            return None
    return value


def number_at(value: Any, pointer: Pointer) -> int | float | None:
    """The number that the pointer leads to, or None where there is no number (true and false are none)."""
    value = value_at(value, pointer)
    return value if type(value) in NUMBERS else None
