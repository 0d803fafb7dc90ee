"""CEL over a reading: what it says, what it may not say, and what it may cost."""

import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField
from crds.predicate import MAX_JUDGED_BYTES, MAX_PREDICATE, compile_predicate

READING = {"humidity": 61.5, "count": 3, "state": "on", "at": {"x": [1, 2]}, "big": 2**64 - 1, "none": None}


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("payload.humidity > 60", True),
        ("payload.humidity > 61.5", False),
        ("payload.count == 3.0", True),
        ("payload.state in ['on', 'idle'] && payload.at.x[1] > 1", True),
        ("has(payload.door) && payload.door", False),
        ("payload.?door.orValue(true)", True),
        ("payload.big > 1", True),
        ("payload.none == null", True),
        ("payload['state'].startsWith('o')", True),
        ("payload.count + 1 > 3 || payload.absent", True),
        ("payload.absent", None),
        ("payload.state > 3", None),
        ("payload.state", None),
        ("payload.at.x[7] == 1", None),
    ],
)
def test_a_reading_is_judged(expression: str, holds: bool | None) -> None:
    assert compile_predicate(expression).holds(READING) is holds


def test_a_reading_need_not_be_an_object() -> None:
    assert compile_predicate("payload > 3").holds(4) is True
    assert compile_predicate("payload[0] > 3").holds([1]) is False


@pytest.mark.parametrize(
    "expression",
    [
        "payload.humidity >",
        "device.driver == 'x'",
        "payload.count + 1",
        "'text'",
        "payload.x.all(i, i > 1)",
        "payload.x.exists(i, i > 1)",
        "payload.x.map(i, i) == []",
        "payload.x.filter(i, true) == []",
        "payload.state.matches('(a*)*')",
        "timestamp(payload.state).getHours(payload.zone) == 1",
        "cel.bind(x, payload, x == x)",
        "(" * 500 + "true" + ")" * 500,
        "!" * MAX_PREDICATE + "true",
    ],
)
def test_what_cannot_be_judged_or_could_cost_much_is_refused(expression: str) -> None:
    with pytest.raises(InvalidField) as refused:
        compile_predicate(expression, field="filter.expression")
    assert refused.value.field == "filter.expression"


@pytest.mark.parametrize(
    ("part", "join", "payload"),
    [
        ("payload.contains('yyyyyyyyz')", "||", "y" * (MAX_JUDGED_BYTES - 2)),
        ("payload==payload&&false", "||", [[1]] * 4000),
        ("[] in payload", "||", [[1]] * 4000),
        ("payload==payload&&false", "||", {str(number): number for number in range(1300)}),
        ("payload", "+", "y" * (MAX_JUDGED_BYTES - 2)),
    ],
)
def test_the_worst_that_a_buyer_can_write_ends_soon(part: str, join: str, payload: Any) -> None:
    # The parser lets sums nest no deeper.
    count = 30 if join == "+" else MAX_PREDICATE // (len(part) + len(join))
    compiled = compile_predicate(join.join([part] * count) + ("=='a'" if join == "+" else ""))
    started = time.thread_time()
    assert compiled.holds(payload) is False
    assert time.thread_time() - started < 1.0  # some 30 ms; a loop over the payload took 22 s


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\x00é", max_size=2), inner, max_size=3),
    max_leaves=10,
)
FRAGMENTS = [
    "payload",
    ".a",
    "[0]",
    "['b']",
    " > ",
    " == ",
    " && ",
    "!",
    "(",
    ")",
    "1",
    "1.5",
    "'x'",
    "has(",
    " in ",
    "-",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join) | st.text(max_size=30), JSON)
@settings(max_examples=300)
def test_any_text_over_any_reading_has_an_answer_or_is_refused(expression: str, payload: Any) -> None:
    try:
        compiled = compile_predicate(expression)
    except InvalidField:
        return
    assert compiled.holds(payload) in (True, False, None)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_reading_may_be_nested_as_deep_as_json_is_read(opening: bytes, closing: bytes) -> None:
    deep = orjson.loads(opening * 1000 + b"1" + closing * 1000)
    assert compile_predicate("payload == 1").holds(deep) is False
