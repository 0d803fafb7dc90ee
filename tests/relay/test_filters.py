"""What a route's filter lets through."""

import itertools
from decimal import Decimal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.models.delivery import Deadband, PayloadFilter, Threshold
from crds.models.shaping import Shape, UnitChange
from crds.predicate import MAX_JUDGED_BYTES
from router_manager.domain.encoding import Form, framed, write, writers
from router_manager.domain.filters import Drop, Filter, FilterState
from router_manager.domain.payload import Record, number_at, parse_pointer
from tests.relay.support import endpoint, record, source

SECOND = 1_000_000_000


def run(spec: PayloadFilter, records: list[Record]) -> list[Drop | None]:
    compiled, state, verdicts = Filter.compile(spec), FilterState(), []
    for one in records:
        state, drop = compiled.step(state, one)
        verdicts.append(drop)
    return verdicts


def readings(*values: object) -> list[Record]:
    return [record(number + 1, orjson.dumps({"v": value})) for number, value in enumerate(values)]


def test_threshold_passes_only_values_outside_the_band() -> None:
    spec = PayloadFilter(threshold=Threshold(field="/v", above="20.0", below="-5"))
    assert run(spec, readings(20, 20.001, -5, -5.5, 0)) == [
        Drop.THRESHOLD,
        None,
        Drop.THRESHOLD,
        None,
        Drop.THRESHOLD,
    ]


def test_decimals_are_compared_as_they_are_written() -> None:
    spec = PayloadFilter(deadband=Deadband(field="/v", change="0.2"))
    assert run(spec, readings(0.1, 0.3, 0.4)) == [None, None, Drop.DEADBAND]


def test_deadband_measures_from_the_last_value_that_passed_everything() -> None:
    spec = PayloadFilter(deadband=Deadband(field="/v", change="1"), every_nth=2)
    # 1 passes; 2 differs but is the second; 3 differs from 1 and is the third.
    assert run(spec, readings(1, 2, 1.5, 3)) == [None, Drop.EVERY_NTH, Drop.DEADBAND, None]


@pytest.mark.parametrize(
    "payload", [b"", b"not json", b"[]", b'{"v":"20"}', b'{"v":true}', b'{"v":null}', b'{"v":NaN}']
)
def test_a_payload_without_the_number_is_unreadable(payload: bytes) -> None:
    spec = PayloadFilter(threshold=Threshold(field="/v", above="0"))
    assert run(spec, [record(1, payload)]) == [Drop.UNREADABLE]


def test_an_expression_passes_what_it_holds_for_and_counts_what_it_cannot_judge() -> None:
    spec = PayloadFilter(expression="payload.v > 3 && payload.v < 8")
    verdicts = run(spec, readings(1, 5, "text", None, 9, 7.5))
    assert verdicts == [Drop.EXPRESSION, None, Drop.UNREADABLE, Drop.UNREADABLE, Drop.EXPRESSION, None]
    assert run(spec, [record(1, b"not json"), record(2, b"7")]) == [Drop.UNREADABLE] * 2


def test_what_an_expression_holds_back_is_nothing_to_the_filters_after_it() -> None:
    spec = PayloadFilter(expression="payload.v != 2", deadband=Deadband(field="/v", change="1"), every_nth=2)
    assert run(spec, readings(2, 1, 2, 3, 2, 5)) == [
        Drop.EXPRESSION,
        None,
        Drop.EXPRESSION,
        Drop.EVERY_NTH,
        Drop.EXPRESSION,
        None,
    ]


HOSTILE = [
    b"",
    b"NaN",
    b'{"v":NaN}',
    b'{"v":1e999}',
    b'{"v":-Infinity}',
    b'{"v":1,"v":9}',
    b'{"v":"\\ud800"}',
    b'{"v":\xff}',
    b"\xff\xfe",
    b'{"v":123456789012345678901234567890}',
    b'{"v":1e-400}',
    b"[" * 5000,
    b'{"v":' * 1000 + b"1" + b"}" * 1000,
    b'{"pad":"' + b"y" * (1 << 20) + b'","v":5}',
    b'{"v":[' + b"1," * 100_000 + b"1]}",
    b'{"":{"":0},"v":null}',
]


