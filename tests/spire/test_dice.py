"""Derivations and certificates against the numbers that open-dice publishes, byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spire.domain import dice, dice_cbor, dice_x509, keys
from spire.domain.certificates import OpenDiceInput
from spire.domain.chain import parse_certificate
from spire.domain.dice import Component, Inputs, Mode, Secrets
from spire.domain.errors import Malformed
from spire.domain.keys import Curve
from tests.spire.support import NOW

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "dice_vectors.json").read_text())


def fake(seed: str, size: int) -> bytes:
    """The inputs that open-dice's tests use: SHA-512 of a counter that starts at the hash of a word."""
    context, out = bytearray(hashlib.sha512(seed.encode()).digest()), b""
    while len(out) < size:
        out += hashlib.sha512(context).digest()
        context[:8] = (int.from_bytes(context[:8], "little") + 1).to_bytes(8, "little")
    return out[:size]


FAKE = Secrets(attest=fake("cdi_attest", 32), seal=fake("cdi_seal", 32))
CODE, AUTHORITY = fake("code_hash", 64), fake("authority_hash", 64)
CASES = {
    "ZeroInput": (Secrets(attest=bytes(32), seal=bytes(32)), Inputs()),
    "HashOnlyInput": (
        FAKE,
        Inputs(code_hash=CODE, authority_hash=AUTHORITY, inline_configuration=fake("inline_config", 64)),
    ),
    "DescriptorInput": (
        FAKE,
        Inputs(
            code_hash=CODE,
            authority_hash=AUTHORITY,
            code_descriptor=fake("code_desc", 100),
            configuration_descriptor=fake("config_desc", 40),
            authority_descriptor=fake("authority_desc", 65),
        ),
    ),
}
EXAMPLE, ANDROID = "opendice.example", "android.18"
CERTIFICATES = [
    (f"{form}{name}Cert_{android}{case}", module, curve, case, ANDROID if android else profile)
    for form, module in (("X509", dice_x509), ("Cbor", dice_cbor))
    for name, curve, profile in (
        ("Ed25519", Curve.ED25519, None),
        ("P256", Curve.P256, EXAMPLE),
        ("P384", Curve.P384, EXAMPLE),
    )
    for android in ("", "Android")
    for case in CASES
    if f"{form}{name}Cert_{android}{case}" in VECTORS
]


def test_every_published_certificate_of_our_curves_is_used() -> None:
    assert len(CERTIFICATES) == sum("Cert_" in name for name in VECTORS) == 23


@pytest.mark.parametrize("case", CASES)
def test_secrets_are_the_published_ones(case: str) -> None:
    secrets, inputs = CASES[case]
    derived = secrets.next(inputs)
    assert derived.attest.hex() == VECTORS[f"CdiAttest_{case}"]
    assert derived.seal.hex() == VECTORS[f"CdiSeal_{case}"]


@pytest.mark.parametrize(("vector", "form", "curve", "case", "profile"), CERTIFICATES)
def test_certificates_are_the_published_ones(
    vector: str, form: ModuleType, curve: Curve, case: str, profile: str | None
) -> None:
    secrets, inputs = CASES[case]
    published = bytes.fromhex(VECTORS[vector])
    authority, subject = secrets.key(curve), secrets.next(inputs).key(curve).public_key()
    said = OpenDiceInput.of(inputs, profile_name=profile)
    written = form.cdi_certificate(authority=authority, subject=subject, said=said)
    if form is dice_cbor and curve is not Curve.ED25519:
        # Their signer draws its nonce in another way than RFC 6979; all before the signature is the same.
        size = 2 * curve.size
        assert written[:-size] == published[:-size]
    else:
        assert written == published
    for certificate in (written, published):
        read = parse_certificate(certificate)
        read.verify(issuer_key=authority.public_key(), now=NOW, what=vector)
        assert keys.raw(read.public_key) == keys.raw(subject)
        assert read.issuer == dice.identifier_of(authority.public_key()).hex()
        assert read.subject == dice.identifier_of(subject).hex()
        assert read.may_certify
        assert not read.may_attest
        assert read.layer is not None
        assert (read.layer.measurement, read.layer.mode) == (inputs.code_hash, Mode.NOT_CONFIGURED)


