"""What is counted of devices and their evidence; the issuer's other figures are beside its other parts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

APPRAISALS = Counter(
    "fluidos_edge_identity_appraisals_total",
    "Evidence that was judged, by what came of it: Attested, Legacy, or the reason of the refusal.",
    ["outcome"],
)
APPRAISAL_SECONDS = Histogram(
    "fluidos_edge_identity_appraisal_duration_seconds",
    "From the bytes of evidence to its verdict.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.5),
)
CHALLENGES = Counter("fluidos_edge_identity_challenges_total", "Challenges that were given.")
OPEN_CHALLENGES = Gauge("fluidos_edge_identity_challenges_open", "Challenges that may still be answered.")
PUT_OFF = Counter(
    "fluidos_edge_identity_device_calls_put_off_total", "Calls of devices that were put off, by why.", ["why"]
)
WITHDRAWN = Counter("fluidos_edge_identity_trust_withdrawn_total", "Devices that lost trust, by reason.", ["reason"])
POLICY_REFUSED = Counter(
    "fluidos_edge_identity_policy_refused_total", "Policies that could not be read; the last good one stayed."
)
POLICY_GOOD = Gauge(
    "fluidos_edge_identity_policy_good", "1 while the appraisal policy of the cluster is the one in use."
)
