"""Metrics of the manager of firmware, beside those of `crds.kube.metrics`."""

from __future__ import annotations

from prometheus_client import Counter

RESOLUTIONS = Counter(
    "fluidos_edge_flash_resolutions_total",
    "Looks at a registry for a Firmware, by what came of them (a condition's reason).",
    ["reason"],
)
