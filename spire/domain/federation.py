"""Which trust domains are known beside our own, and by which roots: configured, then kept up to date by themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson

from crds.errors import InvalidField
from crds.models.federation import MAX_PEERS, FederatedTrustDomain
from spire.domain import bundle as bundles
from spire.domain.bundle import Bundle
from spire.domain.spiffe_id import SpiffeId, TrustDomain

SHORTEST: Final = timedelta(seconds=5)
LONGEST: Final = timedelta(hours=1)
USUAL: Final = timedelta(minutes=5)
"""Where the publisher has no wish (SPIFFE Federation, 5.1.4, leaves it to us)."""

Configured = Mapping[TrustDomain, "Peer | InvalidField"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a bundle is fetched.

    Attributes:
        url: https.
        spiffe_id: who must answer there.
    """

    url: str
    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A trust domain as an administrator names it.

    Attributes:
        endpoint: None for a bundle that stays as it is written.
        first: by which it is known before anything was fetched.
    """

    endpoint: Endpoint | None
    first: Bundle

    @property
    def digest(self) -> str:
        """Of the first bundle: another one means that an administrator began anew."""
        return hashlib.sha256(bundles.to_json(self.first)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is held of a trust domain.

    Attributes:
        digest: of the first bundle that this one came from.
        bundle: the newest.
    """

    digest: str
    bundle: Bundle


def read_peers(data: Mapping[str, str], *, own: TrustDomain) -> Configured:
    """What the ConfigMap says, each trust domain for itself: an error in one is the value of that one.

    Keys that are no trust domain's name are left out, as there is nobody whom they could be about; so are those past
    `MAX_PEERS`, in the order of names.
    """
    configured: dict[TrustDomain, Peer | InvalidField] = {}
    for name, text in sorted(data.items()):
        try:
            domain = TrustDomain(name)
        except InvalidField:
            continue
        if len(configured) == MAX_PEERS:
            break
        try:
            configured[domain] = _peer(domain, text, own=own)
        except InvalidField as error:
            configured[domain] = error
    return configured


def settle(known: Mapping[TrustDomain, Known], configured: Configured) -> dict[TrustDomain, Known]:
    """What is held when the configuration is another.

    What was fetched stays while the first bundle is the same one, and where the entry cannot be read; who is no longer
    named is no longer known.
    """
    settled: dict[TrustDomain, Known] = {}
    for domain, peer in configured.items():
        held = known.get(domain)
        match peer:
            case Peer() if held is None or held.digest != peer.digest:
                settled[domain] = Known(digest=peer.digest, bundle=peer.first)
            case _ if held is not None:
                settled[domain] = held
            case _:
                pass
    return settled


def merge(ours: Mapping[TrustDomain, Known], theirs: Mapping[TrustDomain, Known]) -> dict[TrustDomain, Known]:
    """Ours, with what another issuer on the same store fetched later."""
    return {domain: _later(held, theirs.get(domain)) for domain, held in ours.items()}


def interval(bundle: Bundle) -> timedelta:
    """When to ask again, by the publisher's wish and within our bounds."""
    return min(max(USUAL if bundle.refresh_hint is None else bundle.refresh_hint, SHORTEST), LONGEST)


def dump(known: Mapping[TrustDomain, Known]) -> bytes:
    """JSON, for the store."""
    return orjson.dumps(
        {
            str(domain): {"digest": held.digest, "bundle": orjson.loads(bundles.to_json(held.bundle))}
            for domain, held in sorted(known.items())
        }
    )


def load(document: bytes) -> dict[TrustDomain, Known]:
    """The inverse of `dump`.

    Raises:
        InvalidField: it is something else.
    """
    known: dict[TrustDomain, Known] = {}
    try:
        said: Any = orjson.loads(document)
        for name, held in said.items():
            domain = TrustDomain(name)
            bundle = bundles.parse(orjson.dumps(held["bundle"]), trust_domain=domain)
            known[domain] = Known(digest=str(held["digest"]), bundle=bundle)
    except (ValueError, TypeError, KeyError, AttributeError, InvalidField) as error:
        raise InvalidField(
            field="federation", value=f"{len(document)} bytes", expected=f"what the issuer wrote ({error!r})"
        ) from error
    return known


def _later(ours: Known, theirs: Known | None) -> Known:
    if theirs is None or theirs.digest != ours.digest:
        return ours
    return theirs if (theirs.bundle.sequence or 0) > (ours.bundle.sequence or 0) else ours


def _peer(domain: TrustDomain, text: str, *, own: TrustDomain) -> Peer:
    field = f"data[{domain}]"
    if domain == own:
        raise InvalidField(field=field, value=str(domain), expected="another trust domain than this cluster's own")
    said = FederatedTrustDomain.parse_yaml(text, field=field)
    try:
        return Peer(endpoint=_endpoint(said), first=_first(said, domain))
    except InvalidField as error:
        raise InvalidField(field=f"{field}: {error.field}", value=error.value, expected=error.expected) from error


def _endpoint(said: FederatedTrustDomain) -> Endpoint | None:
    match said.bundle_endpoint_url, said.endpoint_spiffe_id:
        case str() as url, str() as name:
            return Endpoint(url=url, spiffe_id=SpiffeId.parse(name))
        case None, None:
            return None
        case one:
            raise InvalidField(
                field="endpoint", value=one, expected="bundleEndpointURL and endpointSPIFFEID, or neither"
            )


def _first(said: FederatedTrustDomain, domain: TrustDomain) -> Bundle:
    match said.trust_domain_bundle:
        case str() as written if "-----BEGIN" in written:
            return bundles.parse_pem(written.encode(), trust_domain=domain)
        case str() as written:
            return bundles.parse(written.encode(), trust_domain=domain)
        case document:
            return bundles.parse(orjson.dumps(document), trust_domain=domain)
