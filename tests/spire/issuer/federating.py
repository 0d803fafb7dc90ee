"""A second trust domain, as an administrator would name it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from spire.domain.authority import Succession, advance, sign_svid
from spire.domain.bundle import Bundle
from spire.domain.federation import Configured, Endpoint, Peer
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.identity import FixedIdentity, Identity, Svid

PEER = TrustDomain("b.example")
NOWHERE = "https://127.0.0.1:1/bundle"


class Domain:
    """A trust domain in memory, whose authority can be succeeded at once."""

    def __init__(self, name: TrustDomain = PEER) -> None:
        self.name = name
        self._succession = Succession(trust_domain=name)
        self.rotate()

    def rotate(self) -> None:
        """Another authority; the one before is forgotten, as if a year had passed."""
        fresh = Succession(trust_domain=self.name, sequence=self._succession.sequence)
        self._succession = advance(
            fresh,
            now=datetime.now(UTC),
            lifetime=timedelta(days=30),
            new_key=lambda: ec.generate_private_key(ec.SECP256R1()),
            serial=x509.random_serial_number,
        )

    @property
    def bundle(self) -> Bundle:
        return Bundle(
            trust_domain=self.name,
            roots=self._succession.roots,
            sequence=self._succession.sequence,
            refresh_hint=timedelta(seconds=5),
        )

    def svid(self, *path: str, ttl: timedelta = timedelta(hours=1), of: SpiffeId | None = None) -> Svid:
        """An SVID of this domain; or, forged, one that names another."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.sign(of or self.name.spiffe_id(*path), key.public_key(), ttl=ttl)
        return Svid.parse([leaf], key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))

    def sign(
        self, spiffe_id: SpiffeId, key: ec.EllipticCurvePublicKey, *, ttl: timedelta = timedelta(hours=1)
    ) -> bytes:
        """A leaf for somebody's key."""
        now = datetime.now(UTC)
        leaf = sign_svid(
            self._succession.signer(now),
            spiffe_id=spiffe_id,
            key=key,
            common_name="x",
            now=now,
            ttl=ttl,
            serial=x509.random_serial_number(),
        )
        return leaf.public_bytes(Encoding.DER)

    def identity(self, *path: str, of: SpiffeId | None = None) -> FixedIdentity:
        return FixedIdentity(Identity(svid=self.svid(*path, of=of), bundles={self.name: self._succession.roots}))


_FIRST = Bundle(trust_domain=PEER, roots=Domain().bundle.roots)


def configured(first: Bundle = _FIRST, *, url: str = NOWHERE, spiffe_id: SpiffeId | None = None) -> Configured:
    """One peer, at that place."""
    endpoint = Endpoint(url=url, spiffe_id=spiffe_id or first.trust_domain.spiffe_id("issuer"))
    return {first.trust_domain: Peer(endpoint=endpoint, first=first)}
