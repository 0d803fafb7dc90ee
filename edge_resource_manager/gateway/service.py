"""The gateway as a whole: watches feed the store, requests read it and sell, housekeeping clears up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from crds.kube.client import CONFIG_MAPS, Kind, Kube
from crds.kube.process import probes, until_stopped
from crds.kube.watch import Change, follow
from crds.models.buyers import BUYERS_CONFIG_MAP
from crds.models.dataroute import DataRoute
from crds.models.firmware import Firmware
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.fluidos import FLUIDOS_NAMESPACE, IDENTITY_CONFIG_MAP, Contract, Flavor, Transaction
from crds.models.leafdevice import LeafDevice
from crds.models.repurposing import REPURPOSING_CONFIG_MAP
from edge_resource_manager.gateway import metrics
from edge_resource_manager.gateway.app import Rear
from edge_resource_manager.gateway.egress import EgressGate
from edge_resource_manager.gateway.events import Hub
from edge_resource_manager.gateway.housekeeping import PERIOD_SECONDS, Housekeeper
from edge_resource_manager.gateway.keeper import Keeper
from edge_resource_manager.gateway.ledger import Ledger
from edge_resource_manager.gateway.notary import Notary
from edge_resource_manager.gateway.peers import Peers
from edge_resource_manager.gateway.permissions import Permissions
from edge_resource_manager.gateway.repurposing import Repurposing
from edge_resource_manager.gateway.sales import Sales
from edge_resource_manager.gateway.settings import GatewaySettings
from edge_resource_manager.gateway.store import Store
from spire.domain.authorization import any_known
from spire.identity import IdentitySource
from spire.serving.guard import Guard
from spire.serving.server import serving
from spire.tls import server_context


def utc_now() -> datetime:
    """The clock of the process."""
    return datetime.now(UTC)


class Gateway:
    """One gateway of one cluster.

    Args:
        kube: of the cluster.
        settings: flags.
        identity: of the gateway; None serves plain HTTP to whoever comes.
        clock: now, in UTC.
        tidy_seconds: between two looks for what is over.

    Raises:
        InvalidField: a flag that cannot be understood.
    """

    def __init__(
        self,
        kube: Kube,
        settings: GatewaySettings,
        *,
        identity: IdentitySource | None,
        clock: Callable[[], datetime] = utc_now,
        tidy_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._settings = settings
        self._address = settings.address
        self._identity = identity
        self.hub = Hub()
        permissions = Permissions(self.hub.close)
        self.store = Store(self.hub, price=settings.price, may=permissions.may)
        repurposing = Repurposing(self.store, price=settings.price, clock=clock)
        self._watches = Watches(kube, self.store, permissions, repurposing)
        self.guard = Guard(cuts=metrics.CONNECTIONS_CUT)
        ledger = Ledger(kube)
        sales = Sales(
            self.store,
            ledger,
            repurposing=repurposing,
            notary=Notary(identity, clock=clock),
            # Where nobody proves anything, endpoints need not either.
            gate=EgressGate(replace(settings.egress, plain_http=True) if identity is None else settings.egress),
            terms=settings.terms,
            clock=clock,
        )
        self.housekeeper = Housekeeper(kube, self.store, ledger=ledger, sales=sales, clock=clock, period=tidy_seconds)
        self.keeper = Keeper(kube, self.store, repurposing=repurposing, ledger=ledger, sales=sales, clock=clock)
        self.rear = Rear(
            store=self.store,
            repurposing=repurposing,
            sales=sales,
            hub=self.hub,
            peers=Peers(identity),
            ready=self.is_ready,
            guard=self.guard,
        )
        self.app = self.rear.app()

    def is_ready(self) -> bool:
        """Whether the store is what the API server has."""
        return self._watches.are_complete()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            Terminal: the address cannot be listened on.
        """
        tls = server_context(self._identity, authorize=any_known()) if self._identity else None
        async with (
            probes(host=self._settings.metrics_host, port=self._settings.metrics_port, ready=self.is_ready),
            serving(self.app, self._address, tls=tls, guard=self.guard, refused=metrics.HANDSHAKES_REFUSED),
        ):
            await until_stopped(
                stop,
                *(work() for work in self._watches.work),
                *map(self._once_complete, (self.housekeeper.run, self.keeper.run)),
            )

    async def _once_complete(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await self._watches.wait()
        await work()


class Watches:
    """Everything that the store is fed by, and whether all of it has been listed once."""

    def __init__(self, kube: Kube, store: Store, permissions: Permissions, repurposing: Repurposing) -> None:
        self._kube = kube
        self._synced: list[asyncio.Event] = []
        self.work: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._follow(Kind.of(Flavor.crd), store.flavor_seen),
            self._follow(Kind.of(LeafDevice.crd), store.leaf_seen),
            self._follow(Kind.of(Transaction.crd), store.transactions.seen),
            self._follow(Kind.of(Contract.crd), store.contracts.seen),
            self._follow(Kind.of(DataRoute.crd), _both(store.measurements.route_seen, repurposing.route_seen)),
            self._follow(Kind.of(Firmware.crd), repurposing.firmware_seen),
            self._follow(Kind.of(FirmwareRollout.crd), repurposing.rollout_seen),
            self._follow_config_map(IDENTITY_CONFIG_MAP, store.identity_seen),
            self._follow_config_map(BUYERS_CONFIG_MAP, permissions.seen),
            self._follow_config_map(REPURPOSING_CONFIG_MAP, repurposing.policy_seen),
        ]

    def are_complete(self) -> bool:
        """The store is what the API server has."""
        return all(each.is_set() for each in self._synced)

    async def wait(self) -> None:
        """Until it is."""
        for each in self._synced:
            await each.wait()

    def _follow_config_map(
        self, name: str, changed: Callable[[Change], None]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        selector = {"fieldSelector": f"metadata.name={name}"}
        return self._follow(CONFIG_MAPS, changed, namespace=FLUIDOS_NAMESPACE, query=selector)

    def _follow(
        self,
        kind: Kind,
        changed: Callable[[Change], None],
        *,
        namespace: str | None = None,
        query: dict[str, str] | None = None,
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        synced = asyncio.Event()
        self._synced.append(synced)
        return partial(follow, self._kube, kind, changed=changed, synced=synced, namespace=namespace, query=query)


def _both(first: Callable[[Change], None], second: Callable[[Change], None]) -> Callable[[Change], None]:
    def seen(change: Change) -> None:
        first(change)
        second(change)

    return seen
