"""DICE certificates in X.509: read and written, byte for byte as the profile's reference implementation writes them.

Library path checkers refuse these chains (a leaf that may only certify, a critical extension that they do not know), so
what an extension means is decided here and the path in `chain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID

from spire.domain import dice, keys, tcg
from spire.domain.certificates import MAX_CERTIFICATE, Certificate, Layer, OpenDiceInput, layer_of
from spire.domain.errors import Malformed
from spire.domain.keys import Curve, PrivateKey, PublicKey
from spire.domain.ueid import Ueid

OPEN_DICE: Final = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.24")
EPOCH: Final = datetime(2018, 3, 22, 23, 59, 59, tzinfo=UTC)
"""Start of validity for devices without a clock: the day of the TCG specification."""
FOREVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280's way to say that there is no end."""

E = TypeVar("E", bound=x509.ExtensionType)

_IDENTIFIER_NAME: Final = bytes.fromhex("3033 3131 302f 0603550405 1328")
"""DER of a name of one serialNumber (2.5.4.5), up to its 40 characters as PrintableString."""
_INTEGER, _ENUMERATED = b"\x02", b"\x0a"


@asn1.sequence
class _OpenDiceInput:
    """The extension as the profile says it, where mode is INTEGER, and as its code writes it: ENUMERATED."""

    code_hash: Annotated[bytes, asn1.Explicit(0)]
    code_descriptor: Annotated[bytes | None, asn1.Explicit(1)]
    configuration_hash: Annotated[bytes | None, asn1.Explicit(2)]
    configuration_descriptor: Annotated[bytes | None, asn1.Explicit(3)]
    authority_hash: Annotated[bytes | None, asn1.Explicit(4)]
    authority_descriptor: Annotated[bytes | None, asn1.Explicit(5)]
    mode: Annotated[asn1.TLV, asn1.Explicit(6)]
    profile_name: Annotated[str | None, asn1.Explicit(7)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signed:
    """A certificate's signed part; its signature is DER, or Ed25519's."""

    message: bytes
    value: bytes
    hash_name: str | None

    def verify(self, key: PublicKey, *, what: str) -> None:
        keys.verify_der(key, signature=self.value, message=self.message, hash_name=self.hash_name, what=what)


def parse(data: bytes) -> Certificate:
    """Read a certificate of a DICE chain.

    Raises:
        Malformed: not DER of an X.509 v3 certificate, or with something critical in it that we do not know.
    """
    if len(data) > MAX_CERTIFICATE:
        raise Malformed(field="certificate", value=f"{len(data)} bytes", expected=f"at most {MAX_CERTIFICATE} bytes")
    try:
        return _read(x509.load_der_x509_certificate(data), data)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion) as error:
        raise Malformed(field="certificate", value=data, expected=f"an X.509 certificate ({error})") from error


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
    parts = [_tlv(0xA0 + number, asn1.encode_der(value)) for number, value in enumerate(fields) if value is not None]
    parts.append(_tlv(0xA6, _tlv(_ENUMERATED[0], bytes([said.mode]))))
    if said.profile_name is not None:
        parts.append(_tlv(0xA7, asn1.encode_der(said.profile_name)))
    return _tlv(0x30, b"".join(parts))


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


