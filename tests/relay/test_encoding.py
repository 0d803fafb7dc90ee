"""Request bodies: byte for byte where they can be, parsed back where they cannot."""

import base64
import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.models.shaping import LineProtocol, Shape
from router_manager.domain.encoding import Form, framed, rfc3339, write, writers
from tests.relay.support import endpoint, record, source

SOURCES = {
    "a/b": source(
        "a/b", flavor="flavor-1", device="dev-1", sensor="t,1", model="BME 280,x", unit="°C", provider="prov=1"
    )
}


def body(*payloads: bytes, encoding: Any = "JSONArray", envelope: bool = False) -> bytes:
    target = endpoint("http://a", encoding=encoding, envelope=envelope)
    records = [record(n + 1, payload) for n, payload in enumerate(payloads)]
    return framed(write(records, carrier=encoding, writers=writers(Form.of(target), SOURCES)).parts, encoding)


def test_json_goes_through_byte_for_byte() -> None:
    assert body(b'{"v": 1.10}', b"[ 2 ]") == b'[{"v": 1.10},[ 2 ]]'
    assert body(b'{"v": 1.10}', b"2", encoding="NDJSON") == b'{"v": 1.10}\n2\n'


def test_ndjson_has_a_line_a_reading_however_it_was_printed() -> None:
    assert body(b'{\r\n "v": 1\n}', b"2", encoding="NDJSON").splitlines() == [b'{   "v": 1 }', b"2"]


@pytest.mark.parametrize("payload", [b"", b"\xff\x00", b"1,2", b'{"v":NaN}', b"hello"])
@pytest.mark.parametrize("encoding", ["JSONArray", "NDJSON"])
def test_what_is_not_json_is_wrapped_and_counted(payload: bytes, encoding: Any) -> None:
    encoded = write([record(5, payload, at_ns=1_000_000_001)], carrier=encoding)
    value = orjson.loads(framed(encoded.parts, encoding))
    wrapped = value[0] if encoding == "JSONArray" else value
    assert wrapped["topic"] == "a/b"
    assert wrapped["ingestedAt"] == "1970-01-01T00:00:01.000000001Z"
    assert base64.b64decode(wrapped["payloadBase64"]) == payload
    assert encoded.wrapped == 1


def test_an_envelope_says_where_the_reading_comes_from() -> None:
    (value,) = orjson.loads(body(b'{"v": 1.10}', envelope=True))
    assert value == {
        "flavor": "flavor-1",
        "device": "dev-1",
        "topic": "a/b",
        "ingestedAt": rfc3339(1),
        "reading": {"v": 1.1},
    }
    assert b'"reading":{"v": 1.10}' in body(b'{"v": 1.10}', envelope=True)


@given(st.lists(st.binary(max_size=20) | st.from_regex(rb'\A\{"v":[0-9]{1,3}\}\Z'), min_size=1, max_size=10))
@settings(max_examples=100)
def test_any_payloads_make_one_array_of_as_many_elements(payloads: list[bytes]) -> None:
    assert len(orjson.loads(body(*payloads))) == len(payloads)
    assert len(body(*payloads, encoding="NDJSON").splitlines()) == len(payloads)


def lines(*payloads: bytes) -> list[str]:
    return body(*payloads, encoding="InfluxLine").decode().splitlines()


def test_a_line_has_measurement_tags_fields_and_the_readings_own_time() -> None:
    (line,) = lines(b'{"v":21.5,"ok":true,"label":"a \\"b\\" \\\\ c","n":3,"sentAt":"2026-11-21T10:00:00Z"}')
    assert line == (
        "BME\\ 280\\,x,device=dev-1,provider=prov\\=1,sensor=t\\,1,unit=°C "
        'v=21.5,ok=true,label="a \\"b\\" \\\\ c",n=3,sentAt="2026-11-21T10:00:00Z" 1795255200000000000'
    )


@pytest.mark.parametrize(
    ("sent_at", "expected"),
    [
        (b"1795255200", 1795255200_000000000),
        (b"1795255200123", 1795255200_123000000),
        (b"1795255200123456", 1795255200_123456000),
        (b"1795255200123456789", 1795255200_123456789),
        (b'"2026-11-21T11:00:00.5+01:00"', 1795255200_500000000),
        (b'"2026-11-21T11:00:00"', 1),  # no zone: nobody knows when that was
        (b'"yesterday"', 1),
        (b"true", 1),
        (b"-5", 1),
    ],
)
def test_the_time_is_understood_in_every_unit_or_that_of_arrival(sent_at: bytes, expected: int) -> None:
    (line,) = lines(b'{"v":1,"sentAt":%s}' % sent_at)
    assert int(line.rpartition(" ")[2]) == expected


def test_nested_members_are_flattened_one_level() -> None:
    (line,) = lines(b'{"wind":{"speed":3,"gust":{"max":9}},"list":[1]}')
    assert line.split(" ")[-2] == "wind_speed=3"


def line_of(payload: bytes, **line: Any) -> str:
    target = endpoint("http://a", encoding="InfluxLine", line=LineProtocol.model_validate_json(orjson.dumps(line)))
    encoded = write([record(7, payload)], carrier="InfluxLine", writers=writers(Form.of(target), SOURCES))
    return b"".join(encoded.parts).decode() or encoded.unencodable[0][1]