@pytest.mark.parametrize("payload", HOSTILE, ids=lambda payload: repr(payload[:24]))
def test_hostile_payloads_pass_or_are_counted_and_hand_on_no_other(payload: bytes) -> None:
    good = record(2, b'{"v":5,"n":1}')
    for spec in (
        PayloadFilter(expression="payload.v > 3"),
        PayloadFilter(threshold=Threshold(field="/v", above="3")),
        PayloadFilter(deadband=Deadband(field="/v", change="0.1")),
    ):
        assert run(spec, [record(1, payload), good])[1] in (None, Drop.DEADBAND)
    shape = Shape(keep=("/v",), convert=(UnitChange(field="/v", source="°C", to="K"),))
    for target in (
        endpoint("http://a", envelope=True),
        endpoint("http://a", shape=shape),
        endpoint("http://a", shape=Shape(keep=("/v",)), encoding="NDJSON"),
        endpoint("http://a", shape=shape, encoding="InfluxLine"),
        endpoint("http://a", encoding="InfluxLine"),
    ):
        made = writers(Form.of(target), {"a/b": source()})
        encoded = write([record(1, payload), good], carrier=target.encoding, writers=made)
        assert good not in [lost for lost, _ in encoded.unencodable]
        body = framed(encoded.parts, target.encoding)
        count = len(orjson.loads(body)) if target.encoding == "JSONArray" else body.count(b"\n")
        assert count == 2 - len(encoded.unencodable)


def test_a_long_payload_is_not_read_for_an_expression() -> None:
    long = record(1, b'{"v":5,"pad":"%s"}' % (b"y" * MAX_JUDGED_BYTES))
    assert run(PayloadFilter(expression="payload.v > 3"), [long]) == [Drop.UNREADABLE]
    assert run(PayloadFilter(threshold=Threshold(field="/v", above="3")), [long]) == [None]


def test_filters_that_need_no_value_pass_what_is_not_json() -> None:
    assert run(PayloadFilter(every_nth=1, max_per_second=1), [record(1, b"\xff")]) == [None]


@given(n=st.integers(1, 50), count=st.integers(0, 200))
@settings(max_examples=50)
def test_every_nth_passes_the_first_and_each_nth_after_it(n: int, count: int) -> None:
    verdicts = run(PayloadFilter(every_nth=n), [record(number) for number in range(count)])
    assert [number for number, drop in enumerate(verdicts) if drop is None] == list(range(0, count, n))


@given(rate=st.integers(1, 20), gaps=st.lists(st.integers(-SECOND // 10, SECOND), max_size=100))
@settings(max_examples=100)
def test_at_most_a_bucket_and_the_rate_pass_in_any_time(rate: int, gaps: list[int]) -> None:
    at, records, clock = 10 * SECOND, [], 0
    for number, gap in enumerate(gaps):
        at += gap
        clock += max(0, gap)
        records.append(record(number, at_ns=at))
    passed = run(PayloadFilter(max_per_second=rate), records).count(None)
    assert passed <= rate + rate * clock / SECOND
    assert passed >= min(len(records), rate)


def test_a_bucket_fills_again_with_time() -> None:
    times = [0, 1, 2, SECOND // 2, SECOND // 2 + 1, 2 * SECOND]
    verdicts = run(PayloadFilter(max_per_second=2), [record(n, at_ns=at) for n, at in enumerate(times)])
    assert verdicts == [None, None, Drop.RATE, None, Drop.RATE, None]


@given(st.lists(st.decimals(-1000, 1000, places=3), max_size=60), st.decimals("0.001", 100, places=3))
@settings(max_examples=50)
def test_values_that_pass_a_deadband_differ_by_at_least_the_change(values: list[Decimal], change: Decimal) -> None:
    spec = PayloadFilter(deadband=Deadband(field="/v", change=f"{change:f}"))
    verdicts = run(spec, [record(n, b'{"v":%s}' % f"{value:f}".encode()) for n, value in enumerate(values)])
    kept = [value for value, drop in zip(values, verdicts, strict=True) if drop is None]
    assert all(abs(after - before) >= change for before, after in itertools.pairwise(kept))
    assert bool(kept) == bool(values)


def test_pointers_reach_into_arrays_and_escaped_names() -> None:
    assert number_at(orjson.loads(b'{"a/b":[{"~":7}]}'), parse_pointer("/a~1b/0/~0")) == 7
    assert number_at(orjson.loads(b'{"a":[1]}'), parse_pointer("/a/1")) is None
    assert parse_pointer("/~01") == ("~1",)


def test_a_pointer_without_a_slash_is_refused() -> None:
    with pytest.raises(ValueError, match="leading slash"):
        parse_pointer("a")
