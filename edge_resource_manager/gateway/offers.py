"""One flavor of the store: read once, then filtered and sent many times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from crds.kube.watch import Key
from crds.models.fluidos import Flavor
from crds.models.leafdevice import LeafDevice
from crds.remarks import observed
from crds.selector import Device, attributes, device
from crds.typedata import FlavorView, sensor_from_flavor
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.conversion import flavor_to_wire
from edge_resource_manager.domain.reservations import Offer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Listed:
    """A flavor of any type, ready to be filtered and sent. `view`, `device` and `offer` are of sensors only."""

    body: dict[str, Any]
    type_data: dict[str, Any]
    type: wire.TypeName
    available: bool
    leaf: Key | None = None
    view: FlavorView | None = None
    device: Device | None = None
    offer: Offer | None = None

    @property
    def flavor_id(self) -> str:
        """Its name."""
        return str(self.body["flavorID"])

    @property
    def is_offered(self) -> bool:
        """Whether buyers of sensors can see it."""
        return self.type == "sensor" and self.available

    def observed(self, microseconds: int | None) -> Listed:
        """The same with the latency that was measured of it, whatever its object says of that."""
        if self.view is None or self.view.observed_latency_microseconds == microseconds:
            return self
        view = replace(self.view, observed_latency_microseconds=microseconds)
        data = {**self.type_data, "characteristics": observed(self.type_data["characteristics"], microseconds)}
        return replace(
            self,
            body={**self.body, "type": {**self.body["type"], "data": data}},
            type_data=data,
            view=view,
            device=_device(view, cluster=self.body["providerID"]),
        )


def read_flavor(flavor: Flavor) -> Listed:
    """Read a Flavor.

    Raises:
        InvalidField: a sensor's typeData describes none: nobody could judge it.
    """
    spec, name, namespace = flavor.spec, flavor.metadata.name, flavor.metadata.namespace or ""
    kind = spec.flavor_type.type_identifier
    view = sensor_from_flavor(spec) if kind == "Sensor" else None
    sent = flavor_to_wire(flavor_id=name, spec=spec, timestamp=flavor.metadata.creation_timestamp or "")
    return Listed(
        body=sent.dump(),
        type_data=spec.flavor_type.type_data,
        type=sent.type.name,
        available=spec.availability,
        leaf=_leaf_of(flavor),
        view=view,
        device=_device(view, cluster=spec.provider_id) if view else None,
        offer=Offer(namespace=namespace, flavor_id=name, spec=spec, max_consumers=view.sensor.max_consumers)
        if view
        else None,
    )


def _device(view: FlavorView, *, cluster: str) -> Device:
    found = attributes(
        sensor=view.sensor,
        board=view.board,
        node=view.node,
        cluster=cluster,
        trust=view.trust,
        observed_latency_microseconds=view.observed_latency_microseconds,
    )
    return device(found)


def _leaf_of(flavor: Flavor) -> Key | None:
    for owner in flavor.metadata.owner_references:
        if owner.kind == LeafDevice.crd.kind:
            return flavor.metadata.namespace or "", owner.name
    return None
