"""Metrics that every manager has; each room adds its own in its `metrics.py`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

LOOKS = Counter(
    "fluidos_edge_queue_looks_total",
    "Looks at a key of a work queue, by what came of it (done, retry, terminal, defect).",
    ["queue", "outcome"],
)
LOOK_SECONDS = Histogram(
    "fluidos_edge_queue_look_duration_seconds",
    "Time of one look.",
    ["queue"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10),
)
DEPTH = Gauge("fluidos_edge_queue_keys", "Keys that wait or are in hand.", ["queue"])
REQUESTS = Counter(
    "fluidos_edge_kube_requests_total",
    "Requests to the API server, by method and status (0: no answer).",
    ["method", "status"],
)
REFUSED_OBJECTS = Counter(
    "fluidos_edge_refused_objects_total",
    "Objects, or parts of them, that could not be read, by kind.",
    ["kind"],
)
