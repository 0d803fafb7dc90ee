"""The book of a flavor: never more places than there are, whatever the order of events."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crds.errors import InvalidField
from crds.models.base import validate
from crds.models.configuration import parse_configuration
from crds.models.fluidos import Contract, FlavorSpec, NodeIdentity, Transaction
from edge_resource_manager.domain.buyers import May
from edge_resource_manager.domain.reservations import (
    AlreadyBought,
    Book,
    Bought,
    Held,
    NotOffered,
    Offer,
    Renewed,
    ReservationExpired,
    SaleTerms,
    SoldOut,
    Unavailable,
    UnknownTransaction,
    Wish,
    is_live,
    purchase,
    reconfigured,
    reserve,
    transaction_of,
)
from tests.edge_resource_manager.gateway import samples

START = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)
TERMS = SaleTerms(reservation=timedelta(seconds=60), contract=timedelta(hours=1), max_consumers=2)
SELLER = NodeIdentity(domain="fluidos.eu", node_id="provider1", ip="127.0.0.1:3004")


def offer(*, available: bool = True, max_consumers: int | None = None) -> Offer:
    spec = validate(FlavorSpec, samples.flavor("f", namespace="edge", available=available)["spec"])
    return Offer(namespace="edge", flavor_id="f-edge", spec=spec, max_consumers=max_consumers)


def wish(buyer: str = "b1", claim: str = "c1") -> Wish:
    return Wish(
        flavor_id="f-edge",
        buyer=NodeIdentity(domain="fluidos.eu", node_id=buyer, ip="127.0.0.1:3005"),
        spiffe_id=None,
        configuration=parse_configuration(samples.configuration(claim=claim)["data"]),
    )


def held(asked: Wish, *, now: datetime = START, book: Book | None = None) -> Transaction:
    outcome = reserve(asked, offer=offer(), may=May.BUY, book=book or Book(), terms=TERMS, now=now)
    assert isinstance(outcome, Held)
    return outcome.transaction


def book_of(transactions: Iterable[Transaction] = (), contracts: Iterable[Contract] = ()) -> Book:
    return Book(
        {each.metadata.name: each for each in transactions}, {each.spec.transaction_id: each for each in contracts}
    )


def buy(book: Book, transaction_id: str, *, now: datetime = START, **changed: Any) -> Any:
    arguments: dict[str, Any] = {
        "telemetry": None,
        "offer": offer(),
        "may": May.BUY,
        "seller": SELLER,
        "terms": TERMS,
        **changed,
    }
    return purchase(transaction_id, book=book, now=now, **arguments)


def test_nobody_gets_less_time_than_promised() -> None:
    transaction = held(wish())
    assert is_live(transaction, START + TERMS.reservation)
    assert not is_live(transaction, START + TERMS.reservation + timedelta(seconds=1))


def test_a_place_lasts_for_ever_where_no_end_can_be_read() -> None:
    transaction = held(wish())
    endless = transaction.model_copy(
        update={"spec": transaction.spec.model_copy(update={"expiration_time": "next year"})}
    )
    assert is_live(endless, START + timedelta(days=10_000))


def test_what_is_refused_says_why() -> None:
    assert reserve(wish(), offer=None, may=May.BUY, book=Book(), terms=TERMS, now=START) == NotOffered()
    assert (
        reserve(wish(), offer=offer(available=False), may=May.BUY, book=Book(), terms=TERMS, now=START) == Unavailable()
    )
    full = book_of([held(wish("b1")), held(wish("b2"))])
    assert reserve(wish("b3"), offer=offer(), may=May.BUY, book=full, terms=TERMS, now=START) == SoldOut(2)
    assert isinstance(
        reserve(wish("b3"), offer=offer(max_consumers=3), may=May.BUY, book=full, terms=TERMS, now=START), Held
    )
    assert isinstance(reserve(wish("b2"), offer=offer(), may=May.BUY, book=full, terms=TERMS, now=START), Renewed)


def test_a_purchase_is_decided_by_the_reservation() -> None:
    transaction = held(wish())
    name = transaction.metadata.name
    book = book_of([transaction])
    outcome = buy(book, name)
    assert isinstance(outcome, Bought)
    assert outcome.contract.spec.buyer == transaction.spec.buyer
    assert buy(book, "other") == UnknownTransaction()
    assert isinstance(buy(book, name, now=START + timedelta(minutes=2)), ReservationExpired)
    assert buy(book, name, offer=None) == NotOffered()
    assert buy(book, name, offer=offer(available=False)) == Unavailable()
    with pytest.raises(InvalidField, match="as it was reserved"):
        buy(book, name, telemetry="http://10.0.0.1/")
    # What is bought stays bought, whatever becomes of the reservation and the flavor.
    sold = book_of([], [outcome.contract])
    assert buy(sold, name, offer=None) == AlreadyBought(outcome.contract)
    again = reserve(wish(), offer=offer(available=False), may=May.BUY, book=sold, terms=TERMS, now=START)
    assert again == AlreadyBought(outcome.contract)
    assert transaction_of(outcome.contract).spec.buyer == transaction.spec.buyer


def test_a_contract_keeps_its_claim() -> None:
    transaction = held(wish())
    contract = buy(book_of([transaction]), transaction.metadata.name).contract
    with pytest.raises(InvalidField, match="for which the flavor was bought"):
        reconfigured(contract, wish(claim="c2").configuration, terms=TERMS, now=START)
    later = reconfigured(contract, wish().configuration, terms=TERMS, now=START + timedelta(minutes=30))
    assert (later.spec.expiration_time or "") > (contract.spec.expiration_time or "")


class Buyers(RuleBasedStateMachine):
    """Any number of buyers who reserve, buy, return and wait, in any order and with any retry."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.transactions: dict[str, Transaction] = {}
        self.contracts: dict[str, Contract] = {}

    @property
    def book(self) -> Book:
        return Book(self.transactions, self.contracts)

    @rule(buyer=st.sampled_from("abcde"))
    def reserves(self, buyer: str) -> None:
        asked = wish(buyer)
        before = self.book.taken(self.now, but=asked.transaction_id)
        outcome = reserve(asked, offer=offer(), may=May.BUY, book=self.book, terms=TERMS, now=self.now)
        match outcome:
            case Held(transaction) | Renewed(transaction):
                assert isinstance(outcome, Renewed) == (asked.transaction_id in self.transactions)
                self.transactions[asked.transaction_id] = transaction
            case AlreadyBought(contract):
                assert contract is self.contracts[asked.transaction_id]
            case SoldOut():
                assert before == TERMS.max_consumers
            case _:
                raise AssertionError(outcome)

    @precondition(lambda self: self.transactions)
    @rule(data=st.data())
    def buys(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.transactions)))
        outcome = buy(self.book, name, now=self.now)
        if isinstance(outcome, Bought):
            assert is_live(self.transactions[name], self.now)
            self.contracts[name] = outcome.contract

    @precondition(lambda self: self.transactions)
    @rule(data=st.data())
    def returns(self, data: st.DataObject) -> None:
        del self.transactions[data.draw(st.sampled_from(sorted(self.transactions)))]

    @rule(seconds=st.sampled_from([1, 30, 61, 1800, 3602]))
    def waits(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def never_oversold(self) -> None:
        assert self.book.taken(self.now, but="") <= TERMS.max_consumers


TestBuyers = Buyers.TestCase
TestBuyers.settings = settings(max_examples=60, stateful_step_count=30)
