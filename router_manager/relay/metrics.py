"""Prometheus metrics of the relay, read from its counters when they are asked for: the hot path knows nothing of them.

Labels are what is in the table (route, target), so they are bounded by it and go with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from router_manager.relay.engine import Relay
from router_manager.relay.statistics import Latencies

PREFIX = "fluidos_edge_relay"
_LANE = ("route", "target")
_EDGES_MICROSECONDS = (500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_000_000, 10_000_000)

_LANE_COUNTERS = {
    "delivered": "records that the target acknowledged",
    "filtered": "records that the route's filter dropped",
    "unreadable": "records that the filter dropped because it could not judge them",
    "wrapped": "records that are not JSON and were sent as base64",
    "retried": "requests that had to be sent again",
    "dead": "records in the dead letters",
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


class RelayCollector(Collector):
    """Register with a CollectorRegistry."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        relay = self._relay
        yield from (
            _counter("received", "messages from broker and devices", relay.ingest.received),
            _counter("unwanted", "messages that no route wants any more", relay.ingest.unwanted),
            _counter("connections_lost", "connections to the broker that ended", relay.connections_lost),
            _counter("malformed_packets", "connections that ended for a malformed packet", relay.malformed_packets),
            _counter("spool_damage", "places in the spool that could not be read", relay.spool.damaged),
            _gauge("spool_bytes", "size of the spool", relay.spool.size),
            _gauge("connected", "1 while the session to the broker stands", int(relay.session.connected)),
            _gauge("subscriptions_refused", "topics that the broker refuses", len(relay.session.refused)),
        )
        if relay.listener is not None:
            yield _gauge("devices_connected", "clients of the listener", relay.listener.connected)
            for name, text in _LISTENER_COUNTERS.items():
                yield _counter(f"devices_{name}", text, getattr(relay.listener.counts, name))
        for name, text in _LANE_COUNTERS.items():
            counter = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=_LANE)
            for pump in relay.pumps.values():
                counter.add_metric((str(pump.way.route), pump.key.target), getattr(pump.statistics, name))
            yield counter
        backlog = GaugeMetricFamily(f"{PREFIX}_backlog_records", "records not yet delivered", labels=_LANE)
        for pump in relay.pumps.values():
            backlog.add_metric((str(pump.way.route), pump.key.target), pump.lane.backlog)
        yield backlog
        yield _histogram(Latencies.merged(pump.statistics.latencies for pump in relay.pumps.values()))


def _counter(name: str, text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _gauge(name: str, text: str, value: int) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _histogram(latencies: Latencies) -> HistogramMetricFamily:
    found = list(latencies)
    buckets = [
        (str(edge / 1e6), float(sum(times for upper, times in found if upper <= edge))) for edge in _EDGES_MICROSECONDS
    ]
    buckets.append(("+Inf", float(sum(times for _, times in found))))
    total = sum(upper * times for upper, times in found) / 1e6
    text = "from the relay's read of a message to the target's answer; the sum is an upper bound"
    return HistogramMetricFamily(f"{PREFIX}_delivery_latency_seconds", text, buckets=buckets, sum_value=total)
