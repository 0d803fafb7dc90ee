"""Metrics of every process that has an identity."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

SVID_END = Gauge("fluidos_edge_identity_svid_end_timestamp_seconds", "End of this process' own SVID, in Unix time.")
PEERS_REFUSED = Counter(
    "fluidos_edge_identity_peers_refused_total",
    "Peers that passed TLS and were refused by their SPIFFE ID, by reason.",
    ["reason"],
)
