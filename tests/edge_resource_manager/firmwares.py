"""Firmware of the catalog that tests start from, as the flash controller leaves it."""

from typing import Any

from crds.kube.client import Kube
from crds.models.firmware import Firmware

BOARD = "nrf52840dk"
THERMOMETER, WIND = "0a" * 32, "0b" * 32
NOW = "2026-11-21T12:00:00Z"


def sensor(kind: str, unit: str, **changed: Any) -> dict[str, Any]:
    return {
        "uid": "1",
        "model": f"{kind.lower()}-model",
        "measurements": [{"type": kind, "unit": unit}],
        "latencyMicroseconds": 12_000,
        "topic": "device/{device}/{sensor}",
        **changed,
    }


def image(measurement: str | None, *, board: str = BOARD, size: int = 50_000, **changed: Any) -> dict[str, Any]:
    digest = f"sha256:{'1' * 64}"
    measured = {} if measurement is None else {"measurement": measurement}
    described = {"manifestDigest": digest, "digest": digest, "sizeBytes": size, "format": "MCUboot"}
    return {"board": board, **described, **measured, **changed}


def status(
    application: str,
    measurement: str | None,
    *sensors: dict[str, Any],
    version: str = "1.0.0",
    ready: str = "True",
    board: str = BOARD,
    **changed: Any,
) -> dict[str, Any]:
    said = {"type": "Ready", "status": ready, "reason": "Ready", "message": "", "lastTransitionTime": NOW}
    return {
        "conditions": [said],
        "digest": f"sha256:{'2' * 64}",
        "application": application,
        "version": version,
        "boards": [image(measurement, board=board, **changed)],
        "sensors": list(sensors),
    }


def firmware(name: str, status: dict[str, Any], *, namespace: str = "edge") -> Firmware:
    return Firmware.parse({**manifest(name, namespace=namespace), "status": status})


def manifest(name: str, *, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "Firmware",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"repository": f"registry.example/firmware/{name}", "tag": "1.0.0"},
    }


async def publish(kube: Kube, name: str, status: dict[str, Any], *, namespace: str) -> None:
    """Into the catalog, as the flash controller does."""
    await kube.create(Firmware.parse(manifest(name, namespace=namespace)), manager="test")
    await kube.apply_status(Firmware, name=name, namespace=namespace, status=status, manager="flash-controller")
