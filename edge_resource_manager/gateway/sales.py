"""RESERVE, PURCHASE and what follows: one decision at a time for each flavor, stored before it is answered.

The lock makes two buyers' last place one buyer's; the API server makes a decision outlive this process. Names follow
from (buyer, flavor, claim), so a decision that an earlier life stored, and whose answer was lost, is found again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import assert_never
from weakref import WeakValueDictionary

from crds.annotations import SIGNATURE
from crds.errors import Retryable
from crds.kube.watch import Key
from crds.models.base import ObjectMeta
from crds.models.configuration import SensorConfiguration
from crds.models.fluidos import IDENTITY_CONFIG_MAP, Contract, Flavor, NodeIdentity, Transaction
from crds.models.repurposing import AGREED
from edge_resource_manager.domain import reservations
from edge_resource_manager.domain.buyers import May
from edge_resource_manager.domain.reservations import (
    AlreadyBought,
    Bought,
    Held,
    NotOffered,
    NotPermitted,
    Offer,
    PurchaseOutcome,
    Renewed,
    ReservationExpired,
    ReserveOutcome,
    SaleTerms,
    SoldOut,
    UnknownTransaction,
    Wish,
    agreement,
    belongs_to,
    flavor_id_of,
    is_live,
)
from edge_resource_manager.gateway import metrics
from edge_resource_manager.gateway.egress import EgressGate
from edge_resource_manager.gateway.ledger import Ledger
from edge_resource_manager.gateway.notary import Notary
from edge_resource_manager.gateway.offers import Listed, read_flavor
from edge_resource_manager.gateway.problems import Rejected
from edge_resource_manager.gateway.repurposing import Repurposing
from edge_resource_manager.gateway.store import Store
from spire.domain.spiffe_id import SpiffeId

ATTEMPTS = 3


class Sales:
    """What buyers may do. What is another buyer's does not exist: `buyer` is who asks, None where nobody proves it.

    Args:
        store: what is offered and sold.
        repurposing: what could be offered.
        ledger: where it is written down.
        notary: who signs contracts.
        gate: where endpoints may be.
        terms: for how long things are held and sold.
        clock: now, in UTC.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        *,
        repurposing: Repurposing,
        notary: Notary,
        gate: EgressGate,
        terms: SaleTerms,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._repurposing = repurposing
        self._ledger = ledger
        self._notary = notary
        self._gate = gate
        self._terms = terms
        self._clock = clock
        self._locks: WeakValueDictionary[Key | str, asyncio.Lock] = WeakValueDictionary()

    async def reserve(self, wish: Wish) -> Transaction:
        """Hold a place, or find the one that this buyer already has for this claim.

        Raises:
            Rejected: 403, 404, 409 or 503.
        """
        await self._check_endpoints(wish.configuration)
        asked = (wish.flavor_id, wish.spiffe_id, wish.transaction_id)
        listed = self._find(*asked)
        async with self.lock(wish.flavor_id, device=listed.leaf if listed else None):
            for _ in range(ATTEMPTS):
                listed = self._find(*asked)
                outcome = reservations.reserve(
                    wish,
                    offer=self._offer(listed, but=wish.transaction_id),
                    may=self._may(wish.spiffe_id, listed),
                    book=self._store.book(wish.flavor_id),
                    terms=self._terms,
                    now=self._clock(),
                )
                metrics.OUTCOMES.labels(type(outcome).__name__).inc()
                if (stored := await self._store_reservation(outcome, wish)) is not None:
                    return stored
        raise _too_busy(wish.flavor_id)

    async def purchase(self, transaction_id: str, *, telemetry: str | None, buyer: SpiffeId | None) -> Contract:
        """Turn a reservation into a contract, or find the one that it became.

        Args:
            transaction_id: as RESERVE gave it.
            telemetry: REAR's own endpoint field, if sent: it can only repeat what was reserved (and checked).
            buyer: who asks.

        Raises:
            Rejected: 403, 404, 408, 409 or 503.
            InvalidField: another endpoint than the reserved one.
        """
        flavor_id = self._flavor_of(transaction_id, buyer)
        seller = self._seller()
        async with self.lock(flavor_id):
            for _ in range(ATTEMPTS):
                listed = self._find(flavor_id, buyer, transaction_id)
                outcome = reservations.purchase(
                    transaction_id,
                    telemetry=telemetry,
                    offer=self._offer(listed, but=transaction_id),
                    may=self._may(buyer, listed),
                    book=self._store.book(flavor_id),
                    seller=seller,
                    terms=self._terms,
                    now=self._clock(),
                )
                metrics.OUTCOMES.labels(type(outcome).__name__).inc()
                if (stored := await self._store_purchase(outcome, buyer=buyer)) is not None:
                    return stored
        raise _too_busy(flavor_id)

    async def release(self, transaction_id: str, *, buyer: SpiffeId | None) -> None:
        """Give a reservation back. A contract that came of it stays.

        Raises:
            Rejected: 404.
        """
        transaction = self._store.transactions.get(transaction_id)
        if transaction is None or not belongs_to(transaction, buyer):
            raise Rejected(HTTPStatus.NOT_FOUND, f"no transaction {transaction_id}")
        async with self.lock(transaction.spec.flavor_id):
            await self._ledger.remove(self._store.transactions, transaction)

    def contract(self, contract_id: str, *, buyer: SpiffeId | None) -> Contract:
        """A contract of this buyer that is in force.

        Raises:
            Rejected: 404.
        """
        contract = self._store.contracts.get(contract_id)
        if contract is None or not is_live(contract, self._clock()) or not belongs_to(contract, buyer):
            raise Rejected(HTTPStatus.NOT_FOUND, f"no contract {contract_id}")
        return contract

    def has_bought(self, flavor_id: str, *, buyer: SpiffeId | None) -> bool:
        """Whether this buyer has a contract in force about a flavor."""
        now = self._clock()
        contracts = self._store.book(flavor_id).contracts.values()
        return any(belongs_to(each, buyer) and is_live(each, now) for each in contracts)

    async def reconfigure(
        self, contract_id: str, configuration: SensorConfiguration, *, buyer: SpiffeId | None
    ) -> Contract:
        """Change where and how a contract delivers, and renew it.

        Raises:
            Rejected: 403, 404.
        """
        await self._check_endpoints(configuration)
        flavor_id = flavor_id_of(self.contract(contract_id, buyer=buyer))
        async with self.lock(flavor_id):
            contract = self.contract(contract_id, buyer=buyer)
            # A flavor that is gone is the housekeeper's business: the contract will go with it.
            listed = self._store.find(flavor_id)
            if listed is not None and self._may(buyer, listed) is not May.BUY:
                raise _not_permitted(flavor_id, buyer)
            changed = reservations.reconfigured(contract, configuration, terms=self._terms, now=self._clock())
            stored = await self._replace(
                contract,
                self._notary.signed(changed),
                members=("configuration", "ingressTelemetryEndpoint", "expirationTime"),
            )
            if stored is None:
                raise Rejected(HTTPStatus.NOT_FOUND, f"no contract {contract_id}")
            return stored

    async def end(self, contract_id: str, *, buyer: SpiffeId | None) -> None:
        """End a contract, and with it the reservation that it came of: the place is free, and nothing revives it.

        Raises:
            Rejected: 404.
        """
        async with self.lock(flavor_id_of(self.contract(contract_id, buyer=buyer))):
            contract = self.contract(contract_id, buyer=buyer)
            if (transaction := self._store.transactions.get(contract.spec.transaction_id)) is not None:
                await self._ledger.remove(self._store.transactions, transaction)
            await self._ledger.remove(self._store.contracts, contract)

    def in_the_making(self, flavor_id: str, *, buyer: SpiffeId | None) -> Listed | None:
        """A flavor that this buyer has bought, of a device that has to become it first."""
        now = self._clock()
        for contract in self._store.book(flavor_id).contracts.values():
            if belongs_to(contract, buyer) and is_live(contract, now) and agreement(contract):
                made = ObjectMeta(
                    name=flavor_id,
                    namespace=contract.metadata.namespace,
                    creation_timestamp=contract.metadata.creation_timestamp,
                )
                return read_flavor(Flavor(metadata=made, spec=contract.spec.flavor.spec))
        return None

    async def activate(self, contract: Contract, offer: Offer) -> None:
        """A device is what was sold: from here on the contract is about the flavor as it is.

        The reservation that promised the device ends; whoever changes this book holds its lock.
        """
        changed = self._notary.signed(reservations.activated(contract, offer))
        await self._replace(contract, changed, members=("flavor",), without=AGREED)
        if (transaction := self._store.transactions.get(contract.spec.transaction_id)) is not None:
            await self._ledger.remove(self._store.transactions, transaction)

    def lock(self, flavor_id: str, *, device: Key | None = None) -> asyncio.Lock:
        """One decision at a time: whoever changes the books of a device's flavors holds this.

        Args:
            flavor_id: one of them.
            device: its LeafDevice, where only the caller knows it.
        """
        return self._locks.setdefault(device or self._store.device_of(flavor_id) or flavor_id, asyncio.Lock())

    def _find(self, flavor_id: str, buyer: SpiffeId | None, transaction: str) -> Listed | None:
        """What is, or could be made for this buyer."""
        viewer = buyer.trust_domain if buyer else None
        listed = self._store.find(flavor_id)
        return listed or self._repurposing.find(flavor_id, viewer=viewer, transaction=transaction)

    def _offer(self, listed: Listed | None, *, but: str) -> Offer | None:
        """To be sold, unless the device is promised to be something else."""
        if listed is None or listed.offer is None or listed.leaf not in self._repurposing.promised(but=but):
            return listed.offer if listed else None
        return replace(listed.offer, spec=listed.offer.spec.model_copy(update={"availability": False}))

    def _may(self, buyer: SpiffeId | None, listed: Listed | None) -> May:
        return self._store.may(buyer.trust_domain if buyer else None, listed)

    def _seller(self) -> NodeIdentity:
        if self._store.identity is None:
            detail = f"this provider has no identity yet (ConfigMap {IDENTITY_CONFIG_MAP})"
            raise Rejected(HTTPStatus.SERVICE_UNAVAILABLE, detail, after=5)
        return self._store.identity

    def _flavor_of(self, transaction_id: str, buyer: SpiffeId | None) -> str:
        contract = self._store.contracts.get(reservations.contract_name(transaction_id))
        for item in (self._store.transactions.get(transaction_id), contract):
            if item is not None and belongs_to(item, buyer):
                return flavor_id_of(item)
        raise Rejected(HTTPStatus.NOT_FOUND, f"no transaction {transaction_id}")

    async def _check_endpoints(self, configuration: SensorConfiguration) -> None:
        refusal = await self._gate.refusal(configuration.endpoints)
        if refusal is not None:
            metrics.EGRESS_REFUSALS.inc()
            raise Rejected(HTTPStatus.FORBIDDEN, f"endpoint {refusal.endpoint} ({refusal.url}): {refusal.reason}")

    async def _store_reservation(self, outcome: ReserveOutcome, wish: Wish) -> Transaction | None:
        """Write what was decided; None when the API server knows something newer, which then is in the store."""
        records = self._store.transactions
        match outcome:
            case Held(transaction):
                try:
                    return await self._ledger.create(records, transaction, now=self._clock())
                except Retryable:
                    # It may be stored all the same. Until it expires, or the watch knows better, its place is taken.
                    records.assume(transaction)
                    raise
            case Renewed(transaction):
                spec = transaction.spec.dump()
                held = self._store.book(wish.flavor_id).transactions[wish.transaction_id]
                changed = {key: spec[key] for key in ("buyer", "configuration", "expirationTime")}
                return await self._ledger.replace(records, held, changed)
            case AlreadyBought(contract):
                return reservations.transaction_of(contract)
            case NotOffered():
                raise Rejected(HTTPStatus.NOT_FOUND, f"no sensor flavor {wish.flavor_id}")
            case NotPermitted():
                raise _not_permitted(wish.flavor_id, wish.spiffe_id)
            case SoldOut(limit):
                raise Rejected(HTTPStatus.CONFLICT, f"flavor {wish.flavor_id} is sold out, it has {limit} place(s)")
            case reservations.Unavailable():
                raise Rejected(HTTPStatus.CONFLICT, f"flavor {wish.flavor_id} is not available")
            case _:
                assert_never(outcome)

    async def _store_purchase(self, outcome: PurchaseOutcome, *, buyer: SpiffeId | None) -> Contract | None:
        match outcome:
            case Bought(contract):
                signed = self._notary.signed(contract)
                return await self._ledger.create(self._store.contracts, signed, now=self._clock())
            case AlreadyBought(contract):
                if self._notary.is_current(contract):
                    return contract
                return await self._replace(contract, self._notary.signed(contract))
            case UnknownTransaction():
                raise Rejected(HTTPStatus.NOT_FOUND, "no such transaction")
            case ReservationExpired(at):
                raise Rejected(HTTPStatus.REQUEST_TIMEOUT, f"the reservation expired at {at}")
            case NotOffered():
                raise Rejected(HTTPStatus.CONFLICT, "the flavor was withdrawn")
            case NotPermitted():
                raise _not_permitted("this flavor", buyer)
            case reservations.Unavailable():
                raise Rejected(HTTPStatus.CONFLICT, "the flavor is not available")
            case _:
                assert_never(outcome)

    async def _replace(
        self, contract: Contract, changed: Contract, *, members: tuple[str, ...] = (), without: str | None = None
    ) -> Contract | None:
        """Store members of the spec and the signature, and drop an annotation; None when the contract is gone."""
        spec, mark = changed.spec.dump(), changed.metadata.annotations.get(SIGNATURE)
        return await self._ledger.replace(
            self._store.contracts,
            contract,
            {key: spec[key] for key in members},
            annotations={**({SIGNATURE: mark} if mark else {}), **({without: None} if without else {})},
        )


def _not_permitted(flavor_id: str, buyer: SpiffeId | None) -> Rejected:
    who = buyer.trust_domain if buyer else "nobody"
    return Rejected(HTTPStatus.FORBIDDEN, f"{who} may not buy {flavor_id}, by this provider's policy")


def _too_busy(flavor_id: str) -> Rejected:
    """Somebody else writes the same objects, again and again."""
    return Rejected(HTTPStatus.SERVICE_UNAVAILABLE, f"flavor {flavor_id} changes too fast", after=1)
