"""A manufacturer and its devices: real keys, real certificates, in either form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import ModuleType

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from spire.domain import dice_cbor, dice_x509, eat
from spire.domain.certificates import OpenDiceInput
from spire.domain.chain import Manufacturer
from spire.domain.dice import Component, Inputs, Mode, Secrets, private_key
from spire.domain.eat import Claims, DebugState
from spire.domain.keys import Curve, PrivateKey
from spire.domain.policy import AllOf, ApplicationIn, CounterAtLeast, ManufacturedBy, MeasuredAs, ModeIn
from spire.domain.ueid import Ueid

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PEER = "connection-1"


def digest(text: str) -> bytes:
    return hashlib.sha512(text.encode()).digest()


BOOT, GOOD, TAMPERED = digest("boot loader"), digest("thermometer 1.2"), digest("thermometer 1.2, and a back door")


def seeded(text: str, curve: Curve = Curve.P256) -> PrivateKey:
    return private_key(digest(text)[:32], curve)


@dataclass(frozen=True, slots=True)
class Factory:
    """A manufacturer: its root key and certificate."""

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def anchor(self, *, names_devices: bool = False) -> Manufacturer:
        der = self.certificate.public_bytes(Encoding.DER)
        return Manufacturer.of_certificate(self.name, der, names_devices=names_devices)


def factory(name: str = "acme", seed: str = "acme's root") -> Factory:
    key = seeded(seed)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, "root")]
    )
    usage = dice_x509._usage(certifies=True, attests=False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .serial_number(1)
        .public_key(key.public_key())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2050, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return Factory(name, key, certificate)


ACME = factory()


@dataclass(frozen=True, slots=True)
class Device:
    """A device after its boot: what it can show and what it can sign with.

    Attributes:
        chain: the attestation key's certificate first.
        attestation: the attestation key.
        layer_key: the key of the application's layer, which the application holds.
        own: the key that it wants certified.
        claims: what it says when it is honest.
    """

    chain: tuple[bytes, ...]
    attestation: PrivateKey
    layer_key: PrivateKey
    own: PrivateKey
    claims: Claims

    def evidence(self, **changes: object) -> bytes:
        claims = replace(self.claims, **changes)  # type: ignore[arg-type]  # names of fields come from the tests
        return eat.encode(claims, key=self.attestation, chain=self.chain)


def boot_inputs(**changes: object) -> Inputs:
    return replace(Inputs(code_hash=BOOT, mode=Mode.NORMAL), **changes)  # type: ignore[arg-type]  # as above


def firmware_inputs(
    measurement: bytes = GOOD, *, name: str | None = "thermo", counter: int | None = 7, mode: Mode = Mode.NORMAL
) -> Inputs:
    component = Component(name=name, version="1.2", security_counter=counter)
    return Inputs(code_hash=measurement, configuration_descriptor=component.descriptor(), mode=mode)


def device(
    seed: str = "device 1",
    *,
    layers: tuple[Inputs, ...] | None = None,
    maker: Factory = ACME,
    form: ModuleType = dice_x509,
    curve: Curve = Curve.P256,
    ueid: Ueid | None = None,
) -> Device:
    """Boot a device whose layers are as given (default: the boot loader and the good firmware)."""
    layers = layers or (boot_inputs(), firmware_inputs())
    secrets = Secrets.of_hardware(digest(seed)[:32])
    key = secrets.key(curve)
    issuer = maker.certificate if form is dice_x509 else maker.certificate.subject.rfc4514_string()
    chain = [form.uds_certificate(manufacturer=maker.key, issuer=issuer, subject=key.public_key(), ueid=ueid)]
    named = ueid or Ueid.of_uds(key.public_key())
    for inputs in layers:
        secrets, authority = secrets.next(inputs), key
        key = secrets.key(curve)
        chain.append(form.cdi_certificate(authority=authority, subject=key.public_key(), said=OpenDiceInput.of(inputs)))
    attestation = seeded(f"{seed}, attestation {layers[-1].code_hash.hex()}", curve)
    chain.append(form.attestation_certificate(authority=key, subject=attestation.public_key()))
    own = seeded(f"{seed}, TLS")
    said = OpenDiceInput.of(layers[-1]).layer()
    claims = Claims(
        nonce=NONCE,
        ueid=named,
        key=own.public_key(),
        debug=DebugState.ENABLED if said.mode is Mode.DEBUG else DebugState.DISABLED,
        software_name=said.component.name or "nameless",
        software_version=said.component.version,
        measurement=said.measurement,
    )
    return Device(tuple(reversed(chain)), attestation, key, own, claims)


POLICY = AllOf(
    (
        ManufacturedBy({"acme"}),
        MeasuredAs(boot={BOOT}, firmware={GOOD}),
        ModeIn(),
        CounterAtLeast(5),
        ApplicationIn({"thermo"}),
    )
)
FORMS = (dice_x509, dice_cbor)
