"""Signatures of an index, in the form that cosign gives them with a key: `cosign verify --key` takes ours, and we its.

What is signed is a small JSON document that names the digest ("simple signing", containers/image's
containers-signature(5)); a signature manifest has it as a layer, and the signature beside it as an annotation.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crds.errors import InvalidField, Terminal
from flash_controller.domain.manifests import Descriptor, describe
from flash_controller.reasons import FirmwareReason

PAYLOAD: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
ARTIFACT: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
ANNOTATION: Final = "dev.cosignproject.cosign/signature"
MAX_PAYLOAD: Final = 64 * 1024
_TYPE: Final = "cosign container image signature"


@dataclass(frozen=True, slots=True)
class Signature:
    """A payload and what was signed of it.

    Attributes:
        payload: as it was signed, byte for byte.
        value: ECDSA on P-256 with SHA-256, in DER.
    """

    payload: bytes
    value: bytes

    @classmethod
    def make(cls, *, repository: str, digest: str, key: ec.EllipticCurvePrivateKey) -> Self:
        """Signs the digest of an index, the same for the same key (RFC 6979)."""
        image = {"docker-manifest-digest": digest}
        critical = {"identity": {"docker-reference": repository}, "image": image, "type": _TYPE}
        payload = orjson.dumps({"critical": critical, "optional": None})
        return cls(payload, key.sign(payload, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))

    def layer(self) -> Descriptor:
        """As a signature manifest has it."""
        plain = describe(self.payload, PAYLOAD)
        return plain.model_copy(update={"annotations": {ANNOTATION: base64.b64encode(self.value).decode()}})

    def names(self, digest: str) -> bool:
        """Whether it is about a digest."""
        try:
            critical = orjson.loads(self.payload)["critical"]
            return bool(critical["type"] == _TYPE and critical["image"]["docker-manifest-digest"] == digest)
        except (ValueError, KeyError, TypeError):
            return False

    def is_by(self, key: ec.EllipticCurvePublicKey) -> bool:
        """Whether a key made it."""
        try:
            key.verify(self.value, self.payload, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def signature_of(layer: Descriptor) -> bytes | None:
    """The signature beside a payload; None where a layer is something else."""
    try:
        value = base64.b64decode((layer.annotations or {})[ANNOTATION], validate=True)
    except (KeyError, binascii.Error):
        return None
    return value if layer.media_type == PAYLOAD else None


def verified_by(digest: str, signatures: Iterable[Signature], keys: Mapping[str, str]) -> str | None:
    """The name of the first key that signed a digest; None where nobody signed it.

    Args:
        digest: of the index.
        signatures: all that were found.
        keys: public keys in PEM by name.

    Raises:
        InvalidField: a key is none.
        Terminal: it is signed, and by none of the keys.
    """
    known = {name: public_key(pem, field=f"keys[{name}]") for name, pem in keys.items()}
    found = tuple(signature for signature in signatures if signature.names(digest))
    for name, key in known.items():
        if any(signature.is_by(key) for signature in found):
            return name
    if found:
        raise Terminal(f"{digest} is signed, and by no key of the policy", reason=FirmwareReason.NOT_TRUSTED)
    return None


def public_key(pem: str, *, field: str) -> ec.EllipticCurvePublicKey:
    """Reads a public key.

    Raises:
        InvalidField: it is not one of ECDSA on P-256 in PEM.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidField(field=field, value=pem, expected=f"a public key in PEM ({error})") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidField(field=field, value=pem, expected="a key of ECDSA on P-256")
    return key


def private_key(pem: bytes, *, field: str, password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Reads a private key in PKCS #8, as `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` writes it.

    Raises:
        InvalidField: it is none, or its password is another one. The key is not in the message.
    """
    expected = "a private key of ECDSA on P-256 in PEM, and its password where it has one"
    try:
        key = serialization.load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidField(field=field, value="(not shown)", expected=f"{expected} ({error})") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidField(field=field, value="(not shown)", expected=expected)
    return key
