"""The gateway as a whole: watches feed the store, requests read it and sell, housekeeping clears up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from crds.errors import Terminal
from crds.kube.client import CONFIG_MAPS, Kind, Kube
from crds.kube.process import probes, until_stopped
from crds.kube.watch import Change, follow
from crds.models.fluidos import FLUIDOS_NAMESPACE, IDENTITY_CONFIG_MAP, Contract, Flavor, Transaction
from crds.models.leafdevice import LeafDevice
from edge_resource_manager.gateway.app import Rear
from edge_resource_manager.gateway.egress import EgressGate
from edge_resource_manager.gateway.events import Hub
from edge_resource_manager.gateway.guard import Guard
from edge_resource_manager.gateway.housekeeping import PERIOD_SECONDS, Housekeeper
from edge_resource_manager.gateway.ledger import Ledger
from edge_resource_manager.gateway.sales import Sales
from edge_resource_manager.gateway.settings import GatewaySettings
from edge_resource_manager.gateway.store import Store

log = structlog.get_logger(__name__)

STOP_SECONDS = 3.0
IDLE_SECONDS = 75.0


def utc_now() -> datetime:
    """The clock of the process."""
    return datetime.now(UTC)


class Gateway:
    """One gateway of one cluster.

    Args:
        kube: of the cluster.
        settings: flags.
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
        clock: Callable[[], datetime] = utc_now,
        tidy_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._settings = settings
        self._address = settings.address
        self.hub = Hub()
        self.store = Store(self.hub, price=settings.price)
        self._watches = Watches(kube, self.store)
        self.guard = Guard()
        ledger = Ledger(kube)
        sales = Sales(self.store, ledger, gate=EgressGate(settings.egress), terms=settings.terms, clock=clock)
        self.housekeeper = Housekeeper(kube, self.store, ledger=ledger, sales=sales, clock=clock, period=tidy_seconds)
        self.rear = Rear(store=self.store, sales=sales, hub=self.hub, ready=self.is_ready)
        self.app = self.rear.app(self.guard)

    def is_ready(self) -> bool:
        """Whether the store is what the API server has."""
        return self._watches.are_complete()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            Terminal: the address cannot be listened on.
        """
        async with (
            probes(host=self._settings.metrics_host, port=self._settings.metrics_port, ready=self.is_ready),
            serving(self.app, *self._address) as server,
        ):
            await until_stopped(
                stop, *(work() for work in self._watches.work), self.guard.watch(server), self._keep_house()
            )

    async def _keep_house(self) -> None:
        await self._watches.wait()
        await self.housekeeper.run()


class Watches:
    """Everything that the store is fed by, and whether all of it has been listed once."""

    def __init__(self, kube: Kube, store: Store) -> None:
        self._kube = kube
        self._synced: list[asyncio.Event] = []
        self.work: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._follow(Kind.of(Flavor.crd), store.flavor_seen),
            self._follow(Kind.of(LeafDevice.crd), store.leaf_seen),
            self._follow(Kind.of(Transaction.crd), store.transactions.seen),
            self._follow(Kind.of(Contract.crd), store.contracts.seen),
            self._follow(
                CONFIG_MAPS,
                store.identity_seen,
                namespace=FLUIDOS_NAMESPACE,
                query={"fieldSelector": f"metadata.name={IDENTITY_CONFIG_MAP}"},
            ),
        ]

    def are_complete(self) -> bool:
        """The store is what the API server has."""
        return all(each.is_set() for each in self._synced)

    async def wait(self) -> None:
        """Until it is."""
        for each in self._synced:
            await each.wait()

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


@contextlib.asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[web.Server]:
    """Serve until the context ends, which ends streams at once and gives requests in hand a moment.

    Raises:
        Terminal: the address cannot be listened on.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=STOP_SECONDS,
        # A body that is small on the wire and large in memory is nobody's reservation.
        auto_decompress=False,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise Terminal(f"--listen {host}:{port}: {error.strerror or error}", reason="NoPort") from error
        log.info("listening", host=host, port=runner.addresses[0][1])
        assert runner.server is not None  # noqa: S101 - set up two lines ago
        yield runner.server
    finally:
        await runner.cleanup()
