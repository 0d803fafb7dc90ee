"""What this cluster offers, as the gateway sees it: fed by watches, read by requests, never awaited.

A sensor is offered from its Flavor; where the API server refused that Flavor (a stock FLUIDOS webhook refuses sensors),
from the LeafDevice itself. Every difference that a buyer can see goes to the event stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from crds.errors import InvalidField
from crds.kube.watch import Change, Key, Put
from crds.models.fluidos import Contract, Flavor, NodeIdentity, Price, Transaction
from crds.models.leafdevice import LeafDevice
from crds.typedata import FlavorView, sensor_from_flavor
from edge_resource_manager.domain import flavors, wire
from edge_resource_manager.domain.conversion import flavor_to_wire
from edge_resource_manager.domain.identity import parse_identity
from edge_resource_manager.domain.reservations import Book, Offer, flavor_id_of
from edge_resource_manager.gateway.events import Hub
from edge_resource_manager.gateway.records import Records
from edge_resource_manager.reasons import LeafCondition

log = structlog.get_logger(__name__)

Slot = tuple[int, Key]
"""Where an offer comes from: a Flavor goes before a LeafDevice."""

_FLAVOR, _LEAF_DEVICE = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A flavor of any type, ready to be filtered and sent. `view` and `offer` are of sensors only."""

    body: dict[str, Any]
    type_data: dict[str, Any]
    type: wire.TypeName
    available: bool
    leaf: Key | None = None
    view: FlavorView | None = None
    offer: Offer | None = None


