"""What answers mean, how long to wait, which batches are the same."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_manager.domain.batching import (
    Answer,
    Delivered,
    Failure,
    Outcome,
    Receipts,
    Refused,
    Response,
    Retry,
    Split,
    backoff_seconds,
    batch_id,
    grown,
    judge,
    linger_seconds,
    retry_after_seconds,
    shrunk,
)
from tests.relay.support import record

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


def verdict(answer: Answer, *, records: int = 2, attempt: int = 0) -> Outcome:
    return judge(answer, records=records, attempt=attempt, now=NOW, jitter=0.0)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_every_2xx_is_a_delivery(status: int) -> None:
    assert verdict(Response(status)) == Delivered()


@pytest.mark.parametrize("status", [408, 421, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int) -> None:
    assert isinstance(verdict(Response(status)), Retry)


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 409, 410, 422])
def test_what_will_not_change_goes_to_the_dead_letters_with_the_reason(status: int) -> None:
    outcome = verdict(Response(status, None, "because"))
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith(f"HTTP {status}: because")


def test_a_conflict_with_an_earlier_try_passes_and_any_other_does_not() -> None:
    assert [isinstance(verdict(Response(409), attempt=attempt), Retry) for attempt in (0, 1, 8, 9)] == [
        False,
        True,
        True,
        False,
    ]


def test_records_that_are_refused_one_by_one_leave_the_rest_delivered() -> None:
    assert verdict(Receipts(((1, "no"),))) == Delivered(((1, "no"),))


def test_too_large_is_halved_down_to_one_and_then_refused() -> None:
    assert verdict(Response(413), records=2) == Split()
    assert verdict(Response(413), records=1) == Refused("HTTP 413")


def test_no_answer_is_tried_again_with_its_reason() -> None:
    assert verdict(Failure("connection refused"), attempt=3) == Retry(0.4, "connection refused")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("Sat, 21 Nov 2026 10:00:05 -0000", 5.0),
        ("999999999", 3600.0),
        ("soon", None),
        ("-1", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, now=NOW) == seconds


def test_retry_after_is_honoured() -> None:
    assert verdict(Response(429, "12")) == Retry(12.0, "HTTP 429")
    assert verdict(Response(503, "soon")) == Retry(0.05, "HTTP 503")


@given(st.integers(0, 10_000), st.floats(0, 0.999))
def test_backoff_grows_to_its_bound_and_is_never_nothing(attempt: int, jitter: float) -> None:
    pause = backoff_seconds(attempt, jitter=jitter)
    assert 0.05 <= pause <= 30.0
    assert pause <= backoff_seconds(attempt + 1, jitter=jitter)


@given(st.integers(0, 100_000))
def test_a_quiet_lane_does_not_linger_and_a_busy_one_is_bounded(last: int) -> None:
    linger = linger_seconds(last, most=0.008)
    assert 0 <= linger <= 0.008
    if last <= 7:
        assert linger == 0


@given(st.integers(2, 500))
def test_a_learned_limit_shrinks_by_half_and_grows_back(limit: int) -> None:
    assert shrunk(limit) < limit
    size = 1
    for _ in range(200):
        size = grown(size, most=limit)
    assert size == limit


def test_the_same_records_to_the_same_target_have_the_same_batch_id() -> None:
    def key(*ids: int, target: str = "t", at_ns: int = 5) -> str:
        return batch_id(spool="s", route_uid="r", target=target, records=[record(n, at_ns=at_ns) for n in ids])

    assert key(1, 2, 4) == key(1, 2, 4)
    others = {key(1, 2), key(1, 3, 4), key(1, 2, 4, target="u"), key(1, 2, 4, at_ns=6), key(1, 2, 4)}
    assert len(others) == 5
