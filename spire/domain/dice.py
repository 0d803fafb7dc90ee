"""Open Profile for DICE v2.6: from a device secret and what was measured to the secrets, keys and names of each layer.

A layer that changes by one bit gets other secrets, so it cannot sign as the layer that it replaced. Recommended choices
of the profile throughout: SHA-512, HKDF-SHA512, and RFC 6979's generator for keys of the NIST curves.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import IntEnum

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from spire.domain import cbor, keys
from spire.domain.errors import Malformed
from spire.domain.keys import Curve, PrivateKey, PublicKey

SECRET_SIZE = 32
ID_SIZE = 20
INLINE_SIZE = 64

_ASYM_SALT = bytes.fromhex(
    "63b6a04d2c077fc10f639f21da793844356cc2b0b441b3a77124035c03f8e1be"
    "6035d31f282821a7450a02222ab1b3cff1679b05ab1ca5d1affb789ccd2b0b3b"
)
_ID_SALT = bytes.fromhex(
    "dbdbaebc8020da9ff0dd5a24c83aa5a54286dfc263031e329b4da148430659fe"
    "62cdb5b7e1e00fc680306711eb444af77209359496fcff1db9520ba51c7b29ea"
)
_ORDER = {
    Curve.P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    Curve.P384: int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
    ),
}
_NAME, _VERSION, _SECURITY_VERSION = -70002, -70003, -70005
MAX_DESCRIPTOR = 1024


class Mode(IntEnum):
    """How secure the configuration was in which a layer started. Only NORMAL means that it was."""

    NOT_CONFIGURED = 0
    NORMAL = 1
    DEBUG = 2
    RECOVERY = 3

    @classmethod
    def _missing_(cls, value: object) -> Mode | None:
        # The profile's rule for values that it does not define.
        return cls.NOT_CONFIGURED if isinstance(value, int) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """What a layer is called by the layer below, which measured it.

    In configuration descriptors this is the CBOR map of the Android profile, the only published vocabulary for it.

    Attributes:
        name: of the component; for the last layer of a leaf device the application.
        version: for people.
        security_counter: for machines: never goes back.
    """

    name: str | None = None
    version: str | None = None
    security_counter: int | None = None

    def descriptor(self) -> bytes:
        """The configuration descriptor that says this."""
        said = {_NAME: self.name, _VERSION: self.version, _SECURITY_VERSION: self.security_counter}
        return cbor.encode({label: value for label, value in said.items() if value is not None})

    @classmethod
    def of_descriptor(cls, descriptor: bytes) -> Component:
        """What a descriptor says; nothing, where it is not written in this vocabulary (any bytes are legal there).

        Raises:
            Malformed: it is written in this vocabulary, and wrongly.
        """
        try:
            said = cbor.Fields.decode(descriptor, field="descriptor", limit=MAX_DESCRIPTOR)
        except Malformed:
            return cls()
        counter = said.optional(_SECURITY_VERSION, int, "securityVersion")
        if counter is not None and counter < 0:
            raise Malformed(field="descriptor.securityVersion", value=counter, expected="0 or more")
        return cls(
            name=said.optional(_NAME, str, "name"),
            version=said.optional(_VERSION, str, "version"),
            security_counter=counter,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What is measured of a layer before it starts.

    Attributes:
        code_hash: of the code; 64 bytes, or the length of the hash that the device has (Android profile).
        code_descriptor: more about the code.
        inline_configuration: 64 bytes as they are; counts where there is no descriptor.
        configuration_descriptor: configuration of any length, of which the hash counts.
        authority_hash: of the key that signed the code.
        authority_descriptor: more about that key.
        mode: how secure the configuration is.
        hidden: known to the device alone, in no certificate.
    """

    code_hash: bytes = bytes(64)
    code_descriptor: bytes | None = None
    inline_configuration: bytes = bytes(INLINE_SIZE)
    configuration_descriptor: bytes | None = None
    authority_hash: bytes = bytes(64)
    authority_descriptor: bytes | None = None
    mode: Mode = Mode.NOT_CONFIGURED
    hidden: bytes = bytes(64)

    @property
    def configuration(self) -> bytes:
        """The 64 bytes that go into the derivation."""
        if self.configuration_descriptor is None:
            return self.inline_configuration
        return hashlib.sha512(self.configuration_descriptor).digest()

    @property
    def lasting(self) -> bytes:
        """What stays the same when the code is updated by the same authority."""
        return self.authority_hash + bytes([self.mode]) + self.hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """The two secrets of a layer; of the hardware, twice the unique device secret (UDS).

    Attributes:
        attest: 32 bytes that change with everything measured.
        seal: 32 bytes that survive an update.
    """

    attest: bytes
    seal: bytes

    @classmethod
    def of_hardware(cls, uds: bytes) -> Secrets:
        """Where the layers start."""
        return cls(attest=uds, seal=uds)

    def next(self, inputs: Inputs) -> Secrets:
        """The secrets of the layer that was measured as `inputs`."""
        measured = inputs.code_hash + inputs.configuration + inputs.lasting
        return Secrets(
            attest=kdf(SECRET_SIZE, self.attest, salt=hashlib.sha512(measured).digest(), info=b"CDI_Attest"),
            seal=self._sealed(inputs, b"CDI_Seal"),
        )

    def versioned_seed(self, inputs: Inputs) -> bytes:
        """Seed of the versioned key derivation of the layer measured as `inputs` (appendix C of the profile)."""
        return self._sealed(inputs, b"VKDF_SEED")

    def key(self, curve: Curve) -> PrivateKey:
        """The key that certifies the next layer, or the attestation key, and signs nothing else."""
        return private_key(kdf(SECRET_SIZE, self.attest, salt=_ASYM_SALT, info=b"Key Pair"), curve)

    def _sealed(self, inputs: Inputs, info: bytes) -> bytes:
        return kdf(SECRET_SIZE, self.seal, salt=hashlib.sha512(inputs.lasting).digest(), info=info)


