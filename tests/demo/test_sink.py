"""The sink reads every encoding, remembers what matters, and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.models.base import validate
from crds.models.dataroute import ResolvedSource
from crds.models.delivery import Encoding
from crds.models.shaping import LineProtocol
from router_manager.domain.encoding import CONTENT_TYPES, Form, framed, write, writers
from router_manager.domain.payload import Record
from scripts.sink.bodies import line_fields, readings
from scripts.sink.record import Endpoint, Fault, Received
from scripts.sink.server import Sink

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
SOURCE = ResolvedSource(
    flavor="f", device="board-1", sensor="a sensor", model="hts,221", unit="%", provider="p,1", node="n", topic="t"
)
READING = {
    "id": 'board "1"-7',
    "device": "board-1",
    "sensor": "hts,221",
    "sentAt": "2026-11-21T10:00:00Z",
    "value": 2.5,
}


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as server:
        yield server


async def post(sink: Sink, body: object, *, name: str = "a", content_type: str = "application/json") -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(sink.url(name), data=data, headers={"Content-Type": content_type}) as answer,
    ):
        return answer.status


def of_relay(encoding: Encoding, *, envelope: bool = False) -> bytes:
    record = Record(1, 0, "t", orjson.dumps(READING))
    form = Form(line=LineProtocol() if encoding == "InfluxLine" else None, envelope=envelope)
    return framed(write([record, record], carrier=encoding, writers=writers(form, {"t": SOURCE})).parts, encoding)


@pytest.mark.parametrize("encoding", ["JSONArray", "NDJSON", "InfluxLine"])
def test_what_the_relay_writes_is_read_back(encoding: Encoding) -> None:
    content_type = CONTENT_TYPES[encoding].partition(";")[0]
    assert readings(of_relay(encoding), content_type=content_type) == [READING, READING]


def test_an_envelope_is_opened() -> None:
    assert readings(of_relay("JSONArray", envelope=True), content_type="application/json") == [READING, READING]


@given(
    st.dictionaries(
        st.text(min_size=1), st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(), min_size=1
    )
)
def test_line_protocol_keeps_texts_numbers_and_truth_values(fields: dict[str, Any]) -> None:
    # Keys lose what line protocol cannot write: a backslash at the end, and two keys may meet in one.
    payload = {f"k{index}": value for index, value in enumerate(fields.values())}
    record = Record(1, 0, "t", orjson.dumps({"x": 1.0, **payload})) if _is_utf8(payload) else None
    if record is None:
        return
    lines = writers(Form(line=LineProtocol()), {"t": SOURCE})
    body = b"".join(write([record], carrier="InfluxLine", writers=lines).parts)
    assert line_fields(body.decode().removesuffix("\n")) == {"x": 1.0, **payload}


def _is_utf8(payload: dict[str, Any]) -> bool:
    try:
        json.dumps(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(
    body=st.binary(max_size=60),
    content_type=st.sampled_from(["application/json", "application/x-ndjson", "text/plain", "x"]),
)
def test_no_body_raises_anything_but_value_error(body: bytes, content_type: str) -> None:
    try:
        assert isinstance(readings(body, content_type=content_type), list)
    except ValueError:
        return


def test_the_first_arrival_counts_and_copies_are_counted() -> None:
    endpoint = Endpoint()
    endpoint.take([READING], at=NOW + timedelta(milliseconds=5))
    endpoint.take([READING, READING], at=NOW + timedelta(milliseconds=9))
    arrival = endpoint.arrivals[str(READING["id"])]
    assert arrival.latency_milliseconds == 5.0
    assert arrival.copies == 3
    assert arrival.value == 2.5


def test_a_reading_without_an_id_or_a_time_is_no_crash() -> None:
    endpoint = Endpoint()
    endpoint.take([{"value": 1}, {"id": "x", "sentAt": "yesterday", "value": True}], at=NOW)
    assert endpoint.unreadable == 1
    assert endpoint.arrivals["x"].latency_milliseconds is None
    assert endpoint.arrivals["x"].value is None


async def test_endpoints_are_apart(sink: Sink) -> None:
    assert await post(sink, [READING], name="a") == 204
    assert await post(sink, [], name="b") == 204
    async with aiohttp.ClientSession() as session, session.get(sink.url("a")) as answer:
        shown = await answer.json()
    assert list(shown["arrivals"]) == [READING["id"]]
    assert sink.endpoint("b").arrivals == {}


async def test_what_is_shown_can_be_read_even_of_a_reading_that_says_little(sink: Sink) -> None:
    assert await post(sink, [{"id": "x"}]) == 204
    async with aiohttp.ClientSession() as session, session.get(sink.url("a")) as answer:
        received = validate(Received, await answer.json())
    assert received == sink.endpoint("a").received()


async def test_an_unreadable_body_is_refused_and_counted(sink: Sink) -> None:
    assert await post(sink, b"{", name="a") == 400
    assert await post(sink, [1], name="a") == 400
    assert sink.endpoint("a").unreadable == 2


async def test_a_fault_answers_so_many_times_and_keeps_nothing(sink: Sink) -> None:
    sink.endpoint("a").fault = Fault(status=500, times=2)
    assert [await post(sink, [READING]) for _ in range(3)] == [500, 500, 204]
    assert sink.endpoint("a").arrivals[str(READING["id"])].copies == 1


async def test_a_fault_may_be_for_large_batches_only(sink: Sink) -> None:
    sink.endpoint("a").fault = Fault(status=413, over_records=1)
    assert await post(sink, [READING, {**READING, "id": "2"}]) == 413
    assert await post(sink, [READING]) == 204


async def test_a_fault_set_over_http_can_hang(sink: Sink) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.put(sink.url("a"), data=b'{"hang": true}') as answer:
            assert answer.status == 204
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), session.post(sink.url("a"), json=[READING]):
                pass
        async with session.put(sink.url("a"), data=b'{"status": 99}') as answer:
            assert answer.status == 400
            assert "status" in await answer.text()
    assert sink.endpoint("a").arrivals == {}
