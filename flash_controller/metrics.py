"""Metrics of the manager of firmware, beside those of `crds.kube.metrics`."""

from __future__ import annotations

from prometheus_client import Counter

FIRMWARE_CHANGES = Counter(
    "fluidos_edge_flash_firmware_changes_total",
    "How often a Firmware became usable or ceased to be, by the reason of its condition Ready.",
    ["reason"],
)

FLASHES = Counter(
    "fluidos_edge_flash_devices_total",
    "Devices of rollouts that came to an end, by their state.",
    ["state"],
)
