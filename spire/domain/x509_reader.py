"""Reads the X.509 certificates of DICE chains: the few members that count, each byte of them accounted for.

A fleet shows tens of thousands of certificates that nobody has seen before, and building a library's objects for all
of each costs as much as a signature check. So the structure is walked here, by `der`, and what devices have in common
(dates, rights, software, their manufacturer's name) is decoded by cryptography once and remembered by its bytes.
Whatever is accepted here, cryptography would accept: tests and a fuzzer compare.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtensionOID, NameOID

from spire.domain import der, dice, keys, tcg
from spire.domain.certificates import MAX_CERTIFICATE, Certificate, Layer, layer_of
from spire.domain.errors import Malformed
from spire.domain.keys import Curve, PublicKey

OPEN_DICE: Final = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.1.24")


def _content(oid: x509.ObjectIdentifier) -> bytes:
    return asn1.encode_der(oid)[2:]


_AUTHORITY_KEY_ID: Final = _content(ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
_SUBJECT_KEY_ID: Final = _content(ExtensionOID.SUBJECT_KEY_IDENTIFIER)
_KEY_USAGE: Final = _content(ExtensionOID.KEY_USAGE)
_CONSTRAINTS: Final = _content(ExtensionOID.BASIC_CONSTRAINTS)
_OPEN_DICE, _TCB_INFO, _UEID = _content(OPEN_DICE), _content(tcg.TCB_INFO), _content(tcg.UEID)
_TCG: Final = _content(tcg.ARC)
_KNOWN: Final = {_AUTHORITY_KEY_ID, _SUBJECT_KEY_ID, _KEY_USAGE, _CONSTRAINTS, _OPEN_DICE, _TCB_INFO, _UEID}
_KEY_IDS: Final = {
    bytes.fromhex("301d 0603551d0e 0416 0414"): _SUBJECT_KEY_ID,
    bytes.fromhex("301f 0603551d23 0418 3016 8014"): _AUTHORITY_KEY_ID,
}
"""Before their 20 bytes, the two extensions that differ from key to key: nothing in them is left open."""

_CERTIFICATE: Final = b"\x30\x30\x03"
_TBS_CERTIFICATE: Final = b"\xa0\x02\x30\x30\x30\x30\x30\xa3"  # without version it is v1, without extensions no DICE's
_V3: Final = b"\x02\x01\x02"
_IDENTIFIER_NAME: Final = bytes.fromhex("3131 302f 0603550405 1328")
"""Content of a name of one serialNumber (2.5.4.5), up to its 40 characters as PrintableString."""
_HASHES: Final = {
    bytes.fromhex("06082a8648ce3d040302"): "sha256",
    bytes.fromhex("06082a8648ce3d040303"): "sha384",
    bytes.fromhex("06082a8648ce3d040304"): "sha512",
    bytes.fromhex("06032b6570"): None,
}
"""Of the signature algorithms ecdsa-with-SHA256, 384, 512, and Ed25519."""
_KEYS: Final = {
    89: (Curve.P256, bytes.fromhex("3013 06072a8648ce3d0201 06082a8648ce3d030107 03420004")),
    118: (Curve.P384, bytes.fromhex("3010 06072a8648ce3d0201 06052b81040022 03620004")),
    42: (Curve.ED25519, bytes.fromhex("3005 06032b6570 032100")),
}
"""By length, what stands before the bytes of a key in its SubjectPublicKeyInfo; points are never compressed there."""
_INTEGER, _ENUMERATED = b"\x02", b"\x0a"


@asn1.sequence
class _AuthorityKeyIdentifier:
    key_id: Annotated[bytes | None, asn1.Implicit(0)]
    issuer: Annotated[list[asn1.TLV] | None, asn1.Implicit(1)]
    serial_number: Annotated[int | None, asn1.Implicit(2)]


@asn1.sequence
class _BasicConstraints:
    ca: Annotated[bool, asn1.Default(False)]  # noqa: FBT003  what the specification says, not an argument
    path_length: int | None


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


class Signed(NamedTuple):
    """A certificate's signed part; its signature is DER, or Ed25519's."""

    message: bytes
    value: bytes
    hash_name: str | None

    def verify(self, key: PublicKey, *, what: str) -> None:
        """See `certificates.Signed`."""
        keys.verify_der(key, signature=self.value, message=self.message, hash_name=self.hash_name, what=what)


def parse(data: bytes) -> Certificate:
    """Read a certificate of a DICE chain.

    Raises:
        Malformed: not DER of an X.509 v3 certificate, or with something critical in it that we do not know.
    """
    if len(data) > MAX_CERTIFICATE:
        raise Malformed(field="certificate", value=f"{len(data)} bytes", expected=f"at most {MAX_CERTIFICATE} bytes")
    try:
        return _read(data)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise Malformed(field="certificate", value=data, expected=f"an X.509 certificate ({error})") from error


def _read(data: bytes) -> Certificate:
    (whole,) = der.fields(data, (0, len(data)), tags=b"\x30", field="certificate")
    tbs, algorithm, signature = der.fields(data, whole, tags=_CERTIFICATE, field="certificate")
    parts = der.fields(data, tbs, tags=_TBS_CERTIFICATE, field="certificate")
    version, number, same_algorithm, issuer, validity, subject, key, extensions = [
        data[begin:end] for begin, end in parts
    ]
    if version != _V3:
        raise Malformed(field="certificate.version", value=version, expected="v3")
    if not number or (len(number) > 1 and number[0] in (0x00, 0xFF) and (number[0] ^ number[1]) < 0x80):
        raise Malformed(field="certificate.serialNumber", value=number, expected="an integer in its shortest form")
    if same_algorithm not in _HASHES:
        x509.load_der_x509_certificate(data)  # of a manufacturer that others certify: is it at least well-formed?
    if same_algorithm != data[algorithm[0] : algorithm[1]]:
        raise Malformed(field="certificate.signatureAlgorithm", value=same_algorithm, expected="the same twice")
    if data[signature[0] : signature[0] + 1] != b"\x00":
        # Bits that are said to be unused would be bytes of the signature that anybody could change.
        raise Malformed(field="certificate.signature", value=data[slice(*signature)], expected="whole bytes")
    curve, raw_key = _key(key)
    said = _extensions(extensions)
    certifies, attests = _usage(said.get(_KEY_USAGE))
    is_ca, path_length = _constraints(said.get(_CONSTRAINTS))
    not_before, not_after = _validity(validity)
    return Certificate(
        issuer=_name(issuer),
        subject=_name(subject),
        public_key=keys.from_raw(curve, raw_key),
        raw_key=raw_key,
        authority_key_id=said.get(_AUTHORITY_KEY_ID) or None,
        subject_key_id=said.get(_SUBJECT_KEY_ID),
        may_certify=certifies and is_ca,
        may_attest=attests,
        path_length=path_length,
        not_before=not_before,
        not_after=not_after,
        layer=_layer(said.get(_OPEN_DICE), said.get(_TCB_INFO)),
        ueid=tcg.ueid_of(said[_UEID]) if _UEID in said else None,
        signed=Signed(
            message=data[whole[0] : tbs[1]],
            value=data[signature[0] + 1 : signature[1]],
            hash_name=_HASHES.get(same_algorithm, "an algorithm of others"),
        ),
    )


def _extensions(data: bytes) -> dict[bytes, bytes]:
    """Values of the extensions that are known, by object identifier; of key identifiers those themselves."""
    ((start, end),) = der.fields(data, (0, len(data)), tags=b"\x30", field="certificate.extensions")
    _, spans = der.split(data, start, end)
    said: dict[bytes, bytes] = {}
    for _, end in spans:
        extension, start = data[start:end], end
        oid, value = _KEY_IDS.get(extension[:-20]), extension[-20:]
        if oid is None:
            oid, value = _extension(extension)
        if oid in said:
            raise Malformed(field="certificate.extensions", value=_dotted(oid), expected="each extension once")
        said[oid] = value
    return said


@lru_cache(maxsize=256)
def _extension(data: bytes) -> tuple[bytes, bytes]:
    """One of them; where nobody here knows it, only if it restricts and describes nothing."""
    ((start, end),) = der.fields(data, (0, len(data)), tags=b"\x30", field="certificate.extensions")
    tags, spans = der.split(data, start, end)
    oid = data[slice(*spans[0])] if spans else b""
    critical = tags == b"\x06\x01\x04"
    if not (critical or tags == b"\x06\x04") or (critical and data[slice(*spans[1])] != b"\xff"):
        raise Malformed(field="certificate.extensions", value=data, expected="extensions")
    dotted = _dotted(oid)
    # Not even uncritical ones of TCG: a layer's description that we cannot read would make it no layer.
    if oid not in _KNOWN and (critical or oid.startswith(_TCG)):
        expected = "an extension that is known here"
        raise Malformed(field="certificate.extensions", value=dotted, expected=expected)
    value = data[slice(*spans[-1])]
    if oid == _SUBJECT_KEY_ID:
        value = asn1.decode_der(bytes, value)
    elif oid == _AUTHORITY_KEY_ID:
        value = asn1.decode_der(_AuthorityKeyIdentifier, value).key_id or b""
    return oid, value


def _dotted(oid: bytes) -> str:
    return asn1.decode_der(x509.ObjectIdentifier, der.tlv(0x06, oid)).dotted_string


@lru_cache(maxsize=64)
def _usage(value: bytes | None) -> tuple[bool, bool]:
    """Whether the key certifies, and whether it signs other things."""
    if value is None:
        return False, False
    bits = (asn1.decode_der(asn1.BitString, value).as_bytes() or b"\x00")[0]
    return bool(bits & 0x04), bool(bits & 0x80)


@lru_cache(maxsize=64)
def _constraints(value: bytes | None) -> tuple[bool, int | None]:
    """Whether the key is a CA's, and how many may follow."""
    if value is None:
        return False, None
    said = asn1.decode_der(_BasicConstraints, value)
    if said.path_length is not None and (said.path_length < 0 or not said.ca):
        raise Malformed(field="certificate.pathLength", value=said.path_length, expected="0 or more, of a CA")
    return said.ca, said.path_length


