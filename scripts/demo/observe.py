"""What came of it: flavors and claims from the API servers, arrivals from the sink, acknowledgements from the log."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from crds.models.base import validate
from crds.models.fluidos import Flavor
from crds.models.leafdevice import LeafDevice
from crds.models.sensorclaim import SensorClaim
from crds.typedata import FlavorView, sensor_from_flavor
from scripts.demo.crew import get
from scripts.demo.inventory import STATIONS, LeafBoard, boards
from scripts.demo.site import Consumer, Provider
from scripts.sink.record import Fault, Received


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One Sensor flavor as its provider's cluster has it."""

    flavor: Flavor
    provider: Provider
    device: str
    view: FlavorView

    @property
    def board(self) -> LeafBoard:
        """What it is on."""
        return next(each for each in boards(self.provider.number) if each.name == self.device)

    @property
    def name(self) -> str:
        """Of the flavor."""
        return self.flavor.metadata.name


def simulated(provider: Provider) -> list[dict[str, Any]]:
    """The simulator's entries of a provider's sensors: a device publishes where its LeafDevice says."""
    found = []
    for leaf in map(LeafDevice.parse, provider.objects("/apis/edge.fluidos.eu/v1alpha1/leafdevices")):
        device = leaf.spec.source.name
        found += [
            {
                "device": device,
                "sensor": sensor.model,
                "types": [each.type for each in sensor.measurements],
                "topic": sensor.access.topic,
                **provider.connection(device),
                "integrity": sensor.integrity,
                "station": STATIONS[(provider.number - 1) % len(STATIONS)],
            }
            for sensor in leaf.spec.sensors
        ]
    return found


def offers(provider: Provider) -> list[Offer]:
    """The flavors of a provider whose LeafDevice is known, by device and model."""
    leaves = {
        leaf.metadata.name: leaf
        for leaf in map(LeafDevice.parse, provider.objects("/apis/edge.fluidos.eu/v1alpha1/leafdevices"))
    }
    found = []
    for flavor in map(Flavor.parse, provider.objects("/apis/nodecore.fluidos.eu/v1alpha1/flavors")):
        owner = next((each.name for each in flavor.metadata.owner_references), "")
        if leaf := leaves.get(owner):
            view = sensor_from_flavor(flavor.spec)
            found.append(Offer(flavor=flavor, provider=provider, device=leaf.spec.source.name, view=view))
    return sorted(found, key=lambda each: (each.device, each.view.sensor.model))


def claims(consumer: Consumer) -> dict[str, SensorClaim]:
    """The claims of a consumer, by name."""
    listed = consumer.objects("/apis/edge.fluidos.eu/v1alpha1/sensorclaims")
    return {claim.metadata.name: claim for claim in map(SensorClaim.parse, listed)}


def known_clusters(consumer: Consumer) -> set[str]:
    """The addresses of the clusters that a consumer knows."""
    listed = consumer.objects("/apis/network.fluidos.eu/v1alpha1/knownclusters")
    return {item["spec"]["address"] for item in listed}


class SinkClient:
    """The sink, asked from outside."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def received(self, endpoint: str) -> Received:
        """All that one endpoint has."""
        return validate(Received, self._get(endpoint))

    def set_fault(self, endpoint: str, fault: Fault) -> None:
        """Let one endpoint misbehave, or behave again."""
        get(f"{self.url}/{endpoint}", put=orjson.dumps(fault.dump()))

    def _get(self, path: str) -> Any:
        return orjson.loads(get(f"{self.url}/{path}"))


def acknowledged(log: Path) -> dict[str, set[str]]:
    """Ids by topic that a broker took, from the simulator's log."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for line in log.read_text().splitlines():
        topic, reading = line.rsplit(" ", 1)
        found[topic].add(reading)
    return found
