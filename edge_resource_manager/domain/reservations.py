"""The book of one flavor: who holds a place, who bought one, and what that means for the next buyer.

A place is held by a Transaction until it expires and then, if it was bought, by the Contract of the same transaction.
Both are named by (buyer, flavor, claim), so that a retry finds what the first try left behind, whoever lost the answer.
The buyer is who proved it by TLS; only a gateway that runs without identities goes by what the request says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import orjson

from crds import naming
from crds.annotations import BUYER_SPIFFE_ID, INSECURE
from crds.conditions import parse_timestamp, timestamp
from crds.errors import InvalidField
from crds.models import fluidos
from crds.models.base import ObjectMeta, validate
from crds.models.configuration import SensorConfiguration, parse_configuration
from crds.models.repurposing import AGREED, Agreed
from edge_resource_manager.domain.buyers import May
from spire.domain.spiffe_id import SpiffeId

MANAGED_BY = {"app.kubernetes.io/managed-by": "fluidos-edge-gateway"}
"""On what the gateway made: it never removes anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleTerms:
    """How this provider sells. `max_consumers` counts where a sensor does not say it itself."""

    reservation: timedelta = timedelta(seconds=60)
    contract: timedelta = timedelta(hours=24)
    max_consumers: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A sensor flavor as it is sold: from a Flavor, or from a LeafDevice whose Flavor the API server refused.

    Its transactions and contracts live in its namespace. `agreed` is what is sold of a device that has to be made into
    it first.
    """

    namespace: str
    flavor_id: str
    spec: fluidos.FlavorSpec
    max_consumers: int | None
    agreed: Agreed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """RESERVE, understood.

    Attributes:
        flavor_id: what is wanted.
        buyer: who the request says that it is from.
        spiffe_id: who it is from; None where nobody proves anything.
        configuration: what is asked beyond the flavor.
    """

    flavor_id: str
    buyer: fluidos.NodeIdentity
    spiffe_id: SpiffeId | None
    configuration: SensorConfiguration

    @property
    def transaction_id(self) -> str:
        """The same for every retry."""
        # A claimed name has no spaces: none can be taken for a proven one.
        buyer = f"SPIFFE ID {self.spiffe_id}" if self.spiffe_id else self.buyer.node_id
        return naming.transaction_id(buyer=buyer, flavor=self.flavor_id, claim=self.configuration.claim.uid)


@dataclass(frozen=True, slots=True)
class Book:
    """All transactions and contracts of one flavor by their transaction ID, expired ones included."""

    transactions: Mapping[str, fluidos.Transaction] = field(default_factory=dict)
    contracts: Mapping[str, fluidos.Contract] = field(default_factory=dict)

    @property
    def entries(self) -> tuple[fluidos.Transaction | fluidos.Contract, ...]:
        """All of them."""
        return *self.contracts.values(), *self.transactions.values()

    def taken(self, now: datetime, *, but: str) -> int:
        """Places that others have."""
        held = {name for name, transaction in self.transactions.items() if is_live(transaction, now)}
        sold = {name for name, contract in self.contracts.items() if is_live(contract, now)}
        return len((held | sold) - {but})


@dataclass(frozen=True, slots=True)
class Held:
    """Create this transaction."""

    transaction: fluidos.Transaction


@dataclass(frozen=True, slots=True)
class Renewed:
    """The buyer has this transaction; its configuration and expiry become these."""

    transaction: fluidos.Transaction


@dataclass(frozen=True, slots=True)
class AlreadyBought:
    """The buyer has this contract: nothing changes."""

    contract: fluidos.Contract


@dataclass(frozen=True, slots=True)
class SoldOut:
    """Every place is held or sold."""

    limit: int


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The flavor is there, its device is not."""


@dataclass(frozen=True, slots=True)
class NotOffered:
    """No such flavor, as far as this buyer may know."""


@dataclass(frozen=True, slots=True)
class NotPermitted:
    """The buyer may see the flavor, and no more."""


@dataclass(frozen=True, slots=True)
class Bought:
    """Create this contract."""

    contract: fluidos.Contract


@dataclass(frozen=True, slots=True)
class UnknownTransaction:
    """Nothing was reserved under this ID, or it was long ago."""


@dataclass(frozen=True, slots=True)
class ReservationExpired:
    """It was reserved, until this time."""

    at: str


ReserveOutcome = Held | Renewed | AlreadyBought | SoldOut | Unavailable | NotOffered | NotPermitted
PurchaseOutcome = (
    Bought | AlreadyBought | UnknownTransaction | ReservationExpired | Unavailable | NotOffered | NotPermitted
)


