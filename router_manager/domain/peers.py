"""Who a target has to prove to be before it gets a byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from crds.models.delivery import Endpoint
from spire.domain.spiffe_id import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True)
class Anybody:
    """Plain HTTP or MQTT: nobody proves anything."""


@dataclass(frozen=True, slots=True)
class Exactly:
    """The holder of this SPIFFE ID."""

    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True)
class EndpointOf:
    """Any `/endpoint/...` of a trust domain, the relay's own where none is named."""

    trust_domain: TrustDomain | None


@dataclass(frozen=True, slots=True)
class Certified:
    """Who has a certificate for the URL's host from one of these roots (PEM)."""

    roots: str


Peer: TypeAlias = Anybody | Exactly | EndpointOf | Certified


def peer_of(target: Endpoint, *, trust_domain: str | None) -> Peer:
    """What a target has to prove.

    Args:
        target: as its route has it.
        trust_domain: of the route.
    """
    if target.spiffe_id is not None:
        return Exactly(SpiffeId.parse(target.spiffe_id))
    if target.ca_bundle is not None:
        return Certified(target.ca_bundle)
    if target.location.startswith(("https://", "mqtts://")):
        return EndpointOf(None if trust_domain is None else TrustDomain(trust_domain))
    return Anybody()
