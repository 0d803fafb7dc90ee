"""Figures of the gateway, in one place. Labels are bounded: routes are patterns, never paths."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "fluidos_edge_gateway_requests_total",
    "Requests answered, by method, route pattern and status.",
    ("method", "route", "status"),
)
REQUEST_SECONDS = Histogram(
    "fluidos_edge_gateway_request_duration_seconds",
    "Time to answer, event streams not counted.",
    ("route",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
OUTCOMES = Counter(
    "fluidos_edge_gateway_decisions_total",
    "Reservations and purchases, by what was decided.",
    ("decision",),
)
EGRESS_REFUSALS = Counter(
    "fluidos_edge_gateway_egress_refusals_total",
    "Buyers' endpoints refused by the egress policy.",
)
REMOVED = Counter(
    "fluidos_edge_gateway_removed_total",
    "Objects removed, by kind and why (expired, withdrawn).",
    ("kind", "why"),
)
OBJECTS = Gauge(
    "fluidos_edge_gateway_objects",
    "Objects in the store, by kind.",
    ("kind",),
)
SUBSCRIBERS = Gauge("fluidos_edge_gateway_subscribers", "Open event streams.")
BUYERS_POLICY_BROKEN = Gauge(
    "fluidos_edge_gateway_buyers_policy_broken",
    "1 while the ConfigMap fluidos-edge-buyers cannot be read; the policy before it holds, or nobody may do anything.",
)
REPURPOSING_POLICY_BROKEN = Gauge(
    "fluidos_edge_gateway_repurposing_policy_broken",
    "1 while the ConfigMap fluidos-edge-repurposing cannot be read; the policy before it holds.",
)
REPURPOSED = Counter(
    "fluidos_edge_gateway_repurposed_total",
    "Devices that were to become what was bought, by outcome (begun, done, given_up, brought_back).",
    ("outcome",),
)
HANDSHAKES_REFUSED = Counter(
    "fluidos_edge_gateway_handshakes_refused_total",
    "TLS handshakes that ended without a peer that is known here.",
)
CONNECTIONS_CUT = Counter(
    "fluidos_edge_gateway_connections_cut_total",
    "Connections ended by the gateway, by why (silent, slow_reader, too_many, slow_handshake).",
    ("why",),
)
