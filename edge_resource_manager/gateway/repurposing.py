"""What idle devices could be made into, for whoever asks: fed by watches, computed when asked, stored nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime

import structlog

from crds.conditions import parse_timestamp
from crds.errors import InvalidField
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.flash_report import FINAL_STATES
from crds.models.fluidos import Contract, Price, Transaction
from crds.typedata import FlavorView
from edge_resource_manager.catalog import Catalog
from edge_resource_manager.domain.flavors import Terms
from edge_resource_manager.domain.repurposing import (
    NOTHING,
    Potential,
    is_over,
    parse_policy,
    potentials,
    sensor_flavor_id,
)
from edge_resource_manager.domain.reservations import agreement, is_live
from edge_resource_manager.gateway import metrics
from edge_resource_manager.gateway.offers import Listed, read_flavor
from edge_resource_manager.gateway.records import is_ours
from edge_resource_manager.gateway.store import Store
from spire.domain.spiffe_id import TrustDomain

log = structlog.get_logger(__name__)


class Repurposing:
    """Of one gateway.

    Args:
        store: what is offered and sold.
        price: of what could be offered.
        clock: now, in UTC.

    Attributes:
        catalog: of firmware.
        rollouts: all there are, by namespace and name.
    """

    def __init__(self, store: Store, *, price: Price, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._price = price
        self._clock = clock
        self._policy = NOTHING
        self._readers: dict[Key, frozenset[Key]] = {}
        self.catalog = Catalog()
        self.rollouts: dict[Key, FirmwareRollout] = {}

    def policy_seen(self, change: Change) -> None:
        """The ConfigMap is there, or gone. One that cannot be read changes nothing."""
        try:
            self._policy = NOTHING if isinstance(change, Gone) else parse_policy(change.obj)
        except InvalidField as error:
            log.error("repurposing policy cannot be read", error=str(error), consequence="the one before still holds")
            metrics.REPURPOSING_POLICY_BROKEN.set(1)
        else:
            metrics.REPURPOSING_POLICY_BROKEN.set(0)

    def firmware_seen(self, change: Change) -> None:
        """A Firmware appeared, changed or went."""
        self.catalog.seen(change)

    def rollout_seen(self, change: Change) -> None:
        """A FirmwareRollout appeared, changed or went."""
        match change:
            case Put(key, obj):
                try:
                    self.rollouts[key] = FirmwareRollout.parse(obj)
                except InvalidField as error:
                    REFUSED_OBJECTS.labels(FirmwareRollout.crd.kind).inc()
                    log.warning("rollout not readable, its last readable form counts", key=key, error=str(error))
            case Gone(key):
                self.rollouts.pop(key, None)

    def route_seen(self, change: Change) -> None:
        """A DataRoute appeared, changed or went: whoever reads a device uses it."""
        self._readers.pop(change.key, None)
        if isinstance(change, Put):
            sources = (change.obj.get("status") or {}).get("sources") or ()
            self._readers[change.key] = frozenset((change.key[0], source["device"]) for source in sources)

    def listed(self, matches: Callable[[FlavorView], bool], *, viewer: TrustDomain | None) -> Iterator[Listed]:
        """What could be made for a buyer, of what he may see."""
        terms = self._terms()
        if terms is None or not self._policy.grants:
            return
        tried = self._tried()
        for key in sorted(self._store.leaves.keys() - self.used()):
            for potential in self._of(key, viewer, tried=tried.get(key)):
                if matches(potential.view):
                    listed = _listed(potential, terms=terms)
                    if self._store.find(listed.flavor_id) is None and self._store.may_see(viewer, listed):
                        yield listed

    def find(self, flavor_id: str, *, viewer: TrustDomain | None, transaction: str) -> Listed | None:
        """What could be made for a buyer who, perhaps, has reserved it already."""
        terms = self._terms()
        if terms is None or not self._policy.grants:
            return None
        tried = self._tried()
        for key in self._store.leaves.keys() - self.used(but=transaction):
            for potential in self._of(key, viewer, tried=tried.get(key)):
                if potential.flavor_id(terms) == flavor_id:
                    return _listed(potential, terms=terms)
        return None

    def used(self, *, but: str | None = None) -> frozenset[Key]:
        """Devices that somebody uses, or is promised: by a contract, a route or a rollout.

        Args:
            but: a transaction that does not count.
        """
        store, now = self._store, self._clock()
        taken = {
            flavor_id: store.find(flavor_id)
            for flavor_id in {*store.transactions.flavors(), *store.contracts.flavors()}
            if store.book(flavor_id).taken(now, but=but or "")
        }
        sold = (listed.leaf for listed in taken.values() if listed is not None and listed.leaf is not None)
        missed = self._leaves_of({flavor_id for flavor_id, listed in taken.items() if listed is None})
        read = (key for keys in self._readers.values() for key in keys)
        return frozenset((*sold, *missed, *read, *_flashed(self.rollouts.values()), *self.promised(but=but)))

    def _leaves_of(self, flavor_ids: AbstractSet[str]) -> Iterator[Key]:
        """Devices of flavors that are not there, for a moment or for good, though something is sold of them."""
        terms = self._terms()
        if not flavor_ids or terms is None:
            return
        for key, leaf in self._store.leaves.items():
            names = (sensor_flavor_id(leaf, sensor, domain=terms.identity.domain) for sensor in leaf.spec.sensors)
            if not flavor_ids.isdisjoint(names):
                yield key

    def promised(self, *, but: str | None = None) -> frozenset[Key]:
        """Devices that the gateway is going to make into something else."""
        now = self._clock()
        items: Iterable[Transaction | Contract] = (*self._store.transactions.agreed(), *self._store.contracts.agreed())
        agreed = (
            (item.metadata.namespace or "", made.device)
            for item in items
            if is_live(item, now) and (made := agreement(item)) and _reserved(item) != but
        )
        return frozenset((*agreed, *_flashed(each for each in self.rollouts.values() if is_ours(each))))

    def _of(self, key: Key, viewer: TrustDomain | None, *, tried: datetime | None) -> Iterator[Potential]:
        leaf, catalog = self._store.leaves[key], self.catalog.of(key[0])
        return potentials(leaf, catalog, policy=self._policy, buyer=viewer, tried=tried, now=self._clock())

    def _tried(self) -> dict[Key, datetime]:
        """When a rollout of the gateway last ended, by device."""
        last: dict[Key, datetime] = {}
        for (namespace, _), rollout in self.rollouts.items():
            ended = parse_timestamp((rollout.status and rollout.status.finished_time) or "")
            if ended is not None and is_ours(rollout):
                for name in rollout.spec.devices.names or ():
                    last[namespace, name] = max(ended, last.get((namespace, name), ended))
        return last

    def _terms(self) -> Terms | None:
        identity = self._store.identity
        return Terms(identity=identity, price=self._price) if identity else None


def _listed(potential: Potential, *, terms: Terms) -> Listed:
    listed = read_flavor(potential.flavor(terms))
    return replace(listed, offer=replace(listed.offer, agreed=potential.agreed) if listed.offer else None)


def _flashed(rollouts: Iterable[FirmwareRollout]) -> Iterator[Key]:
    """Devices that rollouts have not done with."""
    for rollout in rollouts:
        namespace, status = rollout.metadata.namespace or "", rollout.status
        if status is not None and (status.devices or is_over(rollout)):
            yield from ((namespace, each.name) for each in status.devices if each.state not in FINAL_STATES)
        else:
            yield from ((namespace, name) for name in rollout.spec.devices.names or ())


def _reserved(item: Transaction | Contract) -> str:
    return item.spec.transaction_id if isinstance(item, Contract) else item.metadata.name
