"""Metrics of the workload helper."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

TRADES = Counter(
    "fluidos_edge_helper_trades_total",
    "Tokens that were traded for SVIDs, by workload and outcome (granted, refused, retry).",
    ["workload", "outcome"],
)
EXPIRES = Gauge(
    "fluidos_edge_helper_svid_expiration_timestamp_seconds",
    "When the SVID of a workload ends, in Unix time; 0 where there is none.",
    ["workload"],
)
BUNDLE_CHANGES = Counter("fluidos_edge_helper_bundle_changes_total", "Times that the issuer said other roots.")
