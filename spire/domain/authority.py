"""The certificate authority of a trust domain: its succession of keys, and the certificates that they sign.

An authority is prepared at half of its predecessor's life, and signs when two thirds of what was left then are over
(5/6 of the life, as SPIRE does it). Both are in the bundle meanwhile, so that the new one is known wherever an SVID of
its comes to; the old one leaves at its own end, which no SVID outlives.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import orjson
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crds.errors import InvalidField
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain

SvidKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

LIVES_OF_SVIDS: Final = 6
"""How many lives of the longest SVID fit into that of an authority: 1/6 is left of it when its successor takes over."""
BACKDATED: Final = timedelta(seconds=10)
"""For clocks that are a little late."""
MAX_CSR: Final = 8192
MAX_COMMON_NAME: Final = 64
"""X.520's upper bound, which TLS libraries hold to."""

_USAGES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Authority:
    """One key of the trust domain.

    Attributes:
        certificate: signed by itself.
        key: None once a successor signs: what is forgotten cannot leak.
        active_from: when it begins to sign; its certificate is in the bundle before.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | None = field(repr=False)
    active_from: datetime

    @property
    def begins(self) -> datetime:
        """When it was made; its certificate is valid from a little before."""
        return self.certificate.not_valid_before_utc + BACKDATED

    @property
    def ends(self) -> datetime:
        """End of its validity, and of everything that it signed."""
        return self.certificate.not_valid_after_utc

    @property
    def half_life(self) -> datetime:
        """When its successor is to be prepared."""
        return self.begins + (self.ends - self.begins) / 2

    @property
    def der(self) -> bytes:
        """The certificate's bytes."""
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """All authorities of a trust domain that anybody may still rely on, the oldest first.

    Attributes:
        trust_domain: whose.
        sequence: grows by one with every change of the certificates, so that a bundle can be told from an older one.
        members: see above.
    """

    trust_domain: TrustDomain
    sequence: int = 0
    members: tuple[X509Authority, ...] = ()

    @property
    def roots(self) -> tuple[bytes, ...]:
        """What the bundle holds."""
        return tuple(each.der for each in self.members)

    def signer(self, now: datetime) -> X509Authority:
        """Who signs now: the newest that is active.

        Raises:
            LookupError: there is none, as `advance` was never called.
        """
        holders = [each for each in self.members if each.key is not None]
        if not holders:
            raise LookupError(f"{self.trust_domain} has no authority")
        # A clock that was set back may find none active; then the oldest key is what others have known for longest.
        return next((each for each in reversed(holders) if each.active_from <= now), holders[0])

    def next_step(self) -> datetime:
        """When `advance` has something to do again.

        Raises:
            LookupError: there is no authority.
        """
        if not self.members:
            raise LookupError(f"{self.trust_domain} has no authority")
        # An activation forgets the key of the predecessor; one whose predecessor's is forgotten has taken place.
        activations = [
            later.active_from
            for earlier, later in zip(self.members, self.members[1:], strict=False)
            if earlier.key is not None
        ]
        return min(self.members[-1].half_life, *(each.ends for each in self.members), *activations)


def advance(
    succession: Succession,
    *,
    now: datetime,
    lifetime: timedelta,
    new_key: Callable[[], ec.EllipticCurvePrivateKey],
    serial: Callable[[], int],
) -> Succession:
    """What it is to be now; the same object where nothing changes.

    Args:
        succession: as it was saved.
        now: the time.
        lifetime: of an authority that is made now.
        new_key: makes a P-256 key.
        serial: makes a random serial number, positive and below 2**159.
    """
    members = [each for each in succession.members if now < each.ends]
    if not members:
        active_from = now
    elif now >= members[-1].half_life:
        # On time, both are the same. Late, or where the lifetime was changed, the sooner one leaves time enough.
        active_from = now + min((members[-1].ends - now) * 2 / 3, lifetime / 3)
    else:
        active_from = None
    if active_from is not None:
        key = new_key()
        certificate = _self_signed(succession.trust_domain, key=key, now=now, lifetime=lifetime, serial=serial())
        members.append(X509Authority(certificate=certificate, key=key, active_from=active_from))
    active = max((number for number, each in enumerate(members) if each.active_from <= now), default=0)
    members[:active] = [each if each.key is None else replace(each, key=None) for each in members[:active]]
    advanced = replace(succession, members=tuple(members))
    if advanced.roots != succession.roots:
        return replace(advanced, sequence=succession.sequence + 1)
    return succession if advanced == succession else advanced