class Store:
    """Flavors, LeafDevices, own identity; transactions and contracts.

    Args:
        hub: takes the events.
        price: of flavors that are offered from LeafDevices.
    """

    def __init__(self, hub: Hub, *, price: Price) -> None:
        self._hub = hub
        self._price = price
        self._offers: dict[str, dict[Slot, Listed]] = {}
        self._leaves: dict[Key, LeafDevice] = {}
        self._stand_ins: dict[Key, set[str]] = {}
        self.identity: NodeIdentity | None = None
        self.transactions: Records[Transaction] = Records(
            Transaction, place=lambda item: (flavor_id_of(item), item.metadata.name)
        )
        self.contracts: Records[Contract] = Records(Contract, place=_sold_place)

    def listed(self, *types: wire.TypeName) -> Iterator[Listed]:
        """What is available of these types, by flavor ID."""
        for flavor_id in sorted(self._offers):
            listed = self.find(flavor_id)
            if listed is not None and listed.available and listed.type in types:
                yield listed

    def find(self, flavor_id: str) -> Listed | None:
        """A flavor, available or not. Of several that have one name, which sensors' never have, always the same."""
        slots = self._offers.get(flavor_id)
        return slots[min(slots)] if slots else None

    def offer(self, flavor_id: str) -> Offer | None:
        """A sensor flavor to be sold."""
        listed = self.find(flavor_id)
        return listed.offer if listed else None

    def book(self, flavor_id: str) -> Book:
        """Who has places of a flavor."""
        return Book(self.transactions.of_flavor(flavor_id), self.contracts.of_flavor(flavor_id))

    def body(self, listed: Listed) -> dict[str, Any]:
        """A flavor's JSON. Its timestamp is when its device was last heard of, which no event tells of."""
        leaf = self._leaves.get(listed.leaf) if listed.leaf else None
        seen = leaf.status.last_seen_time if leaf and leaf.status else None
        return {**listed.body, "timestamp": seen} if seen else listed.body

    def sizes(self) -> dict[str, int]:
        """Objects by kind, for metrics."""
        return {
            "Flavor": len(self._offers),
            "LeafDevice": len(self._leaves),
            "Transaction": len(self.transactions),
            "Contract": len(self.contracts),
        }

    def flavor_seen(self, change: Change) -> None:
        """A Flavor is there, or gone."""
        listed = None
        if isinstance(change, Put):
            try:
                listed = _listed(Flavor.parse(change.obj))
            except InvalidField as error:
                log.warning("flavor is not offered", key=change.key, error=str(error))
        self._set(change.key[1], (_FLAVOR, change.key), listed)

    def leaf_seen(self, change: Change) -> None:
        """A LeafDevice is there, or gone."""
        leaf = None
        if isinstance(change, Put):
            try:
                leaf = LeafDevice.parse(change.obj)
            except InvalidField as error:
                log.warning("leaf device is ignored", key=change.key, error=str(error))
        if leaf is None:
            self._leaves.pop(change.key, None)
        else:
            self._leaves[change.key] = leaf
        self._stand_in(change.key, leaf)

    def identity_seen(self, change: Change) -> None:
        """The node identity's ConfigMap is there, or gone."""
        identity = None
        if isinstance(change, Put):
            try:
                identity = parse_identity(change.obj)
            except InvalidField as error:
                log.warning("node identity is incomplete", error=str(error))
        if identity != self.identity:
            self.identity = identity
            for key, leaf in self._leaves.items():
                self._stand_in(key, leaf)

    def _stand_in(self, key: Key, leaf: LeafDevice | None) -> None:
        """Offer a device's sensors in place of the Flavors that the API server refused."""
        offered: dict[str, Listed] = {}
        if leaf is not None and self.identity is not None and _is_refused(leaf):
            terms = flavors.Terms(identity=self.identity, price=self._price)
            available = flavors.is_available(leaf)
            for sensor in leaf.spec.sensors:
                try:
                    flavor = flavors.flavor_of(leaf, sensor, terms=terms, available=available)
                    offered[flavor.metadata.name] = _listed(flavor)
                except InvalidField as error:
                    log.warning("sensor is not offered", key=key, sensor=sensor.uid, error=str(error))
        slot = (_LEAF_DEVICE, key)
        for name in self._stand_ins.pop(key, set()) - offered.keys():
            self._set(name, slot, None)
        for name, listed in offered.items():
            self._set(name, slot, listed)
            self._stand_ins.setdefault(key, set()).add(name)

    def _set(self, flavor_id: str, slot: Slot, listed: Listed | None) -> None:
        """Put one object's idea of a flavor, or take it away, and tell what buyers see of it."""
        before = self.find(flavor_id)
        slots = self._offers.setdefault(flavor_id, {})
        slots.pop(slot, None)
        if listed is not None:
            slots[slot] = listed
        if not slots:
            del self._offers[flavor_id]
        self._tell(flavor_id, before)

    def _tell(self, flavor_id: str, before: Listed | None) -> None:
        """The event of one difference, if a buyer of sensors can see it."""
        after = self.find(flavor_id)
        was = before is not None and before.type == "sensor" and before.available
        if after is not None and after.type == "sensor" and after.available:
            if not was or before is None or before.body != after.body:
                self._publish(flavor_id, {"type": "REFRESH", "flavor": self.body(after)})
        elif was:
            reason = "device is not available" if after else "flavor is gone"
            self._publish(flavor_id, wire.Withdraw(flavor_id=flavor_id, reason=reason).dump())

    def _publish(self, flavor_id: str, event: dict[str, Any]) -> None:
        self._hub.publish(flavor_id, orjson.dumps(event) + b"\n")


def _listed(flavor: Flavor) -> Listed:
    """Raises InvalidField where a sensor's typeData describes none: nobody could judge it."""
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
        offer=Offer(namespace=namespace, flavor_id=name, spec=spec, max_consumers=view.sensor.max_consumers)
        if view
        else None,
    )


def _leaf_of(flavor: Flavor) -> Key | None:
    for owner in flavor.metadata.owner_references:
        if owner.kind == LeafDevice.crd.kind:
            return flavor.metadata.namespace or "", owner.name
    return None


def _is_refused(leaf: LeafDevice) -> bool:
    conditions = leaf.status.conditions if leaf.status else ()
    return any(each.type == LeafCondition.FLAVOR_PUBLISHED and each.status == "False" for each in conditions)


def _sold_place(contract: Contract) -> tuple[str, str] | None:
    """Contracts about other types (a stock node's purchases) take no place of a sensor."""
    if contract.spec.flavor.spec.flavor_type.type_identifier != "Sensor":
        return None
    return flavor_id_of(contract), contract.spec.transaction_id
