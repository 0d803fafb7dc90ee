"""What a claim does at a provider: buy, configure, release; each can be repeated without harm.

REAR's RESERVE and PURCHASE are idempotent by (buyer, flavor, claim): whoever asks again after a crash gets what the
first try got. So nothing here needs to know whether it is the first try, with one exception: an answer that says no
proves that nothing is held only if it is of the kind that the provider gives after it looked for what is held.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import orjson

from crds.conditions import parse_timestamp, timestamp
from crds.errors import InvalidField
from crds.models.base import ObjectMeta
from crds.models.configuration import ClaimReference, SensorConfiguration
from crds.models.sensorclaim import Binding, SensorClaimSpec
from edge_resource_manager.adapters.rear_client import (
    NotSigned,
    NotThere,
    ProviderRefused,
    ProviderSilent,
    RearProvider,
)
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.conversion import configuration_to_wire, sensor_configuration

NOTHING_HELD = frozenset({404, 409})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one claim asks of every provider."""

    buyer: wire.NodeIdentity
    configuration: SensorConfiguration

    @classmethod
    def of(cls, meta: ObjectMeta, spec: SensorClaimSpec, *, buyer: wire.NodeIdentity) -> Order:
        """From a claim that the API server has stored."""
        claim = ClaimReference(name=meta.name, namespace=meta.namespace or "", uid=meta.uid or "")
        configuration = SensorConfiguration(
            claim=claim,
            endpoints=spec.endpoints,
            filter=spec.filter,
            delivery=spec.delivery,
            retention=spec.retention,
            repurpose=spec.repurpose,
        )
        return cls(buyer=buyer, configuration=configuration)

    @property
    def digest(self) -> str:
        """Of what a provider shall hold."""
        return digest_of(self.configuration)


@dataclass(frozen=True, slots=True)
class Bought:
    """The contract is there."""

    binding: Binding


@dataclass(frozen=True, slots=True)
class NotBought:
    """The provider would not sell, or did not answer.

    Attributes:
        why: in its words.
        held: it may hold something for us nevertheless.
    """

    why: str
    held: bool


def digest_of(configuration: SensorConfiguration) -> str:
    """Tells two configurations apart."""
    delivered = configuration.model_dump(mode="json", exclude={"claim"})
    return hashlib.sha256(orjson.dumps(delivered, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def buy(
    provider: RearProvider, intent: Binding, order: Order, *, resumed: bool, now: datetime
) -> Bought | NotBought:
    """Reserve and purchase.

    Args:
        provider: of the intent.
        intent: as it stands in the status.
        order: what is asked.
        resumed: the intent is older than this look, so a purchase may have happened.
        now: to set the time of renewal.
    """
    request = wire.ReservationRequest(
        flavor_id=intent.flavor, buyer=order.buyer, configuration=configuration_to_wire(order.configuration)
    )
    try:
        transaction = await provider.reserve(request)
    except ProviderRefused as error:
        return NotBought(str(error), held=resumed and error.status not in NOTHING_HELD)
    except ProviderSilent as error:
        # A reservation that did arrive ends by itself.
        return NotBought(str(error), held=resumed)
    try:
        contract = await provider.purchase(transaction.transaction_id, _purchase(transaction, order))
    except ProviderRefused as error:
        return NotBought(str(error), held=False)
    except NotSigned as error:
        return NotBought(str(error), held=not await _ended(provider, error.contract))
    except ProviderSilent as error:
        return NotBought(str(error), held=True)
    if contract.flavor.flavor_id != intent.flavor:
        return NotBought(f"it sold {contract.flavor.flavor_id[:64]} instead", held=True)
    held = _configuration(contract.configuration) or order.configuration
    return Bought(_bound(intent, contract, provider=provider, digest=digest_of(held), now=now))


async def configure(provider: RearProvider, binding: Binding, order: Order, *, now: datetime) -> Binding:
    """Tell the provider where the readings go now, and renew.

    Raises:
        NotThere: the contract is gone.
        ProviderRefused: the provider will not deliver there.
        ProviderSilent: try later; also when it did not sign what it answered.
    """
    contract = await provider.configure(binding.contract, configuration_to_wire(order.configuration))
    return _bound(binding, contract, provider=provider, digest=order.digest, now=now)


async def release(provider: RearProvider, binding: Binding, order: Order | None, *, now: datetime) -> None:
    """End whatever the provider holds for a binding; nothing is held when this returns.

    Args:
        provider: of the binding.
        binding: bought, or an intent of which nobody knows how far it came.
        order: to find out about an intent; without it an intent cannot be released.
        now: as for `buy`.

    Raises:
        ProviderRefused: it will not.
        ProviderSilent: try later.
    """
    if not binding.contract:
        if order is None:
            raise ProviderSilent("what became of the reservation is not known while this cluster has no identity")
        # REAR has no question for "what do I hold of this?": only buying again gives the contract's name.
        match await buy(provider, binding, order, resumed=True, now=now):
            case Bought(bought):
                binding = bought
            case NotBought(why, held=True):
                raise ProviderSilent(why)
            case NotBought():
                return
    try:
        await provider.end(binding.contract)
    except NotThere:
        return


def _purchase(transaction: wire.Transaction, order: Order) -> wire.PurchaseRequest:
    """REAR's own field for an endpoint can only repeat what was reserved, perhaps by an earlier life of ours."""
    reserved = _configuration(transaction.configuration) or order.configuration
    endpoint = wire.TelemetryServer(endpoint=reserved.endpoints[0].location)
    return wire.PurchaseRequest(ingress_telemetry_endpoint=endpoint)


async def _ended(provider: RearProvider, contract: wire.Contract) -> bool:
    """Give back what cannot be accepted; whether that is certain."""
    try:
        await provider.end(contract.contract_id)
    except (ProviderRefused, ProviderSilent):
        return False
    return True


def _bound(binding: Binding, contract: wire.Contract, *, provider: RearProvider, digest: str, now: datetime) -> Binding:
    end = parse_timestamp(contract.expiration_time or "")
    return binding.model_copy(
        update={
            "contract": contract.contract_id,
            "transaction": contract.transaction_id,
            "seller": str(provider.seller or ""),
            "configuration_digest": digest,
            "expiration_time": timestamp(end) if end else None,
            "renewal_time": timestamp(now + (end - now) / 2) if end and end > now else None,
        }
    )


def _configuration(sent: wire.Configuration | None) -> SensorConfiguration | None:
    """What a provider says that it holds; one that says nothing readable holds what it was sent."""
    try:
        return sensor_configuration(sent)
    except InvalidField:
        return None
