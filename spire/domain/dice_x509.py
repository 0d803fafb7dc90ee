"""DICE certificates in X.509, byte for byte as the profile's reference implementation writes them.

Library path checkers refuse these chains (a leaf that may only certify, a critical extension that they do not know), so
what an extension means is decided in `x509_reader` and the path in `chain`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from spire.domain import dice, keys, tcg
from spire.domain.certificates import OpenDiceInput
from spire.domain.der import tlv
from spire.domain.keys import Curve, PrivateKey, PublicKey
from spire.domain.ueid import Ueid
from spire.domain.x509_reader import OPEN_DICE, parse

__all__ = [
    "EPOCH",
    "FOREVER",
    "OPEN_DICE",
    "attestation_certificate",
    "cdi_certificate",
    "open_dice_extension",
    "parse",
    "uds_certificate",
    "usage",
]

EPOCH: Final = datetime(2018, 3, 22, 23, 59, 59, tzinfo=UTC)
"""Start of validity for devices without a clock: the day of the TCG specification."""
FOREVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280's way to say that there is no end."""

_SEQUENCE, _ENUMERATED = 0x30, 0x0A


def open_dice_extension(said: OpenDiceInput) -> bytes:
    """DER of the extension's value, mode as ENUMERATED: so the reference code has it, and all devices with it."""
    fields = (
        said.code_hash,
        said.code_descriptor,
        said.configuration_hash,
        said.configuration_descriptor,
        said.authority_hash,
        said.authority_descriptor,
    )
    parts = [tlv(0xA0 + number, asn1.encode_der(value)) for number, value in enumerate(fields) if value is not None]
    parts.append(tlv(0xA6, tlv(_ENUMERATED, bytes([said.mode]))))
    if said.profile_name is not None:
        parts.append(tlv(0xA7, asn1.encode_der(said.profile_name)))
    return tlv(_SEQUENCE, b"".join(parts))


def cdi_certificate(*, authority: PrivateKey, subject: PublicKey, said: OpenDiceInput) -> bytes:
    """Certify the next layer's key.

    Args:
        authority: key of the layer that measured.
        subject: key of the layer that was measured.
        said: what was measured.
    """
    builder = _device_certificate(authority.public_key(), subject, certifies=True)
    extension = x509.UnrecognizedExtension(OPEN_DICE, open_dice_extension(said))
    return _sign(builder.add_extension(extension, critical=True), authority)


def attestation_certificate(*, authority: PrivateKey, subject: PublicKey) -> bytes:
    """Certify an attestation key: keys of layers sign certificates only, this one signs evidence only.

    Args:
        authority: key of the last layer.
        subject: the attestation key.
    """
    return _sign(_device_certificate(authority.public_key(), subject, certifies=False), authority)


def uds_certificate(
    *, manufacturer: PrivateKey, issuer: x509.Certificate, subject: PublicKey, ueid: Ueid | None = None
) -> bytes:
    """Certify the key of a device's hardware, as its manufacturer does.

    Args:
        manufacturer: the manufacturer's key.
        issuer: the manufacturer's certificate.
        subject: key of the UDS.
        ueid: the name that the manufacturer gives the device; without it the name is derived from the key.
    """
    builder = _certificate(subject, issuer=issuer.subject, certifies=True)
    if ueid is not None:
        extension = x509.UnrecognizedExtension(tcg.UEID, tcg.ueid_extension(ueid))
        builder = builder.add_extension(extension, critical=False)
    return _sign(builder, manufacturer)


def _device_certificate(authority: PublicKey, subject: PublicKey, *, certifies: bool) -> x509.CertificateBuilder:
    issuer = dice.identifier_of(authority)
    key_id = x509.AuthorityKeyIdentifier(issuer, authority_cert_issuer=None, authority_cert_serial_number=None)
    return _certificate(subject, issuer=_name(issuer), certifies=certifies, first=key_id)


def _certificate(
    subject: PublicKey, *, issuer: x509.Name, certifies: bool, first: x509.AuthorityKeyIdentifier | None = None
) -> x509.CertificateBuilder:
    """Everything that can be said of a key that has no clock; the order of extensions is the profile's."""
    identifier = dice.identifier_of(subject)
    builder = (
        x509.CertificateBuilder()
        .serial_number(int.from_bytes(identifier, "big"))
        .issuer_name(issuer)
        .subject_name(_name(identifier))
        .public_key(subject)
        .not_valid_before(EPOCH)
        .not_valid_after(FOREVER)
    )
    if first is not None:
        builder = builder.add_extension(first, critical=False)
    return (
        builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
        .add_extension(usage(certifies=certifies, attests=not certifies), critical=True)
        .add_extension(x509.BasicConstraints(ca=certifies, path_length=None), critical=True)
    )


def _sign(builder: x509.CertificateBuilder, key: PrivateKey) -> bytes:
    match key:
        case ed25519.Ed25519PrivateKey():
            certificate = builder.sign(key, None)
        case ec.EllipticCurvePrivateKey():
            algorithm = hashes.SHA256() if keys.curve_of(key) is Curve.P256 else hashes.SHA384()
            certificate = builder.sign(key, algorithm, ecdsa_deterministic=True)
    return certificate.public_bytes(Encoding.DER)


def usage(*, certifies: bool, attests: bool) -> x509.KeyUsage:
    """Key usage of certifying and attesting keys; nothing else is ever allowed."""
    return x509.KeyUsage(
        digital_signature=attests,
        key_cert_sign=certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(identifier: bytes) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, identifier.hex())])
