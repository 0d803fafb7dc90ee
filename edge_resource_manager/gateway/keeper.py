"""Sees to it that devices become what was bought: starts rollouts, turns contracts active, gives up, brings back.

Every look decides anew from contracts and rollouts as they are; names follow from the transaction. So a gateway that is
killed at any line does nothing twice and forgets nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime

import structlog

from crds.annotations import BUYER_SPIFFE_ID
from crds.conditions import parse_timestamp
from crds.errors import Retryable, Terminal
from crds.kube.client import AlreadyExists, Kube, NotFound
from crds.kube.queue import WorkQueue
from crds.kube.watch import Key, Put, key_of
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.fluidos import Contract
from crds.models.repurposing import AFTERWARDS, Agreed
from edge_resource_manager.domain.repurposing import failure, is_over, rollout, runs
from edge_resource_manager.domain.reservations import agreement, contract_name, flavor_id_of
from edge_resource_manager.gateway import metrics
from edge_resource_manager.gateway.ledger import MANAGER, Ledger
from edge_resource_manager.gateway.records import is_ours
from edge_resource_manager.gateway.repurposing import Repurposing
from edge_resource_manager.gateway.sales import Sales
from edge_resource_manager.gateway.store import Store
from spire.domain.spiffe_id import SpiffeId

log = structlog.get_logger(__name__)

PERIOD_SECONDS = 0.25
WORKERS = 4
_FORWARD, _BACK = "repurpose-", "bring-back-"


class Keeper:
    """Works once the store is complete.

    Args:
        kube: where rollouts are.
        store: what is offered and sold.
        repurposing: what is in the making.
        ledger: to end contracts.
        sales: whose locks are held meanwhile.
        clock: now, in UTC.
    """

    def __init__(
        self,
        kube: Kube,
        store: Store,
        *,
        repurposing: Repurposing,
        ledger: Ledger,
        sales: Sales,
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._store = store
        self._repurposing = repurposing
        self._ledger = ledger
        self._sales = sales
        self._clock = clock
        self._queued: set[Key] = set()
        self._queue: WorkQueue[Key] = WorkQueue("repurposing", self.reconcile, workers=WORKERS)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            while True:
                self.look()
                await asyncio.sleep(PERIOD_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret

    def look(self) -> None:
        """Put all into the queue that is in the making, or was made; what failed is there already, and waits."""
        sold = ((each.metadata.namespace or "", each.spec.transaction_id) for each in self._store.contracts.agreed())
        made = (
            (key[0], _transaction(key)) for key, each in self._repurposing.rollouts.items() if self._is_open(key, each)
        )
        for key in {*sold, *made} - self._queued:
            self._queued.add(key)
            self._queue.add(key)

    async def reconcile(self, key: Key) -> None:
        """Bring what was sold by one transaction of a namespace one step further.

        Raises:
            Retryable: the API server does not do as asked; that has an end, if only because the time is over.
        """
        namespace, transaction = key
        try:
            contract = self._store.contracts.get(contract_name(transaction))
            if contract is None:
                await self._tend((namespace, _FORWARD + transaction))
            else:
                async with self._sales.lock(flavor_id_of(contract)):
                    contract = self._store.contracts.get(contract_name(transaction))
                    agreed = agreement(contract) if contract else None
                    if contract is not None and agreed is not None:
                        await self._advance(contract, agreed)
        except Terminal as error:
            raise Retryable(str(error)) from error
        self._queued.discard(key)

    async def _advance(self, contract: Contract, agreed: Agreed) -> None:
        listed = self._store.find(flavor_id_of(contract))
        if listed is not None and listed.offer is not None and listed.available:
            await self._sales.activate(contract, listed.offer)
            metrics.REPURPOSED.labels("done").inc()
            log.info("device is what was bought", device=agreed.device, contract=contract.metadata.name)
            return
        key = (contract.metadata.namespace or "", _FORWARD + contract.spec.transaction_id)
        made = self._repurposing.rollouts.get(key)
        if (until := parse_timestamp(agreed.until or "")) is None or until <= self._clock():
            await self._give_up(contract, agreed, why=f"the device was not what was bought within {agreed.seconds} s")
        elif made is None:
            wanted = rollout(
                key[1],
                namespace=key[0],
                device=agreed.device,
                firmware=agreed.firmware,
                seconds=agreed.seconds,
                afterwards=agreed.afterwards,
            )
            await self._begin(wanted, outcome="begun")
        elif (why := failure(made)) is not None:
            await self._give_up(contract, agreed, why=why)

    async def _give_up(self, contract: Contract, agreed: Agreed, *, why: str) -> None:
        """End a contract and its reservation; what became of its rollout is seen to when that is looked at."""
        transaction = self._store.transactions.get(contract.spec.transaction_id)
        if transaction is not None:
            await self._ledger.remove(self._store.transactions, transaction)
        await self._ledger.remove(self._store.contracts, contract)
        buyer = contract.metadata.annotations.get(BUYER_SPIFFE_ID)
        viewer = SpiffeId.parse(buyer).trust_domain if buyer else None
        self._store.tell_lost(flavor_id_of(contract), why=why, viewer=viewer)
        metrics.REPURPOSED.labels("given_up").inc()
        log.warning("device did not become what was bought", device=agreed.device, why=why)

    async def _tend(self, key: Key) -> None:
        """Stop what nobody waits for any more, and bring back what shall run when nobody reads the device."""
        made = self._repurposing.rollouts.get(key)
        if made is None or not self._is_open(key, made):
            return
        if not is_over(made):
            if made.spec.desired in ("Run", "Suspend"):
                await self._cancel(key)
            return
        (device,), firmware = made.spec.devices.names or ("",), made.metadata.annotations.get(AFTERWARDS)
        if firmware is None or not self._needs(key[0], device, firmware) or not self._is_latest(key, made):
            return
        async with self._sales.lock("", device=(key[0], device)):
            if (key[0], device) not in self._repurposing.used() and self._needs(key[0], device, firmware):
                name = _BACK + _transaction(key)
                wanted = rollout(name, namespace=key[0], device=device, firmware=firmware, afterwards=firmware)
                await self._begin(wanted, outcome="brought_back")

    def _is_open(self, key: Key, made: FirmwareRollout) -> bool:
        """Whether something may have to be done about a rollout: of most that repurposed a device nothing any more."""
        if not _is_forward(key, made):
            return False
        back = (key[0], _BACK + _transaction(key))
        return not is_over(made) or (AFTERWARDS in made.metadata.annotations and back not in self._repurposing.rollouts)

    def _is_latest(self, key: Key, made: FirmwareRollout) -> bool:
        """Of those that repurposed this device."""
        others = (
            (each.metadata.creation_timestamp or "", name)
            for (namespace, name), each in self._repurposing.rollouts.items()
            if _is_forward((namespace, name), each) and namespace == key[0] and each.spec.devices == made.spec.devices
        )
        return max(others) == (made.metadata.creation_timestamp or "", key[1])

    def _needs(self, namespace: str, device: str, firmware: str) -> bool:
        """Whether a device runs something else; nobody needs what is not in the catalog."""
        leaf, entry = self._store.leaves.get((namespace, device)), self._repurposing.catalog.find(namespace, firmware)
        return bool(leaf and entry and entry.current and not runs(leaf, entry.current))

    async def _begin(self, wanted: FirmwareRollout, *, outcome: str) -> None:
        try:
            answer = await self._kube.create(wanted, manager=MANAGER)
        except AlreadyExists:
            return  # an earlier life of this process made it; the watch will tell
        self._repurposing.rollout_seen(Put(key_of(answer), answer))
        metrics.REPURPOSED.labels(outcome).inc()
        log.info("rollout made", rollout=wanted.metadata.name, device=wanted.spec.devices.names)

    async def _cancel(self, key: Key) -> None:
        try:
            await self._kube.patch(
                FirmwareRollout, key[1], namespace=key[0], body={"spec": {"desired": "Cancel"}}, manager=MANAGER
            )
        except NotFound:
            return
        log.info("rollout cancelled: nobody waits for it any more", rollout=key)


def _is_forward(key: Key, made: FirmwareRollout) -> bool:
    return is_ours(made) and key[1].startswith(_FORWARD)


def _transaction(key: Key) -> str:
    return key[1].removeprefix(_FORWARD)