def test_a_line_has_the_measurement_and_tags_that_were_asked_for() -> None:
    assert line_of(b'{"v":1}', measurement="cli mate", tags=["sensor", "node"]) == (
        "cli\\ mate,node=edge-1,sensor=t\\,1 v=1 7\n"
    )
    assert line_of(b'{"v":1}', tags=[]) == "BME\\ 280\\,x v=1 7\n"


@pytest.mark.parametrize(
    ("unit", "time", "expected"),
    [
        ("s", b"1795255200", "1795255200000000000"),
        ("s", b"1795255200.000000001", "1795255200000000000"),  # a double has no nanoseconds of today
        ("s", b"12.345678901", "12345678901"),
        ("ms", b"1795255200123", "1795255200123000000"),
        ("us", b"-5", "-5000"),
        ("ns", b"1795255200123456789", "1795255200123456789"),
        ("RFC3339", b'"2026-11-21T11:00:00.5+01:00"', "1795255200500000000"),
    ],
)
def test_the_time_of_a_line_is_read_where_the_target_says(unit: str, time: bytes, expected: str) -> None:
    timestamp = {"source": "Payload", "field": "/at/t", "unit": unit}
    assert line_of(b'{"v":1,"at":{"t":%s}}' % time, timestamp=timestamp).split()[-1] == expected


def test_a_line_can_have_the_time_of_arrival_whatever_the_payload_says() -> None:
    assert line_of(b'{"v":1,"sentAt":5}', timestamp={"source": "Arrival"}).endswith(" 7\n")


@pytest.mark.parametrize("time", [b"true", b"null", b'"12"', b"1e300", b"{}"])
def test_a_time_that_is_none_is_not_guessed(time: bytes) -> None:
    timestamp = {"source": "Payload", "field": "/t", "unit": "ms"}
    assert line_of(b'{"v":1,"t":%s}' % time, timestamp=timestamp) == "InfluxLine: no time in ms at /t"


def test_shaped_fields_become_lines() -> None:
    shape = {
        "keep": ["/temperature", "/at/lat"],
        "convert": [{"field": "/temperature", "to": "°F"}],
        "rename": [{"field": "/temperature", "to": "temp f"}],
    }
    target = endpoint("http://a", encoding="InfluxLine", shape=Shape.model_validate_json(orjson.dumps(shape)))
    payload = b'{"temperature":21.5,"other":1,"at":{"lat":2,"lon":3}}'
    encoded = write([record(7, payload)], carrier="InfluxLine", writers=writers(Form.of(target), SOURCES))
    assert encoded.parts[0].endswith(b"sensor=t\\,1 temp\\ f=70.7,at_lat=2 7\n")


def test_what_does_not_fit_a_shape_is_handed_back_and_the_rest_is_sent() -> None:
    target = endpoint("http://a", shape=Shape(keep=("/v",)), envelope=True)
    records = [record(1, b"hello"), record(2, b'{"v":1,"w":2}'), record(3, b"{}")]
    encoded = write(records, carrier="JSONArray", writers=writers(Form.of(target), SOURCES))
    assert [one["reading"] for one in map(orjson.loads, encoded.parts)] == [{"v": 1}]
    assert [(one.id, why) for one, why in encoded.unencodable] == [
        (1, "shape: not JSON"),
        (3, "shape: none of the fields to keep is there"),
    ]
    assert encoded.wrapped == 0


def test_a_record_is_written_once_for_all_targets_that_share_a_form() -> None:
    made = writers(Form(envelope=True), SOURCES)
    one = record(1)
    first = write([one], carrier="JSONArray", writers=made)
    assert one.written is not None
    (part,) = one.written.values()
    one.payload = b"changed"
    assert write([one], carrier="NDJSON", writers=made).parts == [part]
    assert first.parts == [part]


@pytest.mark.parametrize("payload", [b"hello", b"{}", b"[1]", b'{"list":[1]}', b"null"])
def test_what_has_no_field_is_handed_back_with_the_reason(payload: bytes) -> None:
    good, bad = record(1, b'{"v":1}'), record(2, payload)
    encoded = write([good, bad], carrier="InfluxLine", writers=writers(Form(line=LineProtocol()), SOURCES))
    assert [part.count(b"\n") for part in encoded.parts] == [1]
    ((refused, reason),) = encoded.unencodable
    assert refused is bad
    assert reason.startswith("InfluxLine: ")


FIELD = re.compile(r'((?:\\.|[^\\=, ])+)=("(?:\\.|[^"\\])*"|[^", ]+)(?:,|$)')


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(
            lambda key: "\\" not in key
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
        max_size=5,
    ).filter(lambda value: "sentAt" not in value)
)
@settings(max_examples=200)
def test_every_field_can_be_read_back(fields: dict[str, Any]) -> None:
    text = body(orjson.dumps(fields), encoding="InfluxLine").decode()
    head = "BME\\ 280\\,x,device=dev-1,provider=prov\\=1,sensor=t\\,1,unit=°C "
    assert text.startswith(head)
    assert text.endswith(" 1\n")
    read: dict[str, Any] = {}
    for name, value in FIELD.findall(text[len(head) : -3]):
        key = re.sub(r"\\(.)", r"\1", name)
        if value.startswith('"'):
            read[key] = re.sub(r'\\(["\\])', r"\1", value[1:-1])
        else:
            read[key] = {"true": True, "false": False}.get(value) if value in ("true", "false") else float(value)
    assert read == {key: float(v) if type(v) in (int, float) else v for key, v in fields.items()}


def test_numbers_beyond_int64_are_written_as_floats() -> None:
    (line,) = lines(b'{"v":9999999999999999999}')
    assert "v=1e+19 " in line
