"""What a provider remarks on a Sensor flavor beside what its device is: under `properties.additional`, as strings."""

from __future__ import annotations

from typing import Any


def observed(characteristics: dict[str, Any], microseconds: int | None) -> dict[str, Any]:
    """A flavor's `characteristics` with what its provider has measured; without, where that is None."""
    return _saying(characteristics, "observedLatencyMicros", microseconds)


def potential(characteristics: dict[str, Any], seconds: int) -> dict[str, Any]:
    """A flavor's `characteristics`, marked as what the device can be made into within so many seconds."""
    return _saying(characteristics, "repurposeSeconds", seconds)


def _saying(characteristics: dict[str, Any], name: str, number: int | None) -> dict[str, Any]:
    properties = characteristics.get("properties") or {}
    additional = {key: value for key, value in (properties.get("additional") or {}).items() if key != name}
    if number is not None:
        additional[name] = str(number)
    return {**characteristics, "properties": {**properties, "additional": additional}}
