"""CBOR (RFC 8949) in one spelling: every value has exactly one encoding that is read.

Accepted are integers, byte and text strings, arrays, maps, booleans and null, of definite length, in their shortest
form, without tags, and each map key once: what could be said in two ways cannot be told apart by two readers. Only the
order of map keys is free: DICE's reference encoder emits them in an order of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import cbor2

from spire.domain.errors import Malformed

MAX_DEPTH = 8
T = TypeVar("T")


class _NoTags(dict[int, Any]):
    """Tags are instructions to the decoder (dates, big numbers, cycles): none is followed."""

    def __missing__(self, tag: int) -> NoReturn:
        raise cbor2.CBORDecodeError(f"tag {tag} is not allowed here")


_NO_TAGS = _NoTags()


def encode(value: object) -> bytes:
    """Map keys stay in the order given: sorted bytewise by their encoding is the caller's to say."""
    return cbor2.dumps(value)


def decode(data: bytes, *, field: str, limit: int) -> object:
    """The one value that `data` spells.

    Args:
        data: the whole encoding, nothing after it.
        field: what it is, for the message of an error.
        limit: bytes that it may have.

    Raises:
        Malformed: too long, not CBOR, not in its one spelling, or nested deeper than MAX_DEPTH.
    """
    if len(data) > limit:
        raise Malformed(field=field, value=f"{len(data)} bytes", expected=f"at most {limit} bytes")
    try:
        value: object = cbor2.loads(
            data,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_NO_TAGS,
        )
        # Short of its length are trailing bytes, and any number or length in a longer form than it needs.
        shortest = _size(value) == len(data)
    except (cbor2.CBORError, ValueError, TypeError) as error:
        raise Malformed(field=field, value=data, expected=f"strict CBOR ({error})") from error
    if not shortest:
        raise Malformed(field=field, value=data, expected="CBOR in its shortest form and nothing after it")
    return value


def _size(value: Any) -> int:
    """Bytes of the shortest encoding of a value; two thirds of the work of making it.

    Raises:
        TypeError: it is none of those that are accepted.
    """
    kind = type(value)
    if kind is int:
        return _head(value if value >= 0 else ~value)
    if kind is bytes:
        return _head(len(value)) + len(value)
    if kind is str:
        size = len(value) if value.isascii() else len(value.encode())
        return _head(size) + size
    if kind is list:
        return _head(len(value)) + sum(map(_size, value))
    if kind is dict:
        return _head(len(value)) + sum(map(_size, value)) + sum(map(_size, value.values()))
    if value is None or kind is bool:
        return 1
    raise TypeError(f"a {kind.__name__} is not allowed here")


def _head(number: int) -> int:
    """Bytes of a number, or of a length, in their shortest form."""
    return 1 if number < 24 else 2 if number < 1 << 8 else 3 if number < 1 << 16 else 5 if number < 1 << 32 else 9


@dataclass(frozen=True, slots=True)
class Shape:
    """A map in which every label has its type and no other may be: an unknown one could mean a restriction.

    Attributes:
        labels: name and type of each.
        required: those that must be there.
    """

    labels: Mapping[int, tuple[str, type]]
    required: AbstractSet[int]

    def check(self, value: object, *, field: str) -> dict[int, Any]:
        """The same map.

        Raises:
            Malformed: it is no map, or not of this shape.
        """
        if not isinstance(value, dict):
            raise Malformed(field=field, value=value, expected="a map")
        for label, said in value.items():
            if type(label) is not int or label not in self.labels:
                raise Malformed(field=field, value=label, expected="known labels only")
            name, kind = self.labels[label]
            if type(said) is not kind:  # isinstance would take true for the integer 1
                raise Malformed(field=f"{field}.{name}", value=said, expected=_WORDS[kind])
        if not self.required <= value.keys():
            name, kind = self.labels[min(self.required - value.keys())]
            raise Malformed(field=f"{field}.{name}", value=None, expected=f"{_WORDS[kind]}, it is required")
        return value


class Fields:
    """A map with labels, taken apart by name and type."""

    def __init__(self, value: object, *, field: str) -> None:
        if not isinstance(value, Mapping):
            raise Malformed(field=field, value=value, expected="a map")
        self._all = value
        self._asked: set[int] = set()
        self._field = field

    @classmethod
    def decode(cls, data: bytes, *, field: str, limit: int) -> Fields:
        """The map that `data` spells.

        Raises:
            Malformed: as `decode`, or not a map.
        """
        return cls(decode(data, field=field, limit=limit), field=field)

    def optional(self, label: int, kind: type[T], name: str) -> T | None:
        """The value of `label`, or None where the map has none (or null).

        Raises:
            Malformed: it is there and of another type.
        """
        self._asked.add(label)
        value = self._all.get(label)
        if value is None:
            return None
        if type(value) is not kind:  # isinstance would take true for the integer 1
            raise Malformed(field=f"{self._field}.{name}", value=value, expected=_WORDS[kind])
        return value

    def required(self, label: int, kind: type[T], name: str) -> T:
        """The value of `label`.

        Raises:
            Malformed: it is missing or of another type.
        """
        value = self.optional(label, kind, name)
        if value is None:
            raise Malformed(field=f"{self._field}.{name}", value=None, expected=f"{_WORDS[kind]}, it is required")
        return value

    def nothing_else(self) -> None:
        """For maps whose unknown members could mean a restriction.

        Raises:
            Malformed: a label was not asked for.
        """
        if unknown := self._all.keys() - self._asked:
            raise Malformed(field=self._field, value=sorted(unknown, key=repr), expected="known labels only")


_WORDS: dict[type, str] = {
    bytes: "a byte string",
    dict: "a map",
    int: "an integer",
    list: "an array",
    str: "a text string",
}
