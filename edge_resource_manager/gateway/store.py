"""What this cluster offers, as the gateway sees it: fed by watches, read by requests, never awaited.

A sensor is offered from its Flavor; where the API server refused that Flavor (a stock FLUIDOS webhook refuses sensors),
from the LeafDevice itself. Every difference that a buyer can see goes to the event stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from crds.errors import InvalidField
from crds.kube.watch import Change, Key, Put
from crds.models.fluidos import Contract, Flavor, NodeIdentity, Price, Transaction
from crds.models.leafdevice import LeafDevice
from edge_resource_manager.domain import flavors, wire
from edge_resource_manager.domain.buyers import May
from edge_resource_manager.domain.identity import parse_identity
from edge_resource_manager.domain.publication import proven, why_withdrawn
from edge_resource_manager.domain.reservations import Book, agreement, flavor_id_of
from edge_resource_manager.gateway.events import Hub
from edge_resource_manager.gateway.measurements import Measurements
from edge_resource_manager.gateway.offers import Listed, read_flavor
from edge_resource_manager.gateway.records import Records
from edge_resource_manager.reasons import DiscoveryReason, LeafCondition
from spire.domain.spiffe_id import TrustDomain

log = structlog.get_logger(__name__)

Slot = tuple[int, Key]
"""Where an offer comes from: a Flavor goes before a LeafDevice."""

_FLAVOR, _LEAF_DEVICE = 0, 1


class Store:
    """Flavors, LeafDevices, own identity; transactions and contracts.

    Args:
        hub: takes the events.
        price: of flavors that are offered from LeafDevices.
        may: what a trust domain may do with a flavor.

    Attributes:
        leaves: LeafDevices, by namespace and name.
    """

    def __init__(self, hub: Hub, *, price: Price, may: Callable[[TrustDomain | None, Listed | None], May]) -> None:
        self._hub = hub
        self._may = may
        self._price = price
        self._offers: dict[str, dict[Slot, Listed]] = {}
        self.leaves: dict[Key, LeafDevice] = {}
        self._stand_ins: dict[Key, set[str]] = {}
        self._observed: dict[str, int] = {}
        self.measurements = Measurements(self._observe)
        self.identity: NodeIdentity | None = None
        self.transactions: Records[Transaction] = Records(
            Transaction, place=lambda item: (flavor_id_of(item), item.metadata.name)
        )
        self.contracts: Records[Contract] = Records(Contract, place=_sold_place)

    def listed(self, *types: wire.TypeName, viewer: TrustDomain | None) -> Iterator[Listed]:
        """What is available of these types and may be seen, by flavor ID."""
        for flavor_id in sorted(self._offers):
            listed = self.find(flavor_id)
            if listed is not None and listed.available and listed.type in types and self.may_see(viewer, listed):
                yield listed

    def find(self, flavor_id: str) -> Listed | None:
        """A flavor, available or not. Of several that have one name, which sensors' never have, always the same."""
        slots = self._offers.get(flavor_id)
        return slots[min(slots)] if slots else None

    def may_see(self, viewer: TrustDomain | None, listed: Listed | None) -> bool:
        """Whether somebody may know of a flavor; of one that does not exist nobody does."""
        return self._may(viewer, listed) >= May.SEE

    def may(self, buyer: TrustDomain | None, listed: Listed | None) -> May:
        """What somebody may do with a flavor."""
        return self._may(buyer, listed)

    def device_of(self, flavor_id: str) -> Key | None:
        """The LeafDevice of a flavor, also of one that it is going to have."""
        listed = self.find(flavor_id)
        if listed is not None:
            return listed.leaf
        for item in self.book(flavor_id).entries:
            if agreed := agreement(item):
                return item.metadata.namespace or "", agreed.device
        return None

    def book(self, flavor_id: str) -> Book:
        """Who has places of a flavor."""
        return Book(self.transactions.of_flavor(flavor_id), self.contracts.of_flavor(flavor_id))

    def body(self, listed: Listed) -> dict[str, Any]:
        """A flavor's JSON. Its timestamp is when its device was last heard of, which no event tells of."""
        leaf = self.leaves.get(listed.leaf) if listed.leaf else None
        seen = leaf.status.last_seen_time if leaf and leaf.status else None
        return {**listed.body, "timestamp": seen} if seen else listed.body

    def sizes(self) -> dict[str, int]:
        """Objects by kind, for metrics."""
        return {
            "Flavor": len(self._offers),
            "LeafDevice": len(self.leaves),
            "Transaction": len(self.transactions),
            "Contract": len(self.contracts),
        }

    def flavor_seen(self, change: Change) -> None:
        """A Flavor is there, or gone."""
        listed = None
        if isinstance(change, Put):
            try:
                listed = read_flavor(Flavor.parse(change.obj))
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
            self.leaves.pop(change.key, None)
        else:
            self.leaves[change.key] = leaf
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
            for key, leaf in self.leaves.items():
                self._stand_in(key, leaf)

    def _stand_in(self, key: Key, leaf: LeafDevice | None) -> None:
        """Offer a device's sensors in place of the Flavors that the API server refused."""
        offered: dict[str, Listed] = {}
        if leaf is not None and self.identity is not None and _is_refused(leaf) and not why_withdrawn(leaf):
            terms = flavors.Terms(identity=self.identity, price=self._price)
            available = flavors.is_available(leaf)
            trust = proven(leaf.status.trust if leaf.status else None, ueid=leaf.spec.ueid, now=datetime.now(UTC))
            for sensor in leaf.spec.sensors:
                try:
                    flavor = flavors.flavor_of(leaf, sensor, terms=terms, available=available, trust=trust)
                    offered[flavor.metadata.name] = read_flavor(flavor)
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
            slots[slot] = listed.observed(self._observed.get(flavor_id))
        if not slots:
            del self._offers[flavor_id]
        self._tell(flavor_id, before)

    def _observe(self, flavor_id: str, microseconds: int | None) -> None:
        """Offer a flavor with the latency that was measured."""
        self._observed.pop(flavor_id, None)
        if microseconds is not None:
            self._observed[flavor_id] = microseconds
        for slot, listed in list(self._offers.get(flavor_id, {}).items()):
            self._set(flavor_id, slot, listed)

    def _tell(self, flavor_id: str, before: Listed | None) -> None:
        """The event of one difference, to each of the viewers who can see it."""
        after = self.find(flavor_id)
        for viewer in self._hub.viewers:
            was = before is not None and before.is_offered and self.may_see(viewer, before)
            if after is not None and after.is_offered and self.may_see(viewer, after):
                if not was or before is None or before.body != after.body:
                    self._publish(flavor_id, {"type": "REFRESH", "flavor": self.body(after)}, viewer=viewer)
            elif was:
                withdrawn = wire.Withdraw(flavor_id=flavor_id, reason=self._why(before, after))
                self._publish(flavor_id, withdrawn.dump(), viewer=viewer)

    def _why(self, before: Listed | None, after: Listed | None) -> str:
        if after is not None and not after.available:
            return "device is not available"
        leaf = self.leaves.get(before.leaf) if before and before.leaf else None
        return (leaf and why_withdrawn(leaf)) or "flavor is gone"

    def tell_lost(self, flavor_id: str, *, why: str, viewer: TrustDomain | None) -> None:
        """The event of a flavor that will not be what was promised."""
        self._publish(flavor_id, wire.Withdraw(flavor_id=flavor_id, reason=why[:1024]).dump(), viewer=viewer)

    def _publish(self, flavor_id: str, event: dict[str, Any], *, viewer: TrustDomain | None) -> None:
        self._hub.publish(flavor_id, orjson.dumps(event) + b"\n", viewer=viewer)


def _is_refused(leaf: LeafDevice) -> bool:
    """By the API server, and not because nobody trusts the device."""
    conditions = leaf.status.conditions if leaf.status else ()
    return any(
        (each.type, each.status, each.reason)
        == (LeafCondition.FLAVOR_PUBLISHED, "False", DiscoveryReason.FLAVOR_REFUSED)
        for each in conditions
    )


def _sold_place(contract: Contract) -> tuple[str, str] | None:
    """Contracts about other types (a stock node's purchases) take no place of a sensor."""
    if contract.spec.flavor.spec.flavor_type.type_identifier != "Sensor":
        return None
    return flavor_id_of(contract), contract.spec.transaction_id
