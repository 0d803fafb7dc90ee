"""A contract signed by its seller: a JWS (RFC 7515) with detached content, by the key of the seller's X.509-SVID.

What is signed is the contract as it travels, without `signature` and without the flavor's `timestamp`, in canonical
form (RFC 8785). The header is `alg`, `iat` (seconds since 1970) and `x5c` (the SVID's chain); the text between the
dots, which a compact serialisation has for the content, is empty.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from cryptography.hazmat.primitives.serialization import load_der_private_key

from crds.errors import InvalidField, Terminal
from edge_resource_manager.domain.canonical import canonical
from spire.domain import keys
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.keys import Curve
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.svid import MAX_CHAIN, parse_chain, verify_svid
from spire.identity import Svid

_ALGORITHMS = {Curve.P256: "ES256", Curve.P384: "ES384", Curve.ED25519: "EdDSA"}


def sign(contract: Mapping[str, Any], *, svid: Svid, now: datetime) -> str:
    """The signature of a contract in wire form.

    Raises:
        Terminal: the SVID's key is of a kind that contracts are not signed with.
    """
    key = load_der_private_key(svid.key, password=None)
    try:
        algorithm = _ALGORITHMS[keys.curve_of(key)]
    except Malformed as error:
        raise Terminal(f"contracts are signed with an EC or Ed25519 key: {error}", reason="NoSigningKey") from error
    header = {
        "alg": algorithm,
        "iat": int(now.timestamp()),
        "x5c": [b64encode(certificate).decode() for certificate in svid.chain],
    }
    head = _encode(orjson.dumps(header))
    return f"{head}..{_encode(keys.sign(key, _input(head, contract)))}"  # type: ignore[arg-type]  # curve_of knows it


def is_by(signature: str, svid: Svid) -> bool:
    """Whether a signature, as `sign` made it, is of this very SVID and not of one before it."""
    try:
        return _header(signature.partition(".")[0])[1] == list(svid.chain)
    except Untrusted:
        return False


def verify(
    signature: str, contract: Mapping[str, Any], *, bundles: Mapping[TrustDomain, Sequence[bytes]], now: datetime
) -> SpiffeId:
    """Who signed a contract.

    Args:
        signature: as `sign` makes it.
        contract: the JSON object that was sent; its `signature` does not count.
        bundles: roots in DER by trust domain.
        now: the chain must be valid.

    Raises:
        Untrusted: it is no signature of this contract by an SVID that is trusted.
    """
    head, _, rest = signature.partition(".")
    between, _, mark = rest.partition(".")
    algorithm, chain = _header(head)
    signer = verify_svid(chain, bundles=bundles, now=now)
    try:
        key = keys.supported(parse_chain(chain)[0].public_key())
        expected = _ALGORITHMS[keys.curve_of(key)]
        message, raw = _input(head, contract), _decode(mark)
    except InvalidField as error:
        raise Untrusted(Reason.BAD_SIGNATURE, f"the contract's signature: {error}") from error
    if between or algorithm != expected:
        told = f"{algorithm!r:.40}, expected {expected} over detached content"
        raise Untrusted(Reason.BAD_SIGNATURE, f"the contract's signature is {told}")
    keys.verify(key, signature=raw, message=message, what="contract")
    return signer


def _input(head: str, contract: Mapping[str, Any]) -> bytes:
    """JWS' signing input. When the device was last heard of is news, not agreement, and changes by itself."""
    agreed = {name: value for name, value in contract.items() if name != "signature"}
    if isinstance(flavor := agreed.get("flavor"), dict):
        agreed["flavor"] = {name: value for name, value in flavor.items() if name != "timestamp"}
    return f"{head}.{_encode(canonical(agreed))}".encode()


def _header(head: str) -> tuple[object, list[bytes]]:
    """Algorithm and chain."""
    try:
        header = orjson.loads(_decode(head))
        chain = [b64decode(each, validate=True) for each in header["x5c"][: MAX_CHAIN + 1]]
        return header["alg"], chain
    except (InvalidField, ValueError, TypeError, LookupError) as error:
        raise Untrusted(Reason.BAD_SIGNATURE, "the contract's signature is no JWS with alg and x5c") from error


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error) as error:
        raise Malformed(field="signature", value=text, expected="base64url") from error
    if _encode(data) != text:
        raise Malformed(field="signature", value=text, expected="base64url without padding")
    return data