def kdf(length: int, secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA512 (RFC 5869), the profile's KDF, for at most the 64 bytes that one step makes."""
    if not 0 < length <= 64:
        raise ValueError(f"length: {length}, expected 1 to 64 bytes")
    extracted = hmac.digest(salt or bytes(64), secret, "sha512")
    return hmac.digest(extracted, info + b"\x01", "sha512")[:length]


def uds_from_entropy(*, internal: bytes, external: bytes) -> bytes:
    """The UDS of provisioning scheme 2: what the chip drew, mixed with what the factory injected."""
    return kdf(SECRET_SIZE, internal, salt=external, info=b"UDS")


def identifier(public_key: bytes) -> bytes:
    """20 bytes that name a public key in certificates; the top bit is clear, so that they are a positive integer.

    Args:
        public_key: as `keys.raw` gives it (devices of before 2025 hash the compressed point).
    """
    name = bytearray(kdf(ID_SIZE, public_key, salt=_ID_SALT, info=b"ID"))
    name[0] &= 0x7F
    return bytes(name)


def identifier_of(key: PublicKey) -> bytes:
    """`identifier` of a key."""
    return identifier(keys.raw(key))


def private_key(seed: bytes, curve: Curve) -> PrivateKey:
    """The private key of a 32-byte seed: itself on Ed25519, else drawn from RFC 6979's generator with SHA-512."""
    if curve is Curve.ED25519:
        return ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    drawn = _draw(seed, size=curve.size, below=_ORDER[curve])
    return ec.derive_private_key(drawn, ec.SECP256R1() if curve is Curve.P256 else ec.SECP384R1())


def _draw(seed: bytes, *, size: int, below: int) -> int:
    """RFC 6979 section 3.3: HMAC-DRBG, values that are no private key are drawn again and never reduced."""

    def mac(key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, "sha512")

    key, value = bytes(64), b"\x01" * 64
    for separator in (b"\x00", b"\x01"):
        key = mac(key, value + separator + seed)
        value = mac(key, value)
    while True:
        value = mac(key, value)  # 64 bytes: enough for each of our curves in one step
        if 0 < (drawn := int.from_bytes(value[:size], "big")) < below:
            return drawn
        key = mac(key, value + b"\x00")
        value = mac(key, value)
