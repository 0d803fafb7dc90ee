"""What a certificate in a DICE chain says, whether it is X.509 or CBOR: the profile allows both in one chain."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, Protocol

from spire.domain.dice import Component, Inputs, Mode
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.keys import PublicKey
from spire.domain.ueid import Ueid

MAX_CERTIFICATE = 4096
MAX_NAME = 128

_HASHES = {
    32: (hashlib.sha256, hashlib.sha3_256),
    48: (hashlib.sha384, hashlib.sha3_384),
    64: (hashlib.sha512, hashlib.sha3_512),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDiceInput:
    """The measured inputs as the profile's certificates spell them (X.509 extension and CBOR claims alike).

    Attributes:
        code_hash: 32, 48 or 64 bytes.
        code_descriptor: more about the code.
        configuration_hash: of the descriptor; None where the descriptor is the inline configuration itself.
        configuration_descriptor: the configuration.
        authority_hash: 32, 48 or 64 bytes.
        authority_descriptor: more about who signed the code.
        mode: how secure the configuration is.
        profile_name: which profile the certificate follows.
    """

    code_hash: bytes
    code_descriptor: bytes | None = None
    configuration_hash: bytes | None = None
    configuration_descriptor: bytes | None = None
    authority_hash: bytes | None = None
    authority_descriptor: bytes | None = None
    mode: Mode
    profile_name: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("codeHash", self.code_hash), ("authorityHash", self.authority_hash)):
            if value is not None and len(value) not in _HASHES:
                raise Malformed(field=name, value=value, expected="32, 48 or 64 bytes")
        if self.configuration_hash is not None and not self._configuration_matches():
            raise Malformed(
                field="configurationHash", value=self.configuration_hash, expected="the hash of its descriptor"
            )

    @classmethod
    def of(cls, inputs: Inputs, *, profile_name: str | None = None) -> OpenDiceInput:
        """What a certificate says of `inputs`: everything but what is hidden."""
        described = inputs.configuration_descriptor is not None
        return cls(
            code_hash=inputs.code_hash,
            code_descriptor=inputs.code_descriptor,
            configuration_hash=inputs.configuration if described else None,
            configuration_descriptor=inputs.configuration_descriptor or inputs.configuration,
            authority_hash=inputs.authority_hash,
            authority_descriptor=inputs.authority_descriptor,
            mode=inputs.mode,
            profile_name=profile_name,
        )

    def layer(self) -> Layer:
        """What appraisal needs of it."""
        # 64 bytes without a hash are flags, except in Android's profile, which leaves the hash out.
        inline = self.configuration_hash is None and not (self.profile_name or "").startswith("android.")
        descriptor = None if inline else self.configuration_descriptor
        component = Component() if descriptor is None else Component.of_descriptor(descriptor)
        return Layer(measurement=self.code_hash, mode=self.mode, component=component)

    def _configuration_matches(self) -> bool:
        hashes = _HASHES.get(len(self.configuration_hash or b""), ())
        return any(self.configuration_hash == h(self.configuration_descriptor or b"").digest() for h in hashes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of software, as the layer below certified it.

    Attributes:
        measurement: hash of its code.
        mode: how secure the configuration was in which it started.
        component: what it is called, and its counter.
    """

    measurement: bytes
    mode: Mode
    component: Component


@lru_cache(maxsize=1024)
def layer_of(
    code_hash: bytes,
    code_descriptor: bytes | None,
    configuration_hash: bytes | None,
    configuration_descriptor: bytes | None,
    authority_hash: bytes | None,
    authority_descriptor: bytes | None,
    mode: int,
    profile_name: str | None,
) -> Layer:
    """The layer that members of an `OpenDiceInput` describe; remembered, as devices that run the same say the same.

    Raises:
        Malformed: they contradict each other, or one has a wrong length.
    """
    return OpenDiceInput(
        code_hash=code_hash,
        code_descriptor=code_descriptor,
        configuration_hash=configuration_hash,
        configuration_descriptor=configuration_descriptor,
        authority_hash=authority_hash,
        authority_descriptor=authority_descriptor,
        mode=Mode(mode),
        profile_name=profile_name,
    ).layer()


class Signed(Protocol):
    """What a signature covers, in the form of its format."""

    def verify(self, key: PublicKey, *, what: str) -> None:
        """Check that `key` signed it.

        Raises:
            Untrusted: it did not.
        """


class Certificate(NamedTuple):
    """What a certificate says. Nothing of it is believed before its issuer's key verified it.

    A named tuple, because a frozen dataclass of that many members takes three times as long to make.

    Attributes:
        issuer: name of who signed it: a DICE identifier in hex, or another name as RFC 4514 writes it.
        subject: name of whose key it is.
        public_key: the key.
        raw_key: the same as bytes, in the form of `keys.raw`.
        authority_key_id: identifier of the issuer's key, where it is said.
        subject_key_id: identifier of the key, where it is said.
        may_certify: the key may sign certificates.
        may_attest: the key may sign other things.
        path_length: how many certifying keys may follow below.
        not_before: start of validity, where it is said.
        not_after: end of validity, where it is said.
        layer: the software that holds the key; None for keys of hardware and for attestation keys.
        ueid: the device's name, where the certificate gives it one.
        signed: what binds all of this.
    """

    issuer: str
    subject: str
    public_key: PublicKey
    raw_key: bytes
    authority_key_id: bytes | None
    subject_key_id: bytes | None
    may_certify: bool
    may_attest: bool
    path_length: int | None
    not_before: datetime | None
    not_after: datetime | None
    layer: Layer | None
    ueid: Ueid | None
    signed: Signed

    def verify(self, *, issuer_key: PublicKey, now: datetime, what: str) -> None:
        """Check the signature and that the certificate is valid now.

        Raises:
            Untrusted: one of them fails.
        """
        if (self.not_before and now < self.not_before) or (self.not_after and now > self.not_after):
            raise Untrusted(Reason.NOT_VALID_NOW, f"{what}: valid from {self.not_before} to {self.not_after}, not now")
        self.signed.verify(issuer_key, what=what)