def sign_svid(
    authority: X509Authority,
    *,
    spiffe_id: SpiffeId,
    key: SvidKey,
    common_name: str,
    now: datetime,
    ttl: timedelta,
    serial: int,
) -> x509.Certificate:
    """An X.509-SVID, in the form that SPIRE gives to its own.

    Args:
        authority: who signs; must have its key.
        spiffe_id: the only name that counts.
        key: whose.
        common_name: for programs such as mosquitto that know nothing but it, 1 to 64 characters.
        now: the time.
        ttl: of the SVID; it ends with the authority at the latest.
        serial: random, positive, below 2**159.

    Raises:
        InvalidField: a common name that is too long or empty, or no time is left.
    """
    if authority.key is None:
        raise ValueError("this authority signs no more")
    if not 1 <= len(common_name) <= MAX_COMMON_NAME:
        raise InvalidField(field="commonName", value=common_name, expected=f"1 to {MAX_COMMON_NAME} characters")
    ends = min(now + ttl, authority.ends)
    if ends <= now:
        raise InvalidField(field="ttl", value=str(ttl), expected=f"time before the authority's end at {authority.ends}")
    issuer = authority.certificate
    own_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    # Keys on curves only agree; encipherment is how RSA does it in TLS 1.2.
    encipher, agree = isinstance(key, rsa.RSAPublicKey), isinstance(key, ec.EllipticCurvePublicKey)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(max(now, authority.begins) - BACKDATED)
        .not_valid_after(ends)
        .add_extension(_usage(sign=True, encipher=encipher, agree=agree), critical=True)
        .add_extension(_USAGES, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False)
        .add_extension(_named(spiffe_id), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def key_of_csr(csr: bytes) -> SvidKey:
    """The key that a PKCS#10 request is for. Names and extensions in it are wishes of who asks, and ignored.

    Raises:
        Malformed: not a request in DER, or a key of a kind or size that gets no SVID.
        Untrusted: who asks does not hold the key.
    """
    if len(csr) > MAX_CSR:
        raise Malformed(field="csr", value=f"{len(csr)} bytes", expected=f"at most {MAX_CSR} bytes")
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise Malformed(field="csr", value=csr, expected="a PKCS#10 request in DER, of a known kind of key") from error
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in {"secp256r1", "secp384r1"}:
            pass
        case rsa.RSAPublicKey() if 2048 <= key.key_size <= 4096:
            pass
        case ed25519.Ed25519PublicKey():
            pass
        case _:
            shown = f"{type(key).__name__}, {getattr(key, 'key_size', '?')} bits"
            raise Malformed(field="csr.key", value=shown, expected="P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits")
    try:
        holds = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        holds = False
    if not holds:
        raise Untrusted(Reason.BAD_SIGNATURE, "the certificate request is not signed by its own key")
    return key


def workload_common_name(spiffe_id: SpiffeId) -> str:
    """The common name of a workload's SVID: the path with dots, `relay.edge-1`, which no ueid looks like.

    A common name has 64 characters. What is longer is cut, and told from others by a hash.
    """
    name = spiffe_id.path.removeprefix("/").replace("/", ".")
    if len(name) <= MAX_COMMON_NAME:
        return name
    return f"{name[:47]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def dump(succession: Succession) -> bytes:
    """JSON with the keys in it: for a store that only the issuer reads."""
    return orjson.dumps(
        {
            "trustDomain": str(succession.trust_domain),
            "sequence": succession.sequence,
            "authorities": [
                {
                    "certificate": b64encode(each.der).decode(),
                    "key": None if each.key is None else b64encode(_pkcs8(each.key)).decode(),
                    "activeFrom": each.active_from.isoformat(),
                }
                for each in succession.members
            ],
        }
    )


def load(data: bytes, *, trust_domain: TrustDomain) -> Succession:
    """The inverse of `dump`.

    Raises:
        InvalidField: it is something else, or of another trust domain.
    """
    try:
        document: Any = orjson.loads(data)
        found = str(document["trustDomain"])
        loaded = Succession(
            trust_domain=trust_domain,
            sequence=int(document["sequence"]),
            members=tuple(_member(each) for each in document["authorities"]),
        )
    except (ValueError, TypeError, KeyError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InvalidField(
            field="authority", value=f"{len(data)} bytes", expected=f"what the issuer wrote ({error!r})"
        ) from error
    if found != str(trust_domain):
        raise InvalidField(field="authority.trustDomain", value=found, expected=str(trust_domain))
    return loaded


def _member(document: Any) -> X509Authority:
    certificate = x509.load_der_x509_certificate(b64decode(document["certificate"], validate=True))
    return X509Authority(
        certificate=certificate,
        key=None if document["key"] is None else _key_of(certificate, b64decode(document["key"], validate=True)),
        active_from=datetime.fromisoformat(document["activeFrom"]).astimezone(UTC),
    )


def _key_of(certificate: x509.Certificate, pkcs8: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_der_private_key(pkcs8, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("a key that is not the certificate's")
    return key


def _self_signed(
    trust_domain: TrustDomain, *, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta, serial: int
) -> x509.Certificate:
    public = key.public_key()
    own_id = x509.SubjectKeyIdentifier.from_public_key(public)
    # Its own name for each key: TLS libraries look for issuers by name, and both are in the bundle for a while.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fluidos-edge"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, own_id.digest.hex()),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(_usage(certify=True), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(own_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False)
        .add_extension(_named(SpiffeId(trust_domain, "")), critical=False)
        .sign(key, hashes.SHA256())
    )


def _named(spiffe_id: SpiffeId) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])


def _usage(*, sign: bool = False, encipher: bool = False, agree: bool = False, certify: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        key_encipherment=encipher,
        key_agreement=agree,
        key_cert_sign=certify,
        crl_sign=certify,
        content_commitment=False,
        data_encipherment=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
