"""Figures of the issuer, in one place; those of devices are in `appraisal_metrics`. Labels are bounded."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

ISSUED = Counter(
    "fluidos_edge_identity_issued_total",
    "SVIDs that were signed, by the first segment of the ID.",
    ["kind"],
)
ISSUE_SECONDS = Histogram(
    "fluidos_edge_identity_issue_duration_seconds",
    "From the request's bytes to the certificate's.",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1),
)
REQUESTS = Counter(
    "fluidos_edge_identity_requests_total",
    "Requests answered, by route pattern and status.",
    ["route", "status"],
)
REQUEST_SECONDS = Histogram(
    "fluidos_edge_identity_request_duration_seconds",
    "Time to answer, long polls not counted.",
    ["route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10),
)
REFUSED = Counter(
    "fluidos_edge_identity_workloads_refused_total",
    "Workloads that got no SVID, by reason.",
    ["reason"],
)
CONNECTIONS_CUT = Counter(
    "fluidos_edge_identity_connections_cut_total",
    "Connections ended by the issuer, by why (silent, too_many, slow_handshake).",
    ["why"],
)
HANDSHAKES_REFUSED = Counter(
    "fluidos_edge_identity_handshakes_refused_total",
    "TLS handshakes that ended without a peer that is known here.",
)
AUTHORITIES = Gauge("fluidos_edge_identity_authorities", "Certificates in the trust domain's own bundle.")
AUTHORITY_ENDS = Gauge(
    "fluidos_edge_identity_authority_end_timestamp_seconds", "End of the authority that signs now, in Unix time."
)
STORE_FAILED = Counter(
    "fluidos_edge_identity_store_failures_total",
    "Looks after the authority that could not be finished; what was there stays in use.",
)
BUNDLE_FETCHES = Counter(
    "fluidos_edge_identity_bundle_fetches_total",
    "Bundles of federated trust domains that were asked for, by what came of it (taken, same, refused, failed).",
    ["trust_domain", "outcome"],
)
BUNDLE_FETCHED = Gauge(
    "fluidos_edge_identity_bundle_fetched_timestamp_seconds",
    "When a federated trust domain's bundle was last fetched and believed, in Unix time.",
    ["trust_domain"],
)
