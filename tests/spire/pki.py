"""A trust domain's certificate authority, which also signs what no honest one would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from spire.domain.spiffe_id import TrustDomain
from spire.identity import Identity, Svid

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
HOUR = timedelta(hours=1)


def usage(*, certifies: bool = False, signs: bool = True) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=not certifies,
        data_encipherment=False,
        key_agreement=not certifies,
        key_cert_sign=certifies,
        crl_sign=certifies,
        encipher_only=False,
        decipher_only=False,
    )


LEAF_USAGE = usage()


def key_der(key: Key) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class Ca:
    """A root, or (by `intermediate`) a CA below one."""

    trust_domain: TrustDomain
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    parent: Ca | None = None

    def __post_init__(self) -> None:
        issuer = self.parent or self
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{self.trust_domain} {id(self.key)}")])
        self.name = name
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer.name)
            .serial_number(x509.random_serial_number())
            .public_key(self.key.public_key())
            .not_valid_before(now - 24 * HOUR)
            .not_valid_after(now + 24 * HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage(certifies=True, signs=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}")]),
                critical=False,
            )
        )
        self.certificate = builder.sign(issuer.key, hashes.SHA256())

    @classmethod
    def of(cls, name: str) -> Ca:
        return cls(TrustDomain(name))

    def intermediate(self) -> Ca:
        return Ca(self.trust_domain, parent=self)

    @property
    def root(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def svid(
        self,
        path: str = "/manager/test",
        *,
        trust_domain: TrustDomain | None = None,
        uris: Sequence[str] | None = None,
        names: Sequence[str] = (),
        common_name: str = "",
        key: Key | None = None,
        public_key: CertificatePublicKeyTypes | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        ca: bool = False,
        key_usage: x509.KeyUsage | None = LEAF_USAGE,
        extended: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    ) -> Svid:
        """An SVID; with other arguments than `path` possibly one that must be refused.

        With a `public_key` of somebody else the key in it is not the one that belongs to it.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject_key = public_key or key.public_key()
        domain = trust_domain or self.trust_domain
        uris = [f"spiffe://{domain}{path}"] if uris is None else uris
        now = datetime.now(UTC)
        not_after = not_after or now + HOUR
        subject = [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else []
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self.name)
            .serial_number(x509.random_serial_number())
            .public_key(subject_key)
            .not_valid_before(not_before or now - timedelta(seconds=10))
            .not_valid_after(not_after)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if key_usage is not None:
            builder = builder.add_extension(key_usage, critical=True)
        if extended:
            builder = builder.add_extension(x509.ExtendedKeyUsage(extended), critical=False)
        alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        alternatives += [x509.DNSName(name) for name in names]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=not subject)
        chain = [builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)]
        above: Ca | None = self
        while above is not None and above.parent is not None:
            chain.append(above.root)
            above = above.parent
        return Svid(
            spiffe_id=domain.spiffe_id(*path.strip("/").split("/")),
            chain=tuple(chain),
            key=key_der(key),
            expires=not_after.replace(microsecond=0),
        )

    def identity(self, path: str = "/manager/test", *, knows: Sequence[Ca] = ()) -> Identity:
        """An SVID of this authority, and the roots of this and of `knows`."""
        return Identity(svid=self.svid(path), bundles=bundles_of(self, *knows))


def bundles_of(*authorities: Ca) -> dict[TrustDomain, tuple[bytes, ...]]:
    bundles: dict[TrustDomain, tuple[bytes, ...]] = {}
    for each in authorities:
        bundles[each.trust_domain] = (*bundles.get(each.trust_domain, ()), each.root)
    return bundles
