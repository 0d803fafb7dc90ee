"""Prometheus metrics of the relay, read from its counters when they are asked for: the hot path knows nothing of them.

Labels are what is in the table (route, target), so they are bounded by it and go with it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router_manager.relay.engine import Relay
from router_manager.relay.kafka.commands import Commands
from router_manager.relay.pump import Pump
from router_manager.relay.statistics import Latencies

PREFIX = "fluidos_edge_relay"
_LANE = ("namespace", "route", "target")
_EDGES_MICROSECONDS = (1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_000_000, 10_000_000)

_LANE_COUNTERS = {
    "delivered": "records that the target acknowledged",
    "filtered": "records that the route's filter dropped",
    "unreadable": "records that the filter dropped because it could not judge them",
    "wrapped": "records that are not JSON and were sent as base64",
    "retried": "requests that had to be sent again",
    "dead": "records that went to the dead letters",
    "replayed": "records that were delivered out of the dead letters",
    "expired": "records that were dropped undelivered, as their route allows",
}

_LISTENER_COUNTERS = {
    "accepted": "clients that the listener let in",
    "refused": "connections that it refused",
    "taken_over": "connections that ended because their device connected anew",
    "denied": "messages and subscriptions that a client has no right to",
    "malformed": "connections that ended for a packet that is not MQTT as agreed",
    "throttled": "times that a client was too fast and had to wait",
    "timed_out": "connections that ended because the client was silent or too slow",
    "wills": "last wills that were published",
}

_INLET_COUNTERS = {
    "accepted": "messages that KubeEdge's router brought",
    "unknown": "messages for a path that leads nowhere",
    "oversized": "messages that were too large",
    "busy": "messages that were refused because too many of their source were waiting, or at the end",
    "unsaved": "messages that could not be put on disk in time",
}


class RelayCollector(Collector):
    """Register with a CollectorRegistry."""

    def __init__(self, relay: Relay, commands: Commands | None = None) -> None:
        self._relay = relay
        self._commands = commands

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now. In a thread of its own, while the relay goes on."""
        relay = self._relay
        pumps = list(relay.pumps.values())
        yield from (
            _counter("received", "messages from broker and devices", relay.ingest.received),
            _counter("unwanted", "messages that no route wants any more", relay.ingest.unwanted),
            _counter("connections_lost", "connections to the broker that ended", relay.connections_lost),
            _counter("malformed_packets", "connections that ended for a malformed packet", relay.malformed_packets),
            _counter("spool_damage", "places in the spool that could not be read", relay.spool.damaged),
            _counter("position_damage", "lanes that lost how far they had come", relay.damaged_positions),
            _gauge("spool_capacity_bytes", "what the spool may take, as the disk has room", relay.spool.capacity),
            _counter("dead_dropped", "dead letters that went for lack of room", relay.dead_letters.dropped),
            _gauge("spool_bytes", "size of the spool", relay.spool.size),
        )
        if relay.session is not None:
            yield _gauge("connected", "1 while the session to the broker stands", int(relay.session.connected))
            yield _gauge("subscriptions_refused", "topics that the broker refuses", len(relay.session.refused))
        if relay.listener is not None:
            yield _gauge("devices_connected", "clients of the listener", relay.listener.connected)
            for name, text in _LISTENER_COUNTERS.items():
                yield _counter(f"devices_{name}", text, getattr(relay.listener.counts, name))
        if relay.inlet is not None:
            missing = GaugeMetricFamily(
                f"{PREFIX}_missing", "readings that did not come", labels=("namespace", "route")
            )
            for route in {pump.way.route for pump in pumps}:
                missing.add_metric(route, relay.inlet.forwarding(route).missing or 0)
            yield missing
            for name, text in _INLET_COUNTERS.items():
                yield _counter(f"inlet_{name}", text, getattr(relay.inlet.counts, name))
        if relay.site is not None:
            yield _counter("site_malformed", "records of the site's topic that no relay wrote", relay.site.malformed)
            yield _gauge("site_partitions", "partitions of the site's topic that it has", len(relay.site.partitions))
        if self._commands is not None:
            yield _counter("commands_delivered", "commands that broker or device have", self._commands.delivered)
            yield _counter("commands_dropped", "commands whose device was not here", self._commands.dropped)
        yield from _lanes(pumps)


def _lanes(pumps: Sequence[Pump]) -> Iterator[Metric]:
    """What there is for each target of each route."""
    labelled = [((*pump.way.route, pump.key.target), pump) for pump in pumps]
    for name, text in _LANE_COUNTERS.items():
        counter = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=_LANE)
        for labels, pump in labelled:
            counter.add_metric(labels, getattr(pump.statistics, name))
        yield counter
    backlog = GaugeMetricFamily(f"{PREFIX}_backlog_records", "records not yet delivered", labels=_LANE)
    spooled = GaugeMetricFamily(f"{PREFIX}_backlog_bytes", "what the target holds back of the spool", labels=_LANE)
    lag = GaugeMetricFamily(f"{PREFIX}_lag_seconds", "age of the oldest record not yet delivered", labels=_LANE)
    latency = HistogramMetricFamily(
        f"{PREFIX}_delivery_latency_seconds",
        "from when a reading was taken, or else read, to the target's answer; the sum is an upper bound",
        labels=_LANE,
    )
    now_ns = time.time_ns()
    for labels, pump in labelled:
        lane = pump.lane
        backlog.add_metric(labels, lane.backlog)
        spooled.add_metric(labels, lane.backlog_bytes)
        lag.add_metric(labels, 0 if lane.oldest_ns is None else max(0, now_ns - lane.oldest_ns) / 1e9)
        buckets, total = _buckets(pump.statistics.latencies)
        latency.add_metric(labels, buckets, total)
    yield from (backlog, spooled, lag, latency)


def _buckets(latencies: Latencies) -> tuple[list[tuple[str, float]], float]:
    """Cumulated, by upper edge in seconds; and the sum."""
    found = list(latencies)
    counts = [0] * (len(_EDGES_MICROSECONDS) + 1)
    for upper, times in found:
        counts[bisect_left(_EDGES_MICROSECONDS, upper)] += times
    edges = [*(str(edge / 1e6) for edge in _EDGES_MICROSECONDS), "+Inf"]
    return list(zip(edges, accumulate(counts), strict=True)), sum(upper * times for upper, times in found) / 1e6


def _counter(name: str, text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _gauge(name: str, text: str, value: int) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
