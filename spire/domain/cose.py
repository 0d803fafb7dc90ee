"""COSE_Sign1 and COSE_Key (RFC 9052, RFC 9053): how CBOR certificates and evidence are signed.

Our own hundred lines, because every byte of what is accepted should be one that we can explain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spire.domain import cbor, keys
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.keys import Curve, PrivateKey, PublicKey

ALGORITHM, CRITICAL = 1, 2
KTY_OKP, KTY_EC2 = 1, 2
VERIFY = 2
MAX_KEY = 256
TAG = b"\xd2"
"""Tag 18, which says COSE_Sign1."""

_ALGORITHM_ALONE = {cbor.encode({ALGORITHM: curve.algorithm}): {ALGORITHM: curve.algorithm} for curve in Curve}
"""The signed headers of every certificate, read once."""
_KEY = cbor.Shape(
    {1: ("kty", int), 3: ("alg", int), 4: ("key_ops", list), -1: ("crv", int), -2: ("x", bytes), -3: ("y", bytes)},
    required={1, -1, -2},
)
_BY_COSE_CURVE = {curve.cose_curve: curve for curve in Curve}


def _usual_key(curve: Curve) -> tuple[int, tuple[Curve, bytes, bytes]]:
    """Length of a curve's keys in certificates, what stands before their first number, and before the second."""
    x, y = b"x" * curve.size, b"y" * curve.size
    point = {1: KTY_EC2, 3: curve.algorithm, 4: [VERIFY], -1: curve.cose_curve, -2: x, -3: y}
    if curve is Curve.ED25519:
        point = {**point, 1: KTY_OKP}
        del point[-3]
    data = cbor.encode(point)
    head, rest = data.split(x)
    return len(data), (curve, head, rest.removesuffix(y))


_USUAL_KEYS = dict(map(_usual_key, Curve))
_NO_KEY = (Curve.P256, b"\x00", b"")


class Sign1(NamedTuple):
    """A COSE_Sign1 as read: nothing in it is believed before `verify`.

    Attributes:
        protected: the header that is signed, as its bytes.
        headers: both headers; no label is in both, and the algorithm is in the one that is signed.
        payload: what is signed.
        signature: r || s, or Ed25519's.
    """

    protected: bytes
    headers: Mapping[object, object]
    payload: bytes
    signature: bytes

    def verify(self, key: PublicKey, *, what: str) -> None:
        """Check that `key` signed this.

        Raises:
            Untrusted: it did not.
        """
        if self.headers[ALGORITHM] != keys.curve_of(key).algorithm:
            raise Untrusted(Reason.BAD_SIGNATURE, f"{what}: its algorithm does not go with its issuer's key")
        keys.verify(key, signature=self.signature, message=_to_be_signed(self.protected, self.payload), what=what)


def parse(data: bytes, *, field: str, limit: int) -> Sign1:
    """Read an untagged COSE_Sign1.

    Raises:
        Malformed: it is not one, or has headers that must be understood.
    """
    match cbor.decode(data, field=field, limit=limit):
        case [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature]:
            pass
        case other:
            raise Malformed(field=field, value=other, expected="a COSE_Sign1")
    signed = _ALGORITHM_ALONE.get(protected) or cbor.decode(protected, field=f"{field}.protected", limit=limit)
    if not isinstance(signed, Mapping) or type(signed.get(ALGORITHM)) is not int:
        raise Malformed(field=f"{field}.protected", value=signed, expected="a map with the algorithm")
    if CRITICAL in signed or not signed.keys().isdisjoint(unprotected):
        raise Malformed(field=field, value=unprotected, expected="each header once, and none that is critical")
    return Sign1(protected=protected, headers={**unprotected, **signed}, payload=payload, signature=signature)


def sign1(key: PrivateKey, payload: bytes, *, protected: Mapping[int, object] | None = None) -> bytes:
    """An untagged COSE_Sign1 over `payload`, its algorithm that of the key.

    Args:
        key: of the signer.
        payload: what is signed.
        protected: more headers, in the order in which they are to stand.
    """
    header = cbor.encode({ALGORITHM: keys.curve_of(key).algorithm, **(protected or {})})
    return cbor.encode([header, {}, payload, keys.sign(key, _to_be_signed(header, payload))])


def encode_key(key: PublicKey, *, for_certificate: bool = False) -> dict[int, object]:
    """The COSE_Key of a public key.

    Args:
        key: a public key.
        for_certificate: with algorithm and the permission to verify, as DICE certificates have it.
    """
    curve, data = keys.curve_of(key), keys.raw(key)
    about: dict[int, object] = {3: curve.algorithm, 4: [VERIFY]} if for_certificate else {}
    if curve is Curve.ED25519:
        return {1: KTY_OKP, **about, -1: curve.cose_curve, -2: data}
    return {1: KTY_EC2, **about, -1: curve.cose_curve, -2: data[: curve.size], -3: data[curve.size :]}


def read_key(data: bytes, *, field: str) -> tuple[Curve, bytes]:
    """The curve of an encoded public COSE_Key and its bytes, as `keys.from_raw` takes them.

    All but always it is encoded as `encode_key` does it for certificates, and then this is a comparison.

    Raises:
        Malformed: not one spelling of a map, or as `decode_key`.
    """
    curve, head, between = _USUAL_KEYS.get(len(data), _NO_KEY)
    x, y = len(head), len(head) + curve.size
    if data[:x] == head and data[y : y + len(between)] == between:
        return curve, data[x:y] + data[y + len(between) :]
    return _key_of(cbor.decode(data, field=field, limit=MAX_KEY), field=field)


def decode_key(value: object, *, field: str) -> PublicKey:
    """Read a public COSE_Key.

    Raises:
        Malformed: not a key of our curves, a private key, a compressed point, or one that is not for verifying.
    """
    return keys.from_raw(*_key_of(value, field=field))


def _key_of(value: object, *, field: str) -> tuple[Curve, bytes]:
    said = _KEY.check(value, field=field)
    curve = _BY_COSE_CURVE.get(said[-1])
    if curve is None or said[1] != (KTY_OKP if curve is Curve.ED25519 else KTY_EC2):
        raise Malformed(field=f"{field}.crv", value=said[-1], expected="P-256, P-384 or Ed25519")
    if said.get(3, curve.algorithm) != curve.algorithm or said.get(4, [VERIFY]) != [VERIFY]:
        raise Malformed(field=field, value=said, expected="a key for verifying by its curve's algorithm")
    x, y = said[-2], said.get(-3, b"")
    if (curve is Curve.ED25519) is (-3 in said):
        raise Malformed(field=f"{field}.y", value=y, expected="the second half of a point, where a key is one")
    if len(x) != curve.size:
        raise Malformed(field=f"{field}.x", value=x, expected=f"{curve.size} bytes")
    return curve, x + y


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    return cbor.encode(["Signature1", protected, b"", payload])
