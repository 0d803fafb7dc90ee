"""Public keys and signatures: the three curves of DICE devices, whatever certificate or token carries them."""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spire.domain.errors import Malformed, Reason, Untrusted

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Curve(Enum):
    """What a key is on, with its COSE numbers (RFC 9053) and the size of one coordinate in bytes."""

    P256 = (-7, 1, 32)
    P384 = (-35, 2, 48)
    ED25519 = (-8, 6, 32)

    def __init__(self, algorithm: int, cose_curve: int, size: int) -> None:
        self.algorithm = algorithm
        self.cose_curve = cose_curve
        self.size = size


_ECDSA = {
    algorithm.name: ec.ECDSA(algorithm, deterministic_signing=True)
    for algorithm in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())
}
_HASH = {Curve.P256: "sha256", Curve.P384: "sha384"}
_EC_CURVES = {Curve.P256: ec.SECP256R1(), Curve.P384: ec.SECP384R1()}
_BY_TYPE: dict[type, Curve] = {type(curve): ours for ours, curve in _EC_CURVES.items()}


def curve_of(key: object) -> Curve:
    """The curve of a key.

    Raises:
        Malformed: a key of a kind that no device of ours has.
    """
    curve = _BY_TYPE.get(type(getattr(key, "curve", None)))  # cryptography's abstract classes make isinstance slow
    if curve is not None:
        return curve
    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return Curve.ED25519
    raise Malformed(field="key", value=type(key).__name__, expected="P-256, P-384 or Ed25519")


def supported(key: object) -> PublicKey:
    """The same key, known to be of one of our curves.

    Raises:
        Malformed: it is not.
    """
    curve_of(key)
    if isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        return key
    raise Malformed(field="key", value=type(key).__name__, expected="a public key")


def raw(key: PublicKey) -> bytes:
    """32 bytes of an Ed25519 key, X || Y of a point: what DICE hashes into an identifier."""
    match key:
        case ed25519.Ed25519PublicKey():
            return key.public_bytes_raw()
        case ec.EllipticCurvePublicKey():
            return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def from_raw(curve: Curve, data: bytes) -> PublicKey:
    """The inverse of `raw`.

    Raises:
        Malformed: wrong length, or no point of the curve.
    """
    try:
        if curve is Curve.ED25519:
            return ed25519.Ed25519PublicKey.from_public_bytes(data)
        return ec.EllipticCurvePublicKey.from_encoded_point(_EC_CURVES[curve], b"\x04" + data)
    except ValueError as error:
        raise Malformed(field="key", value=data, expected=f"a point of {curve.name}") from error


def sign(key: PrivateKey, message: bytes) -> bytes:
    """Sign as COSE does: r || s for a curve in Weierstrass form, with RFC 6979's nonce."""
    match key:
        case ed25519.Ed25519PrivateKey():
            return key.sign(message)
        case ec.EllipticCurvePrivateKey():
            curve = curve_of(key)
            r, s = decode_dss_signature(key.sign(message, _ECDSA[_HASH[curve]]))
            return r.to_bytes(curve.size, "big") + s.to_bytes(curve.size, "big")


def verify(key: PublicKey, *, signature: bytes, message: bytes, what: str) -> None:
    """Check a signature in COSE's form.

    Raises:
        Untrusted: it is not this key's over this message.
    """
    curve = curve_of(key)
    if curve is not Curve.ED25519:
        if len(signature) != 2 * curve.size:
            raise Untrusted(Reason.BAD_SIGNATURE, f"{what}: the signature has {len(signature)} bytes")
        r, s = signature[: curve.size], signature[curve.size :]
        signature = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
        verify_der(key, signature=signature, message=message, what=what, hash_name=_HASH[curve])
    else:
        verify_der(key, signature=signature, message=message, what=what, hash_name=None)


def verify_der(key: PublicKey, *, signature: bytes, message: bytes, what: str, hash_name: str | None) -> None:
    """Check a signature in X.509's form.

    Args:
        key: of who should have signed.
        signature: DER of r and s, or Ed25519's 64 bytes.
        message: what is signed.
        what: for the message of an error.
        hash_name: `sha256`, `sha384`, `sha512`; None for Ed25519, which hashes by itself.

    Raises:
        Untrusted: it is not this key's over this message, or made with an algorithm that the key is not for.
    """
    algorithm = _ECDSA.get(hash_name) if hash_name else None
    try:
        if algorithm is not None and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, algorithm)
        elif hash_name is None and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            raise Untrusted(Reason.BAD_SIGNATURE, f"{what}: {hash_name or 'EdDSA'} does not go with its key")
    except InvalidSignature:
        raise Untrusted(Reason.BAD_SIGNATURE, f"{what}: the signature is wrong") from None
