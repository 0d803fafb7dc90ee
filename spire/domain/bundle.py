"""SPIFFE bundles: the roots of one trust domain, as its bundle endpoint tells them (SPIFFE Trust Domain and Bundle, 4).

The document is JSON: a JWK Set with two members of its own. We read X.509 roots alone. Everything about it comes from
another cluster, so it is bounded here, and what is not understood is either allowed to be there by the specification
(unknown members, keys of other uses) or refused.
"""

from __future__ import annotations

from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain

MAX_DOCUMENT: Final = 1 << 20
MAX_ROOTS: Final = 16
MAX_ROOTS_BYTES: Final = 24 * 1024
MAX_KEYS: Final = 256
MAX_SEQUENCE: Final = 2**63 - 1

_USE = "x509-svid"
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The roots of a trust domain at one time.

    Attributes:
        trust_domain: whose.
        roots: certificates in DER, 1 to `MAX_ROOTS`.
        sequence: grows with every change; None where the publisher does not count.
        refresh_hint: how often the publisher wants to be asked.
    """

    trust_domain: TrustDomain
    roots: tuple[bytes, ...]
    sequence: int | None = None
    refresh_hint: timedelta | None = None

    def __post_init__(self) -> None:
        size = sum(map(len, self.roots))
        if not 1 <= len(self.roots) <= MAX_ROOTS or size > MAX_ROOTS_BYTES:
            raise Malformed(
                field="bundle.keys",
                value=f"{len(self.roots)} X.509 roots, {size} bytes",
                expected=f"1 to {MAX_ROOTS} of at most {MAX_ROOTS_BYTES} bytes together",
            )
        for number, root in enumerate(self.roots):
            _check_root(root, trust_domain=self.trust_domain, field=f"bundle.keys[{number}]")


def parse(data: bytes, *, trust_domain: TrustDomain) -> Bundle:
    """Read a bundle document.

    Args:
        data: JSON, at most `MAX_DOCUMENT` bytes.
        trust_domain: whose it is: the document itself does not say, where it was found does.

    Raises:
        Malformed: it is none, has no X.509 root, or a root that names another trust domain.
    """
    if len(data) > MAX_DOCUMENT:
        raise Malformed(field="bundle", value=f"{len(data)} bytes", expected=f"at most {MAX_DOCUMENT} bytes")
    try:
        document: Any = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Malformed(field="bundle", value=data[:40], expected=f"JSON ({error})") from error
    if not isinstance(document, dict):
        raise Malformed(field="bundle", value=document, expected="an object")
    keys = document.get("keys")
    if not isinstance(keys, list) or len(keys) > MAX_KEYS:
        raise Malformed(field="bundle.keys", value=keys, expected=f"a list of at most {MAX_KEYS} keys")
    roots = [_root_of(key, field=f"bundle.keys[{number}]") for number, key in enumerate(keys) if _is_x509(key, number)]
    hint = _number(document, "spiffe_refresh_hint", limit=366 * 86400)
    return Bundle(
        trust_domain=trust_domain,
        roots=tuple(dict.fromkeys(roots)),
        sequence=_number(document, "spiffe_sequence", limit=MAX_SEQUENCE),
        refresh_hint=None if hint is None else timedelta(seconds=hint),
    )


def parse_pem(data: bytes, *, trust_domain: TrustDomain) -> Bundle:
    """Roots as certificates in PEM: how a first bundle is handed over by people.

    Raises:
        Malformed: no certificates, or they are no roots of that trust domain.
    """
    return Bundle(trust_domain=trust_domain, roots=roots_of_pem(data))


def roots_of_pem(data: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM file in DER, each once.

    Raises:
        Malformed: there are none, or one cannot be read.
    """
    if len(data) > MAX_DOCUMENT:
        raise Malformed(field="bundle", value=f"{len(data)} bytes", expected=f"at most {MAX_DOCUMENT} bytes")
    try:
        certificates = x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise Malformed(field="bundle", value=data[:40], expected="certificates in PEM") from error
    return tuple(dict.fromkeys(each.public_bytes(Encoding.DER) for each in certificates))


def to_pem(roots: Sequence[bytes]) -> str:
    """Certificates in PEM."""
    return "".join(x509.load_der_x509_certificate(root).public_bytes(Encoding.PEM).decode() for root in roots)


