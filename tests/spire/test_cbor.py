"""CBOR has one spelling, and nothing but Malformed comes out of bad bytes."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spire.domain import cbor
from spire.domain.errors import Malformed

LIMIT = 1024


def decode(data: bytes) -> object:
    return cbor.decode(data, field="data", limit=LIMIT)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(-300, 300), inner, max_size=4),
    max_leaves=6,
)


@given(values)
@settings(max_examples=150)
def test_what_is_encoded_is_decoded(value: object) -> None:
    data = cbor.encode(value)
    assert cbor.decode(data, field="data", limit=len(data)) == value


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "nothing"),
        ("0101", "trailing bytes"),
        ("1801", "a number longer than it must be"),
        ("1a00000001", "a number longer than it must be"),
        ("5801ff", "a length longer than it must be"),
        ("9f01ff", "indefinite array"),
        ("bf0101ff", "indefinite map"),
        ("5f4101ff", "indefinite bytes"),
        ("7f6161ff", "indefinite text"),
        ("a201010102", "a key twice"),
        ("a2010118010102", "a key twice, once in disguise"),
        ("62fffe", "no UTF-8"),
        ("5901", "truncated"),
        ("f93e00", "a number that could be spelled otherwise"),
        ("5b7fffffffffffffff00", "length of eight exabytes"),
        ("9b000000007fffffff00", "two milliards of items"),
    ],
)
def test_other_spellings_are_refused(data: str, why: str) -> None:
    with pytest.raises(Malformed):
        decode(bytes.fromhex(data))


@pytest.mark.parametrize("tag", [0, 1, 2, 3, 4, 5, 18, 24, 25, 28, 29, 30, 35, 36, 37, 43000, 55799, 2**64 - 1])
def test_no_tag_is_followed(tag: int) -> None:
    with pytest.raises(Malformed):
        decode(cbor2.dumps(cbor2.CBORTag(tag, [1, 2])))


def test_nesting_is_bounded_and_ten_megabytes_of_it_are_not_even_read() -> None:
    decode(b"\x81" * (cbor.MAX_DEPTH - 1) + b"\x01")
    with pytest.raises(Malformed):
        decode(b"\x81" * (cbor.MAX_DEPTH + 1) + b"\x01")
    with pytest.raises(Malformed, match="at most 1024 bytes"):
        decode(b"\x81" * 10_000_000)


@given(st.binary(max_size=80))
@settings(max_examples=400)
def test_any_bytes_are_one_spelling_or_malformed(data: bytes) -> None:
    try:
        value = decode(data)
    except Malformed:
        return
    assert cbor.encode(value) == data


def test_fields_name_what_is_wrong() -> None:
    fields = cbor.Fields({1: "x", 2: True, 3: b""}, field="token")
    with pytest.raises(Malformed, match=r"token\.nonce: 'x' is not valid, expected a byte string"):
        fields.required(1, bytes, "nonce")
    with pytest.raises(Malformed, match=r"token\.count: True is not valid, expected an integer"):
        fields.optional(2, int, "count")
    with pytest.raises(Malformed, match=r"token\.key: None is not valid, expected a map, it is required"):
        fields.required(4, dict, "key")
    with pytest.raises(Malformed, match=r"token: \[3\] is not valid, expected known labels only"):
        fields.nothing_else()


@pytest.mark.parametrize("data", ["f90000", "fa00000000", "fb0000000000000000", "82f93c00190001", "f7", "f820"])
def test_floats_and_values_without_a_meaning_are_refused_in_any_width(data: str) -> None:
    with pytest.raises(Malformed):
        decode(bytes.fromhex(data))


@given(values, st.data())
@settings(max_examples=200)
def test_a_changed_encoding_is_one_spelling_or_malformed(value: object, data: st.DataObject) -> None:
    changed = bytearray(cbor.encode(value))
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode(bytes(changed))
    except Malformed:
        return
    assert cbor.encode(read) == changed


def test_a_shape_names_what_is_wrong() -> None:
    shape = cbor.Shape({1: ("nonce", bytes), 2: ("count", int)}, required={1})
    assert shape.check({1: b"", 2: 3}, field="token") == {1: b"", 2: 3}
    with pytest.raises(Malformed, match=r"token\.nonce: 'x' is not valid, expected a byte string"):
        shape.check({1: "x"}, field="token")
    with pytest.raises(Malformed, match=r"token\.count: True is not valid, expected an integer"):
        shape.check({1: b"", 2: True}, field="token")
    with pytest.raises(Malformed, match=r"token\.nonce: None is not valid, expected a byte string, it is required"):
        shape.check({2: 3}, field="token")
    unknown: list[dict[object, object]] = [{1: b"", 3: 3}, {True: b""}, {1: b"", "x": 3}]
    for value in unknown:
        with pytest.raises(Malformed, match=r"token: .* is not valid, expected known labels only"):
            shape.check(value, field="token")
    with pytest.raises(Malformed, match=r"token: \[\] is not valid, expected a map"):
        shape.check([], field="token")