@pytest.mark.parametrize(("name", "form"), [("X509", dice_x509), ("CBOR", dice_cbor)])
def test_seven_layers_are_the_published_ones(name: str, form: ModuleType) -> None:
    published = [bytes.fromhex(certificate) for certificate in VECTORS[f"Chain{name}Ed25519"]]
    secrets = Secrets.of_hardware(bytes(32))
    hardware = parse_certificate(published[0])
    assert keys.raw(hardware.public_key) == keys.raw(secrets.key(Curve.ED25519).public_key())
    for layer, certificate in enumerate(published[1:]):
        inputs = Inputs(
            code_hash=fake(f"code_hash_{layer}", 64),
            authority_hash=fake(f"authority_hash_{layer}", 64),
            inline_configuration=fake(f"inline_config_{layer}", 64),
            mode=Mode.NORMAL,
        )
        authority, secrets = secrets.key(Curve.ED25519), secrets.next(inputs)
        subject = secrets.key(Curve.ED25519).public_key()
        said = OpenDiceInput.of(inputs)
        assert form.cdi_certificate(authority=authority, subject=subject, said=said) == certificate


def test_every_input_changes_the_attestation_secret_and_only_lasting_ones_the_sealing_secret() -> None:
    base = FAKE.next(Inputs())
    fleeting = [
        Inputs(code_hash=b"\x01" * 64),
        Inputs(inline_configuration=b"\x01" * 64),
        Inputs(configuration_descriptor=b""),
    ]
    lasting = [Inputs(authority_hash=b"\x01" * 64), Inputs(mode=Mode.DEBUG), Inputs(hidden=b"\x01" * 64)]
    for inputs in fleeting:
        assert FAKE.next(inputs).attest != base.attest
        assert FAKE.next(inputs).seal == base.seal
    for inputs in lasting:
        assert FAKE.next(inputs).attest != base.attest
        assert FAKE.next(inputs).seal != base.seal
        assert FAKE.versioned_seed(inputs) != FAKE.versioned_seed(Inputs())


def test_identifiers_are_positive_integers_of_20_bytes() -> None:
    for seed in range(40):
        identifier = dice.identifier(bytes([seed]))
        assert len(identifier) == dice.ID_SIZE
        assert identifier[0] < 0x80


def test_the_provisioned_secret_depends_on_chip_and_factory() -> None:
    secret = dice.uds_from_entropy(internal=b"chip", external=b"factory")
    assert len(secret) == dice.SECRET_SIZE
    assert secret != dice.uds_from_entropy(internal=b"chip", external=b"another")
    assert secret != dice.uds_from_entropy(internal=b"another", external=b"factory")


def test_a_component_survives_its_descriptor() -> None:
    for component in (Component(), Component(name="thermo", version="1.2", security_counter=7), Component(name="x")):
        assert Component.of_descriptor(component.descriptor()) == component


@pytest.mark.parametrize("descriptor", [b"", b"\x00", bytes(64), b"\xa1\x61x\x01", b"not cbor", b"\xa1" * 2000])
def test_a_descriptor_in_another_vocabulary_names_nothing(descriptor: bytes) -> None:
    assert Component.of_descriptor(descriptor) == Component()


def test_a_counter_below_zero_is_refused() -> None:
    with pytest.raises(Malformed, match="securityVersion"):
        Component.of_descriptor(Component(security_counter=-1).descriptor())


def test_64_bytes_of_inline_configuration_are_never_taken_for_a_name() -> None:
    component = Component(name="n" * 47, version="1").descriptor()
    padded = Component(name="n" * (47 + 64 - len(component)), version="1").descriptor()
    assert len(padded) == 64
    said = OpenDiceInput.of(Inputs(inline_configuration=padded))
    assert said.layer().component == Component()
    assert OpenDiceInput.of(Inputs(inline_configuration=padded), profile_name="android.16").layer().component.name


def test_values_of_mode_that_nobody_defined_mean_not_configured() -> None:
    assert Mode(77) is Mode.NOT_CONFIGURED