def flavor_id_of(item: fluidos.Transaction | fluidos.Contract) -> str:
    """The flavor that it takes a place of."""
    if isinstance(item, fluidos.Transaction):
        return item.spec.flavor_id
    return str(item.spec.flavor.metadata.get("name", ""))


def is_live(item: fluidos.Transaction | fluidos.Contract, now: datetime) -> bool:
    """Whether it still takes a place; what has no (readable) end does."""
    end = parse_timestamp(item.spec.expiration_time or "")
    return end is None or end > now


def belongs_to(item: fluidos.Transaction | fluidos.Contract, buyer: SpiffeId | None) -> bool:
    """Whether this buyer made it; what somebody proved to own belongs to nobody who proves nothing."""
    return item.metadata.annotations.get(BUYER_SPIFFE_ID) == (str(buyer) if buyer else None)


def agreement(item: fluidos.Transaction | fluidos.Contract) -> Agreed | None:
    """What was agreed of a device that is not yet what was sold; what cannot be read was not agreed here."""
    text = item.metadata.annotations.get(AGREED)
    if text is None:
        return None
    try:
        return validate(Agreed, orjson.loads(text), field=f"metadata.annotations[{AGREED}]")
    except (orjson.JSONDecodeError, InvalidField):
        return None


def reserve(
    wish: Wish, *, offer: Offer | None, may: May, book: Book, terms: SaleTerms, now: datetime
) -> ReserveOutcome:
    """Decide on RESERVE. Whoever has bought finds that again, whatever the policy has become."""
    name = wish.transaction_id
    contract = book.contracts.get(name)
    # While a device is being made into what was bought, nothing is on offer.
    if contract is not None and is_live(contract, now) and (offer is not None or agreement(contract) is not None):
        return AlreadyBought(contract)
    agreed = _agreed(wish, offer) if offer else None
    if offer is None or may is May.NOTHING or (offer.agreed is not None and agreed is None):
        return NotOffered()
    if may is May.SEE:
        return NotPermitted()
    if not offer.spec.availability:
        return Unavailable()
    limit = offer.max_consumers or terms.max_consumers
    if book.taken(now, but=name) >= limit:
        return SoldOut(limit)
    transaction = fluidos.Transaction(
        metadata=ObjectMeta(
            name=name,
            namespace=offer.namespace,
            labels=MANAGED_BY,
            annotations={**_proof(wish.spiffe_id), **_annotated(agreed)},
        ),
        spec=fluidos.TransactionSpec(
            flavor_id=wish.flavor_id,
            buyer=wish.buyer,
            cluster_id=wish.buyer.node_id,
            configuration=_stored(wish.configuration),
            expiration_time=_end(now, terms.reservation),
        ),
    )
    return Renewed(transaction) if name in book.transactions else Held(transaction)


def purchase(
    transaction_id: str,
    *,
    telemetry: str | None,
    offer: Offer | None,
    may: May,
    book: Book,
    seller: fluidos.NodeIdentity,
    terms: SaleTerms,
    now: datetime,
) -> PurchaseOutcome:
    """Decide on PURCHASE. A live transaction has its place: nothing is counted again.

    Raises:
        InvalidField: `telemetry`, REAR's own endpoint field, is not the first endpoint of the reservation, which alone
            went through the egress policy.
    """
    contract = book.contracts.get(transaction_id)
    if contract is not None and is_live(contract, now):
        return AlreadyBought(contract)
    transaction = book.transactions.get(transaction_id)
    if transaction is None:
        return UnknownTransaction()
    if not is_live(transaction, now):
        return ReservationExpired(transaction.spec.expiration_time or "")
    reserved = _first_endpoint(transaction)
    if telemetry not in (None, reserved):
        raise InvalidField(
            field="ingressTelemetryEndpoint.endpoint", value=telemetry, expected=f"{reserved}, as it was reserved"
        )
    agreed = agreement(transaction) if offer and offer.agreed else None
    if offer is None or may is May.NOTHING or (offer.agreed is not None and agreed is None):
        return NotOffered()
    if may is May.SEE:
        return NotPermitted()
    if not offer.spec.availability:
        return Unavailable()
    if agreed is not None:
        agreed = agreed.model_copy(update={"until": _end(now, timedelta(seconds=agreed.seconds))})
    return Bought(_contract(transaction, offer=offer, agreed=agreed, seller=seller, end=_end(now, terms.contract)))