def _tlv(tag: int, content: bytes) -> bytes:
    """DER of one value; lengths past 127 need a length of the length."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _read(certificate: x509.Certificate, data: bytes) -> Certificate:
    if certificate.version is not x509.Version.v3:
        raise Malformed(field="certificate.version", value=certificate.version.name, expected="v3")
    said = _Extensions(certificate.extensions)
    authority = said.take(x509.AuthorityKeyIdentifier, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
    subject = said.take(x509.SubjectKeyIdentifier, ExtensionOID.SUBJECT_KEY_IDENTIFIER)
    allowed = said.take(x509.KeyUsage, ExtensionOID.KEY_USAGE)
    constraints = said.take(x509.BasicConstraints, ExtensionOID.BASIC_CONSTRAINTS)
    ueid = said.take_unrecognized(tcg.UEID)
    layer = _layer(open_dice=said.take_unrecognized(OPEN_DICE), tcb_info=said.take_unrecognized(tcg.TCB_INFO))
    said.nothing_else()
    parts = _Parts.of(data)
    algorithm = certificate.signature_hash_algorithm
    return Certificate(
        issuer=_identifier(parts.issuer) or _text(certificate.issuer),
        subject=_identifier(parts.subject) or _text(certificate.subject),
        public_key=keys.supported(certificate.public_key()),
        authority_key_id=authority.key_identifier if authority else None,
        subject_key_id=subject.digest if subject else None,
        may_certify=allowed is not None and allowed.key_cert_sign and constraints is not None and constraints.ca,
        may_attest=allowed is not None and allowed.digital_signature,
        path_length=constraints.path_length if constraints else None,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        layer=layer,
        ueid=None if ueid is None else tcg.ueid_of(ueid),
        signed=_Signed(
            message=parts.signed, value=certificate.signature, hash_name=algorithm.name if algorithm else None
        ),
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """Slices of a certificate that cryptography has read: asked for them, it writes or builds them anew.

    That costs as much as all the rest of the reading. Cryptography takes DER alone, so lengths need no second check.
    """

    signed: bytes
    issuer: bytes
    subject: bytes

    @classmethod
    def of(cls, data: bytes) -> _Parts:
        start, _ = _content(data, 0)
        inner, end = _content(data, start)
        _, version = _content(data, inner)  # always there: one without is v1
        _, serial = _content(data, version)
        _, issuer = _content(data, serial)  # past the algorithm
        _, validity = _content(data, issuer)
        _, subject = _content(data, validity)
        _, key = _content(data, subject)
        return cls(signed=data[start:end], issuer=data[issuer:validity], subject=data[subject:key])


def _content(data: bytes, start: int) -> tuple[int, int]:
    """Begin and end of the content of the DER value at `start`; the end is where the next value starts."""
    size = data[start + 1]
    begin = start + 2
    if size >= 0x80:
        begin += size & 0x7F
        size = int.from_bytes(data[start + 2 : begin], "big")
    return begin, begin + size


class _Extensions:
    """The extensions of a certificate; those that are critical and that nobody took refuse it."""

    def __init__(self, extensions: x509.Extensions) -> None:
        self._left = {extension.oid: extension for extension in extensions}

    def take(self, kind: type[E], oid: x509.ObjectIdentifier) -> E | None:
        extension = self._left.pop(oid, None)
        return extension.value if extension is not None and type(extension.value) is kind else None

    def take_unrecognized(self, oid: x509.ObjectIdentifier) -> bytes | None:
        extension = self.take(x509.UnrecognizedExtension, oid)
        return extension.value if extension else None

    def nothing_else(self) -> None:
        for extension in self._left.values():
            # Not even uncritical ones of TCG: a layer's description that we cannot read would make it no layer.
            if extension.critical or tcg.is_tcg(extension.oid):
                oid = extension.oid.dotted_string
                raise Malformed(field="certificate.extensions", value=oid, expected="an extension that is known here")


def _identifier(name: bytes) -> str | None:
    """The identifier in the name of a DICE key, as the profile writes it; None for other names."""
    start = len(_IDENTIFIER_NAME)
    if len(name) != start + 2 * dice.ID_SIZE or not name.startswith(_IDENTIFIER_NAME):
        return None
    return name[start:].decode("ascii")


def _text(name: x509.Name) -> str:
    """A name as CBOR certificates have it: a lone identifier, or what RFC 4514 makes of it."""
    match list(name):
        case [x509.NameAttribute(oid=NameOID.SERIAL_NUMBER, value=str() as identifier)]:
            return identifier
        case _:
            return name.rfc4514_string()


def _layer(*, open_dice: bytes | None, tcb_info: bytes | None) -> Layer | None:
    if open_dice is None:
        return None if tcb_info is None else tcg.layer_of_tcb_info(tcb_info)
    if tcb_info is not None:
        raise Malformed(
            field="certificate.extensions", value=tcg.TCB_INFO.dotted_string, expected="one layer described"
        )
    said = asn1.decode_der(_OpenDiceInput, open_dice)
    mode = bytes(said.mode.data)
    if said.mode.tag_bytes not in (_INTEGER, _ENUMERATED) or len(mode) != 1:
        raise Malformed(field="openDice.mode", value=mode, expected="an INTEGER or ENUMERATED of one byte")
    return layer_of(
        said.code_hash,
        said.code_descriptor,
        said.configuration_hash,
        said.configuration_descriptor,
        said.authority_hash,
        said.authority_descriptor,
        mode[0],
        said.profile_name,
    )
