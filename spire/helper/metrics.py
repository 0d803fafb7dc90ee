"""Metrics of the workload helper."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

TRADES = Counter(
    "fluidos_edge_helper_trades_total",
    "Tokens that were traded for SVIDs, by workload and outcome (granted, refused, retry).",
    ["workload", "outcome"],
)
SVID_END = Gauge(
    "fluidos_edge_helper_svid_end_timestamp_seconds",
    "End of the SVID of a workload, in Unix time; 0 where there is none.",
    ["workload"],
)
BUNDLE_CHANGES = Counter("fluidos_edge_helper_bundle_changes_total", "Times that the issuer said other roots.")