def activated(contract: fluidos.Contract, offer: Offer) -> fluidos.Contract:
    """The contract about a device that is what was sold: the flavor as it is now."""
    annotations = {key: value for key, value in contract.metadata.annotations.items() if key != AGREED}
    return contract.model_copy(
        update={
            "metadata": contract.metadata.model_copy(update={"annotations": annotations}),
            "spec": contract.spec.model_copy(update={"flavor": _embedded(offer)}),
        }
    )


def reconfigured(
    contract: fluidos.Contract, configuration: SensorConfiguration, *, terms: SaleTerms, now: datetime
) -> fluidos.Contract:
    """The contract with other endpoints or another filter, and with its whole lifetime again.

    Raises:
        InvalidField: the configuration is of another claim; the contract is named after its own.
    """
    before = contract.spec.configuration.data.get("claim") if contract.spec.configuration else None
    uid = before.get("uid") if isinstance(before, dict) else None
    if configuration.claim.uid != uid:
        raise InvalidField(
            field="data.claim.uid", value=configuration.claim.uid, expected=f"{uid}, for which the flavor was bought"
        )
    spec = contract.spec.model_copy(
        update={
            "configuration": _stored(configuration),
            "ingress_telemetry_endpoint": _telemetry(configuration.endpoints[0].location),
            "expiration_time": _end(now, terms.contract),
        }
    )
    return contract.model_copy(update={"spec": spec})


def transaction_of(contract: fluidos.Contract) -> fluidos.Transaction:
    """The transaction that a contract came of, for a buyer who reserves again what is already bought."""
    spec = contract.spec
    return fluidos.Transaction(
        metadata=ObjectMeta(name=spec.transaction_id, namespace=contract.metadata.namespace),
        spec=fluidos.TransactionSpec(
            flavor_id=flavor_id_of(contract),
            buyer=spec.buyer,
            cluster_id=spec.buyer_cluster_id,
            configuration=spec.configuration,
            expiration_time=spec.expiration_time,
        ),
    )


def contract_name(transaction_id: str) -> str:
    """One contract a transaction, and found from it: a purchase can be retried after a crash."""
    return f"contract-{transaction_id}"


def _contract(
    transaction: fluidos.Transaction, *, offer: Offer, agreed: Agreed | None, seller: fluidos.NodeIdentity, end: str
) -> fluidos.Contract:
    name = transaction.metadata.name
    spec = transaction.spec
    proof = {key: value for key, value in transaction.metadata.annotations.items() if key != AGREED}
    return fluidos.Contract(
        metadata=ObjectMeta(
            name=contract_name(name),
            namespace=offer.namespace,
            labels=MANAGED_BY,
            annotations={**proof, **_annotated(agreed)},
        ),
        spec=fluidos.ContractSpec(
            flavor=_embedded(offer),
            transaction_id=name,
            configuration=spec.configuration,
            buyer=spec.buyer,
            buyer_cluster_id=spec.cluster_id,
            seller=seller,
            expiration_time=end,
            ingress_telemetry_endpoint=_telemetry(_first_endpoint(transaction)),
        ),
    )


def _embedded(offer: Offer) -> fluidos.EmbeddedFlavor:
    return fluidos.EmbeddedFlavor(metadata={"name": offer.flavor_id, "namespace": offer.namespace}, spec=offer.spec)


def _agreed(wish: Wish, offer: Offer) -> Agreed | None:
    """What can be agreed with a buyer of what is not there yet; None where he does not allow it."""
    allowed = wish.configuration.repurpose
    if offer.agreed is None or allowed is None or allowed.mode == "Never":
        return None
    seconds = min(offer.agreed.seconds, allowed.max_seconds)
    return None if seconds < offer.agreed.expected_seconds else offer.agreed.model_copy(update={"seconds": seconds})


def _annotated(agreed: Agreed | None) -> dict[str, str]:
    return {} if agreed is None else {AGREED: orjson.dumps(agreed.dump()).decode()}


def _proof(buyer: SpiffeId | None) -> dict[str, str]:
    return {BUYER_SPIFFE_ID: str(buyer)} if buyer else {INSECURE: "true"}


def _first_endpoint(transaction: fluidos.Transaction) -> str:
    data = transaction.spec.configuration.data if transaction.spec.configuration else {}
    return parse_configuration(data).endpoints[0].location if data.get("endpoints") else ""


def _stored(configuration: SensorConfiguration) -> fluidos.Configuration:
    return fluidos.Configuration(type="Sensor", data=configuration.dump())


def _telemetry(url: str) -> fluidos.TelemetryServer:
    return fluidos.TelemetryServer(endpoint=url)


def _end(now: datetime, lifetime: timedelta) -> str:
    """Whole seconds, rounded up: nobody gets less time than was promised."""
    return timestamp(now + lifetime + timedelta(microseconds=999_999))
