"""Removes what is over: expired transactions and contracts, and those of flavors that exist no more.

A flavor that is only unavailable keeps its contracts: its device may come back. One that is absent from the store is
looked for in the API server before anything is removed: a store may lag, a deleted contract does not come back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from datetime import datetime

import structlog

from crds.conditions import timestamp
from crds.errors import EdgeError
from crds.kube.client import Kind, Kube, NotFound
from crds.models.fluidos import Flavor
from edge_resource_manager.domain.reservations import agreement, flavor_id_of, is_live
from edge_resource_manager.gateway import metrics
from edge_resource_manager.gateway.ledger import Ledger
from edge_resource_manager.gateway.records import R, Records, is_ours
from edge_resource_manager.gateway.sales import Sales
from edge_resource_manager.gateway.store import Store

log = structlog.get_logger(__name__)

PERIOD_SECONDS = 1.0


class Housekeeper:
    """One look after the other, once the store is complete.

    Args:
        kube: to look for flavors.
        store: what is offered and sold.
        ledger: to remove things.
        sales: whose locks are held meanwhile.
        clock: now, in UTC.
        period: seconds between two looks; a flavor has to be absent from two of them in a row.
    """

    def __init__(
        self,
        kube: Kube,
        store: Store,
        *,
        ledger: Ledger,
        sales: Sales,
        clock: Callable[[], datetime],
        period: float = PERIOD_SECONDS,
    ) -> None:
        self._kube = kube
        self._store = store
        self._ledger = ledger
        self._sales = sales
        self._clock = clock
        self._period = period
        self._absent: set[str] = set()

    async def run(self) -> None:
        """Until cancelled. What fails is looked at again the next time."""
        while True:
            await asyncio.sleep(self._period * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
            try:
                await self.look()
            except EdgeError as error:
                log.warning("will clean up later", error=str(error))

    async def look(self) -> None:
        """One look at everything."""
        await self._expire(self._store.contracts)
        await self._expire(self._store.transactions)
        absent = {flavor_id for flavor_id in self._sold() if self._store.find(flavor_id) is None}
        for flavor_id in absent & self._absent:
            await self._withdraw(flavor_id)
        self._absent = absent
        for kind, size in self._store.sizes().items():
            metrics.OBJECTS.labels(kind).set(size)

    async def _expire(self, records: Records[R]) -> None:
        # Ends that the gateway wrote have one form, which sorts as time does: no need to parse thousands each second.
        now = timestamp(self._clock())
        over = [each for each in records.ours() if each.spec.expiration_time and each.spec.expiration_time <= now]
        for item in over:
            async with self._sales.lock(flavor_id_of(item)):
                held = records.get(item.metadata.name)
                if held is not None and not is_live(held, self._clock()):
                    await self._remove(records, held, why="expired")

    async def _withdraw(self, flavor_id: str) -> None:
        book = self._store.book(flavor_id)
        contracts = [each for each in book.contracts.values() if is_ours(each)]
        transactions = [each for each in book.transactions.values() if is_ours(each)]
        for namespace in {each.metadata.namespace for each in (*contracts, *transactions)}:
            if namespace is not None and await self._exists(namespace, flavor_id):
                return
        for contract in contracts:
            await self._remove(self._store.contracts, contract, why="withdrawn")
        for transaction in transactions:
            await self._remove(self._store.transactions, transaction, why="withdrawn")

    async def _exists(self, namespace: str, flavor_id: str) -> bool:
        try:
            await self._kube.request("GET", Kind.of(Flavor.crd).path(namespace=namespace, name=flavor_id))
        except NotFound:
            return False
        return True

    async def _remove(self, records: Records[R], item: R, *, why: str) -> None:
        await self._ledger.remove(records, item)
        metrics.REMOVED.labels(item.crd.kind, why).inc()
        log.info("removed", kind=item.crd.kind, name=item.metadata.name, flavor=flavor_id_of(item), why=why)

    def _sold(self) -> Iterator[str]:
        """Flavors that something of the gateway's takes a place of; those that are in the making are not missed."""
        for flavor_id in {*self._store.contracts.flavors(), *self._store.transactions.flavors()}:
            if not any(agreement(item) for item in self._store.book(flavor_id).entries):
                yield flavor_id
