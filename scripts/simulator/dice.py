"""A leaf device's side of DICE: hardware with a secret, software that is measured before it starts, evidence of both.

A real engine: it derives the secrets, keys and certificates of each layer as the Open Profile for DICE says, from
whatever image it is given. So an image that was tampered with has another measurement in its certificate, and can lie
in its evidence only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from spire.domain import dice_cbor, dice_x509, eat
from spire.domain.certificates import OpenDiceInput
from spire.domain.dice import Component, Inputs, Mode, Secrets, kdf, private_key
from spire.domain.eat import Claims, DebugState
from spire.domain.keys import Curve, PrivateKey
from spire.domain.spiffe_id import TrustDomain, device_spiffe_id
from spire.domain.ueid import Ueid

FORMS: Final[dict[str, ModuleType]] = {"cbor": dice_cbor, "x509": dice_x509}
"""How certificates are written. Radios feel the third that CBOR saves."""
BOOT_LOADER: Final = b"The boot loader of simulated boards, version 1. It measures what it starts.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Code, and what its signed header says of it.

    Attributes:
        code: all its bytes, which are what is measured.
        application: its name; None for code that starts other code.
        version: for people.
        counter: for machines.
        digest: what the layer below measures it as, where that is not its SHA-512.
        claim: what it says in its evidence that it was measured as; the truth where None.
    """

    code: bytes = field(repr=False)
    application: str | None = None
    version: str | None = None
    counter: int | None = None
    digest: bytes | None = None
    claim: bytes | None = None

    @property
    def measurement(self) -> bytes:
        """What the layer below measures it as."""
        return self.digest or hashlib.sha512(self.code).digest()

    def inputs(self, mode: Mode = Mode.NORMAL) -> Inputs:
        """What goes into the secrets and the certificate of the layer that it becomes."""
        if self.application is None:
            return Inputs(code_hash=self.measurement, mode=mode)
        header = Component(name=self.application, version=self.version, security_counter=self.counter)
        return Inputs(code_hash=self.measurement, configuration_descriptor=header.descriptor(), mode=mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Hardware, as it leaves its factory.

    Attributes:
        uds: the unique device secret, 32 bytes.
        certificate: the manufacturer's, for the key of the secret.
        form: of the certificates, one of `FORMS`.
        curve: of the keys of all layers.
        certified_ueid: what the manufacturer called it; derived from the key of the secret where that is None.
    """

    uds: bytes = field(repr=False)
    certificate: bytes
    form: str = "cbor"
    curve: Curve = Curve.P256
    certified_ueid: Ueid | None = None

    @property
    def ueid(self) -> Ueid:
        """Its name."""
        return self.certified_ueid or Ueid.of_uds(Secrets.of_hardware(self.uds).key(self.curve).public_key())

    def boot(self, *layers: Inputs, own: PrivateKey | None = None) -> Device:
        """Start software, each layer measured by the one below.

        Args:
            layers: from the boot loader to the application.
            own: the key that the application wants certified; drawn anew by default.
        """
        form = FORMS[self.form]
        secrets = Secrets.of_hardware(self.uds)
        key = secrets.key(self.curve)
        chain = [self.certificate]
        for inputs in layers:
            secrets, authority = secrets.next(inputs), key
            key = secrets.key(self.curve)
            said = OpenDiceInput.of(inputs)
            chain.append(form.cdi_certificate(authority=authority, subject=key.public_key(), said=said))
        # Keys of layers sign certificates only: evidence has a key of its own, which the application's layer certifies.
        attestation = private_key(kdf(32, secrets.attest, salt=b"", info=b"Attestation"), self.curve)
        chain.append(form.attestation_certificate(authority=key, subject=attestation.public_key()))
        own = own or ec.generate_private_key(ec.SECP256R1())
        firmware = OpenDiceInput.of(layers[-1]).layer()
        claims = Claims(
            nonce=bytes(32),
            ueid=self.ueid,
            key=own.public_key(),
            debug=DebugState.ENABLED if firmware.mode is Mode.DEBUG else DebugState.DISABLED,
            software_name=firmware.component.name or "nameless",
            software_version=firmware.component.version,
            measurement=firmware.measurement,
        )
        return Device(tuple(reversed(chain)), attestation, key, own, claims)


@dataclass(frozen=True, slots=True)
class Device:
    """A device after its boot: what it can show and what it can sign with.

    Attributes:
        chain: the attestation key's certificate first.
        attestation: the attestation key.
        layer_key: the key of the application's layer, which the application holds.
        own: the key that it wants certified.
        claims: what it says when it is honest, but for the nonce.
    """

    chain: tuple[bytes, ...]
    attestation: PrivateKey
    layer_key: PrivateKey
    own: PrivateKey
    claims: Claims

    def evidence(self, **changes: Any) -> bytes:
        """The EAT with its chain; `changes` name members of the claims: the nonce, and lies."""
        return eat.encode(replace(self.claims, **changes), key=self.attestation, chain=self.chain)

    def csr(self, name: x509.Name | None = None, *, trust_domain: TrustDomain | None = None) -> bytes:
        """A request (PKCS#10, DER) for a certificate of its own key; an issuer ignores the name.

        Args:
            name: subject.
            trust_domain: where it attests. A SPIRE server certifies no ID but the one that the request asks for.
        """
        algorithm = hashes.SHA256() if isinstance(self.own, ec.EllipticCurvePrivateKey) else None
        request = x509.CertificateSigningRequestBuilder().subject_name(name or x509.Name([]))
        if trust_domain is not None:
            wanted = device_spiffe_id(trust_domain, ueid=self.claims.ueid, application=self.claims.software_name)
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(wanted))])
            request = request.add_extension(names, critical=name is None)
        return request.sign(self.own, algorithm).public_bytes(Encoding.DER)
