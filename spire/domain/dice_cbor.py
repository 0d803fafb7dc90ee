"""DICE certificates in CBOR: CWTs (RFC 8392) as untagged COSE_Sign1, a third smaller than X.509, which radios feel."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from spire.domain import cbor, cose, dice, keys
from spire.domain.cbor import Shape
from spire.domain.certificates import MAX_CERTIFICATE, MAX_NAME, Certificate, Layer, OpenDiceInput, layer_of
from spire.domain.errors import Malformed
from spire.domain.keys import PrivateKey, PublicKey
from spire.domain.ueid import Ueid

_ISS, _SUB, _EXP, _NBF, _IAT, _UEID = 1, 2, 4, 5, 6, 256
_CODE_HASH, _CODE_DESCRIPTOR = -4670545, -4670546
_CONFIGURATION_HASH, _CONFIGURATION_DESCRIPTOR = -4670547, -4670548
_AUTHORITY_HASH, _AUTHORITY_DESCRIPTOR = -4670549, -4670550
_MODE, _SUBJECT_KEY, _KEY_USAGE, _PROFILE_NAME = -4670551, -4670552, -4670553, -4670554

_OF_LAYERS: Final = {
    _CODE_HASH: ("codeHash", bytes),
    _CODE_DESCRIPTOR: ("codeDescriptor", bytes),
    _CONFIGURATION_HASH: ("configurationHash", bytes),
    _CONFIGURATION_DESCRIPTOR: ("configurationDescriptor", bytes),
    _AUTHORITY_HASH: ("authorityHash", bytes),
    _AUTHORITY_DESCRIPTOR: ("authorityDescriptor", bytes),
    _MODE: ("mode", bytes),
    _PROFILE_NAME: ("profileName", str),
}
_CLAIMS: Final = Shape(
    {
        _ISS: ("iss", str),
        _SUB: ("sub", str),
        _EXP: ("exp", int),
        _NBF: ("nbf", int),
        _IAT: ("iat", int),
        _UEID: ("ueid", bytes),
        _SUBJECT_KEY: ("subjectPublicKey", bytes),
        _KEY_USAGE: ("keyUsage", bytes),
        **_OF_LAYERS,
    },
    required={_ISS, _SUB, _SUBJECT_KEY, _KEY_USAGE},
)
_CERTIFIES: Final = b"\x20"
_ATTESTS: Final = b"\x01"
_MAX_TIME = 253402300799  # the year 9999


def parse(data: bytes) -> Certificate:
    """Read a certificate of a DICE chain.

    Raises:
        Malformed: no CWT in a COSE_Sign1, or with a claim that we do not know.
    """
    signed = cose.parse(data, field="certificate", limit=MAX_CERTIFICATE)
    if set(signed.headers) != {cose.ALGORITHM}:
        raise Malformed(field="certificate.headers", value=list(signed.headers), expected="the algorithm alone")
    said = _CLAIMS.check(cbor.decode(signed.payload, field="certificate", limit=MAX_CERTIFICATE), field="certificate")
    usage = said[_KEY_USAGE]
    if usage not in (_CERTIFIES, _ATTESTS):
        raise Malformed(field="certificate.keyUsage", value=usage, expected="keyCertSign or digitalSignature")
    ueid = said.get(_UEID)
    curve, raw_key = cose.read_key(said[_SUBJECT_KEY], field="subjectPublicKey")
    return Certificate(
        issuer=_name(said[_ISS]),
        subject=_name(said[_SUB]),
        public_key=keys.from_raw(curve, raw_key),
        raw_key=raw_key,
        authority_key_id=None,
        subject_key_id=None,
        may_certify=usage == _CERTIFIES,
        may_attest=usage == _ATTESTS,
        path_length=None,
        not_before=_time(said.get(_NBF)),
        not_after=_time(said.get(_EXP)),
        layer=_layer(said),
        ueid=None if ueid is None else Ueid(ueid),
        signed=signed,
    )


def cdi_certificate(*, authority: PrivateKey, subject: PublicKey, said: OpenDiceInput) -> bytes:
    """Certify the next layer's key; the order of claims is the reference encoder's.

    Args:
        authority: key of the layer that measured.
        subject: key of the layer that was measured.
        said: what was measured.
    """
    claims = {
        **_names(authority.public_key(), subject),
        _CODE_HASH: said.code_hash,
        _CODE_DESCRIPTOR: said.code_descriptor,
        _CONFIGURATION_DESCRIPTOR: said.configuration_descriptor,
        _CONFIGURATION_HASH: said.configuration_hash,
        _AUTHORITY_HASH: said.authority_hash,
        _AUTHORITY_DESCRIPTOR: said.authority_descriptor,
        _MODE: bytes([said.mode]),
        **_key(subject, _CERTIFIES),
        _PROFILE_NAME: said.profile_name,
    }
    return _sign(claims, authority)


def attestation_certificate(*, authority: PrivateKey, subject: PublicKey) -> bytes:
    """Certify an attestation key: keys of layers sign certificates only, this one signs evidence only.

    Args:
        authority: key of the last layer.
        subject: the attestation key.
    """
    return _sign({**_names(authority.public_key(), subject), **_key(subject, _ATTESTS)}, authority)


def uds_certificate(*, manufacturer: PrivateKey, issuer: str, subject: PublicKey, ueid: Ueid | None = None) -> bytes:
    """Certify the key of a device's hardware, as its manufacturer does.

    Args:
        manufacturer: the manufacturer's key.
        issuer: the manufacturer's name.
        subject: key of the UDS.
        ueid: the name that the manufacturer gives the device; without it the name is derived from the key.
    """
    claims = {
        _ISS: issuer,
        _SUB: dice.identifier_of(subject).hex(),
        _UEID: ueid and ueid.value,
        **_key(subject, _CERTIFIES),
    }
    return _sign(claims, manufacturer)


def _names(authority: PublicKey, subject: PublicKey) -> dict[int, object]:
    return {_ISS: dice.identifier_of(authority).hex(), _SUB: dice.identifier_of(subject).hex()}


def _key(subject: PublicKey, usage: bytes) -> dict[int, object]:
    return {_SUBJECT_KEY: cbor.encode(cose.encode_key(subject, for_certificate=True)), _KEY_USAGE: usage}


def _sign(claims: dict[int, object], key: PrivateKey) -> bytes:
    return cose.sign1(key, cbor.encode({label: value for label, value in claims.items() if value is not None}))


def _layer(said: dict[int, Any]) -> Layer | None:
    if _CODE_HASH not in said:
        if described := said.keys() & _OF_LAYERS:
            raise Malformed(field="certificate", value=sorted(described), expected="a layer with its codeHash")
        return None
    mode = said.get(_MODE, b"")
    if len(mode) != 1:
        raise Malformed(field="certificate.mode", value=mode, expected="one byte")
    return layer_of(
        said[_CODE_HASH],
        said.get(_CODE_DESCRIPTOR),
        said.get(_CONFIGURATION_HASH),
        said.get(_CONFIGURATION_DESCRIPTOR),
        said.get(_AUTHORITY_HASH),
        said.get(_AUTHORITY_DESCRIPTOR),
        mode[0],
        said.get(_PROFILE_NAME),
    )


def _name(name: str) -> str:
    if not 0 < len(name) <= MAX_NAME:
        raise Malformed(field="certificate.iss/sub", value=name, expected=f"1 to {MAX_NAME} characters")
    return name


def _time(seconds: int | None) -> datetime | None:
    if seconds is None:
        return None
    if not 0 <= seconds <= _MAX_TIME:
        raise Malformed(field="certificate.exp/nbf", value=seconds, expected="seconds since 1970")
    return datetime.fromtimestamp(seconds, tz=UTC)