@lru_cache(maxsize=64)
def _validity(data: bytes) -> tuple[datetime, datetime]:
    tags, spans = der.split(data, 0, len(data))
    if len(tags) != 2:
        raise Malformed(field="certificate.validity", value=data, expected="two times")
    not_before, not_after = (_time(tag, data[slice(*span)]) for tag, span in zip(tags, spans, strict=True))
    return not_before, not_after


def _time(tag: int, content: bytes) -> datetime:
    match tag, len(content):
        case 0x17, 13:
            return asn1.decode_der(asn1.UTCTime, der.tlv(tag, content)).as_datetime()
        case 0x18, 15:  # RFC 5280 allows no fractions
            return asn1.decode_der(asn1.GeneralizedTime, der.tlv(tag, content)).as_datetime()
        case _:
            raise Malformed(field="certificate.validity", value=content, expected="UTCTime or GeneralizedTime")


def _key(data: bytes) -> tuple[Curve, bytes]:
    curve, head = _KEYS.get(len(data), (None, b""))
    if curve is None or not data.startswith(head):
        raise Malformed(field="certificate.key", value=data, expected="P-256, P-384 or Ed25519")
    return curve, data[len(head) :]


def _name(data: bytes) -> str:
    """A name as CBOR certificates have it: a lone identifier, or what RFC 4514 makes of it."""
    start = len(_IDENTIFIER_NAME)
    if len(data) == start + 2 * dice.ID_SIZE and data.startswith(_IDENTIFIER_NAME) and data[start:].isalnum():
        return data[start:].decode("ascii")
    return _text(data)


@lru_cache(maxsize=64)
def _text(data: bytes) -> str:
    # Cryptography reads names in something that has one only; a request is the smallest such thing.
    key = der.tlv(0x30, _KEYS[42][1] + bytes(32))
    inside = der.tlv(0x30, b"\x02\x01\x00" + der.tlv(0x30, data) + key + b"\xa0\x00")
    request = x509.load_der_x509_csr(der.tlv(0x30, inside + b"\x30\x05\x06\x03\x2b\x65\x70" + b"\x03\x01\x00"))
    match list(request.subject):
        case [x509.NameAttribute(oid=NameOID.SERIAL_NUMBER, value=str() as identifier)]:
            return identifier
        case _:
            return request.subject.rfc4514_string()


@lru_cache(maxsize=256)
def _layer(open_dice: bytes | None, tcb_info: bytes | None) -> Layer | None:
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


REMEMBERED: Final = (_extension, _usage, _constraints, _validity, _text, _layer)
"""What keeps results, for who must forget them."""