def to_json(bundle: Bundle) -> bytes:
    """The document of a bundle endpoint.

    Raises:
        Malformed: a root has a key of a kind that JWK has no name for.
    """
    document: dict[str, object] = {"keys": [_jwk(root) for root in bundle.roots]}
    if bundle.sequence is not None:
        document["spiffe_sequence"] = bundle.sequence
    if bundle.refresh_hint is not None:
        document["spiffe_refresh_hint"] = int(bundle.refresh_hint.total_seconds())
    return orjson.dumps(document)


def newer(offered: Bundle, *, known: Bundle) -> Bundle:
    """The bundle to go on with, when `offered` comes while `known` is held.

    Raises:
        Untrusted: it is an older one, which may hold a root that was withdrawn since.
    """
    if offered.trust_domain != known.trust_domain:
        raise ValueError(f"a bundle of {offered.trust_domain} for {known.trust_domain}")
    if known.sequence is not None and (offered.sequence is None or offered.sequence < known.sequence):
        message = f"{offered.trust_domain} offers sequence {offered.sequence}, {known.sequence} is known"
        raise Untrusted(Reason.BUNDLE_OLDER, message)
    return offered


def _is_x509(key: object, number: int) -> bool:
    """Whether a key is for X.509-SVIDs; those without a use, or with one that is not known, are to be ignored."""
    if not isinstance(key, dict):
        raise Malformed(field=f"bundle.keys[{number}]", value=key, expected="an object")
    return key.get("use") == _USE


def _root_of(key: dict[str, Any], *, field: str) -> bytes:
    encoded = key.get("x5c")
    if not isinstance(encoded, list) or len(encoded) != 1 or not isinstance(encoded[0], str):
        raise Malformed(field=f"{field}.x5c", value=encoded, expected="one certificate in base64")
    try:
        der = b64decode(encoded[0], validate=True)
        jwk = _jwk(der)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise Malformed(field=f"{field}.x5c", value=encoded[0], expected="one certificate in base64") from error
    for name in jwk.keys() & {"kty", "crv", "x", "y", "n", "e"}:
        if key.get(name) != jwk[name]:
            raise Malformed(field=f"{field}.{name}", value=key.get(name), expected=f"{jwk[name]!r}, as its x5c has it")
    return der


def _check_root(root: bytes, *, trust_domain: TrustDomain, field: str) -> None:
    try:
        extensions = x509.load_der_x509_certificate(root).extensions
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Malformed(field=field, value=root, expected="an X.509 certificate in DER") from error
    ca, names = False, list[str]()
    for extension in extensions:
        match extension.value:
            case x509.BasicConstraints() as constraints:
                ca = constraints.ca
            case x509.SubjectAlternativeName() as alternative:
                names = alternative.get_values_for_type(x509.UniformResourceIdentifier)
            case _:
                pass
    if not ca:
        raise Malformed(field=field, value="not a CA", expected="a CA certificate")
    # Roots that stand above SPIFFE have no name of it; those that have one must have ours.
    if names and names != [str(SpiffeId(trust_domain, ""))]:
        raise Malformed(field=field, value=names, expected=f"spiffe://{trust_domain}")


def _number(document: dict[str, Any], name: str, *, limit: int) -> int | None:
    value = document.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= limit):
        raise Malformed(field=f"bundle.{name}", value=value, expected=f"an integer from 0 to {limit}")
    return value


def _jwk(root: bytes) -> dict[str, object]:
    key = x509.load_der_x509_certificate(root).public_key()
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            size, numbers = (key.key_size + 7) // 8, key.public_numbers()
            point = {"x": _base64url(numbers.x, size), "y": _base64url(numbers.y, size)}
            said: dict[str, object] = {"kty": "EC", "crv": _CURVES[key.curve.name], **point}
        case rsa.RSAPublicKey():
            public = key.public_numbers()
            said = {"kty": "RSA", "n": _base64url(public.n), "e": _base64url(public.e)}
        case ed25519.Ed25519PublicKey():
            encoded = urlsafe_b64encode(key.public_bytes_raw()).rstrip(b"=").decode()
            said = {"kty": "OKP", "crv": "Ed25519", "x": encoded}
        case _:
            raise Malformed(field="bundle.keys", value=type(key).__name__, expected="a NIST curve, Ed25519 or RSA")
    return {"use": _USE, **said, "x5c": [b64encode(root).decode()]}


def _base64url(number: int, size: int | None = None) -> str:
    encoded = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return urlsafe_b64encode(encoded).rstrip(b"=").decode()
