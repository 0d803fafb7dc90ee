"""Metrics of the manager of devices, flavors and claims, beside those of `crds.kube.metrics`."""

from __future__ import annotations

from prometheus_client import Counter

DEVICE_CONDITIONS = Counter(
    "fluidos_edge_manager_device_conditions_total",
    "Conditions of LeafDevices that turned false, by reason.",
    ["reason"],
)
CLAIM_EVENTS = Counter(
    "fluidos_edge_manager_claim_events_total",
    "What happened to claims, by reason as in their Events (Bound, NoMatch, BindingLost ...).",
    ["reason"],
)
ANNOUNCEMENTS = Counter(
    "fluidos_edge_manager_announcements_total",
    "Datagrams of LAN discovery that were received, by what became of them.",
    ["outcome"],
)
