"""What the relay measures of each target: latency, lag, backlog, rate; and what it reports of that."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.models.dataroute import RelayReport
from crds.models.measured import Measured
from router_manager.domain.measuring import together
from router_manager.domain.moments import MAX_AGE_NS, moment_ns, taken_ns
from router_manager.domain.table import LaneKey, RouteName
from router_manager.relay.reporter import Reports
from router_manager.relay.statistics import Latencies
from scripts.testbed.broker import Broker
from tests.relay.support import (
    Target,
    endpoint,
    numbered,
    publish_all,
    record,
    relay,
    route,
    serve,
    serving,
    source,
    status,
    until,
)

KEY = LaneKey("route-1", "target")
NOW_NS = 1_795_000_000_000_000_000
CLOCKS = {"a/b": ("sentAt",)}


@given(st.integers(-2 * MAX_AGE_NS, 2 * MAX_AGE_NS), st.sampled_from([1, 1_000, 1_000_000, 1_000_000_000]))
def test_latency_counts_from_the_device_where_its_clock_can_be_right(ago_ns: int, unit_ns: int) -> None:
    sent = (NOW_NS - ago_ns) // unit_ns
    found = taken_ns(record(1, orjson.dumps({"sentAt": sent}), at_ns=NOW_NS), CLOCKS)
    if sent * unit_ns > NOW_NS or NOW_NS - sent * unit_ns > MAX_AGE_NS:
        assert found == NOW_NS
    else:
        assert found == sent * unit_ns


@pytest.mark.parametrize("sent", ["yesterday", "2026-11-21T12:00:00", None, True, -1, [], "1e400"])
def test_what_is_no_time_is_none(sent: object) -> None:
    assert moment_ns(sent) is None
    assert taken_ns(record(1, orjson.dumps({"sentAt": sent}), at_ns=NOW_NS), CLOCKS) == NOW_NS


def test_a_reading_that_is_not_asked_for_its_time_is_not_read() -> None:
    assert taken_ns(record(1, b"no JSON", at_ns=NOW_NS), CLOCKS) == NOW_NS
    assert taken_ns(record(1, b'{"sentAt": 1}', at_ns=NOW_NS, topic="other"), CLOCKS) == NOW_NS


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50), st.sampled_from([0.5, 0.99]))
def test_a_percentile_is_right_within_a_quarter(observed: list[int], share: float) -> None:
    latencies = Latencies()
    for each in observed:
        latencies.observe(each)
    exact = sorted(observed)[max(0, -(-int(share * 100) * len(observed) // 100) - 1)]
    found = latencies.percentile(share)
    assert found is not None
    assert exact <= found <= max(exact + 1, exact * 5 / 4 + 1)


def test_several_relays_are_as_slow_as_the_slowest() -> None:
    one = Measured(delivered=3, rate_millihertz=10, p50_microseconds=1, p99_microseconds=9, lag_microseconds=4)
    two = RelayReport(node="n", delivered=4, backlog_records=2, p99_microseconds=5, last_delivered_time="2026-11-21T")
    assert together([one, two]) == Measured(
        delivered=7,
        backlog_records=2,
        rate_millihertz=10,
        lag_microseconds=4,
        p50_microseconds=1,
        p99_microseconds=9,
        last_delivered_time="2026-11-21T",
    )
    assert together([]) == Measured()


@pytest.mark.broker
async def test_a_device_that_says_when_it_measured_is_measured_from_then_on(tmp_path: Path, broker: Broker) -> None:
    asked = route(topics=["a/b", "c/d"])
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port) as running:
        dated = source(timestamp_pointer="/sentAt")
        await serve(running, asked.model_copy(update={"sources": (dated,), "targets": (endpoint(target),)}))
        sent = datetime.fromtimestamp(time.time() - 600, UTC).isoformat()
        await publish_all(broker.port, [("a/b", orjson.dumps({"id": 1, "sentAt": sent}))])
        await until(lambda: running.pumps[KEY].statistics.delivered == 1)
        p50 = running.pumps[KEY].statistics.latencies.percentile(0.5)
        assert p50 is not None
        assert p50 >= 600 * 10**6


class Reporter:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.reports: list[RelayReport | None] = []

    async def report(self, route: RouteName, report: RelayReport | None) -> None:
        assert route == RouteName("test", "route-1")
        self.reports.append(report)


@pytest.mark.broker
async def test_what_waits_for_a_target_is_reported_with_its_age(tmp_path: Path, broker: Broker) -> None:
    reporter = Reporter()
    async with (
        serving(Target(always=status(503, Retry_After="0"))) as target,
        relay(tmp_path / "state", broker.port) as running,
    ):
        await serve(running, route(endpoint(target)))
        pump = running.pumps[KEY]
        assert (pump.lane.oldest_ns, pump.lane.backlog_bytes) == (None, 0)
        await publish_all(broker.port, numbered(range(50)))
        await until(lambda: pump.statistics.retried and pump.lane.backlog_bytes > 50 * 20)
        assert pump.lane.oldest_ns is not None
        reports = Reports(pumps=running.pumps_by_route, node="edge-1", insecure=False, trouble=str, to=reporter)
        task = asyncio.create_task(reports.run(running.first_delivery))
        await until(lambda: reporter.reports)
        waiting = reporter.reports[0]
        assert waiting is not None
        assert (waiting.delivered, waiting.p99_microseconds) == (0, None)
        assert waiting.lag_microseconds > 0
        assert waiting.backlog_bytes > 50 * 20

        target.always = None
        await until(lambda: len(reporter.reports) > 1)
        first = reporter.reports[1]
        assert first is not None
        assert first.p99_microseconds is not None
        await until(lambda: pump.statistics.delivered == 50 and pump.lane.oldest_ns is None)
        task.cancel()
