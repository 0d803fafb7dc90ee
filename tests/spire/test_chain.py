"""The path from a manufacturer to an attestation key, and every way to leave it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import ModuleType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from spire.domain import dice_cbor, dice_x509
from spire.domain.certificates import OpenDiceInput
from spire.domain.chain import MAX_CHAIN, Manufacturer, verify_chain
from spire.domain.dice import Mode, Secrets
from spire.domain.errors import Malformed, Reason, Untrusted
from spire.domain.keys import Curve
from spire.domain.ueid import Ueid
from tests.spire.support import (
    ACME,
    BOOT,
    FORMS,
    GOOD,
    NOW,
    Device,
    boot_inputs,
    device,
    digest,
    factory,
    firmware_inputs,
    seeded,
)

ANCHORS = [ACME.anchor()]
NAMED = Ueid(b"\x02" + bytes.fromhex("0011223344556677"))


def refusal(chain: tuple[bytes, ...], *, anchors: list[Manufacturer] | None = None, now: datetime = NOW) -> Untrusted:
    with pytest.raises(Untrusted) as caught:
        verify_chain(chain, manufacturers=ANCHORS if anchors is None else anchors, now=now)
    return caught.value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("curve", Curve)
def test_a_chain_proves_device_layers_and_key(form: ModuleType, curve: Curve) -> None:
    shown = device(form=form, curve=curve)
    verified = verify_chain(shown.chain, manufacturers=ANCHORS, now=NOW)
    assert verified.manufacturer == "acme"
    assert verified.ueid == shown.claims.ueid
    assert [layer.measurement for layer in verified.layers] == [BOOT, GOOD]
    assert [layer.component.name for layer in verified.layers] == [None, "thermo"]
    assert verified.attestation_key == shown.attestation.public_key()


def test_forms_may_be_mixed_in_one_chain() -> None:
    x509_chain, cbor_chain = device().chain, device(form=dice_cbor).chain
    for cut in range(1, len(x509_chain)):
        for chain in (x509_chain[:cut] + cbor_chain[cut:], cbor_chain[:cut] + x509_chain[cut:]):
            assert verify_chain(chain, manufacturers=ANCHORS, now=NOW).manufacturer == "acme"


def test_every_device_has_another_name_and_keeps_it_whatever_it_runs() -> None:
    other_firmware = device(layers=(boot_inputs(), firmware_inputs(digest("other"), name="other")))
    names = [
        verify_chain(shown.chain, manufacturers=ANCHORS, now=NOW).ueid
        for shown in (device(), other_firmware, device(form=dice_cbor), device("device 2"))
    ]
    assert names[0] == names[1] == names[2] != names[3]
    assert len(str(names[0])) <= 64  # a common name of X.509 holds no more


@pytest.mark.parametrize("form", FORMS)
def test_a_certified_name_counts_from_manufacturers_that_may_name(form: ModuleType) -> None:
    shown = device(form=form, ueid=NAMED)
    assert "certifies a UEID" in str(refusal(shown.chain))
    anchor = ACME.anchor(names_devices=True)
    assert verify_chain(shown.chain, manufacturers=[anchor], now=NOW).ueid == NAMED


def test_another_manufacturers_root_is_unknown() -> None:
    assert refusal(device(maker=factory("other", "other's root")).chain).reason == Reason.UNKNOWN_MANUFACTURER
    assert refusal(device().chain, anchors=[]).reason == Reason.UNKNOWN_MANUFACTURER


def test_another_root_of_the_same_name_does_not_sign_for_it() -> None:
    impostor = factory("acme", "impostor's root")
    assert refusal(device(maker=impostor).chain).reason == Reason.BAD_SIGNATURE
    both = [impostor.anchor(), ACME.anchor()]
    assert verify_chain(device().chain, manufacturers=both, now=NOW).manufacturer == "acme"


def test_a_leaf_certificate_is_no_anchor() -> None:
    with pytest.raises(Malformed, match="may certify"):
        Manufacturer.of_certificate("acme", device().chain[0])


@pytest.mark.parametrize("form", FORMS)
def test_missing_exchanged_and_foreign_certificates_break_the_chain(form: ModuleType) -> None:
    chain, other = device(form=form).chain, device("device 2", form=form).chain
    for place in range(len(chain)):
        assert refusal(chain[:place] + chain[place + 1 :]).reason in {Reason.CHAIN_BROKEN, Reason.UNKNOWN_MANUFACTURER}
        mixed = (*chain[:place], other[place], *chain[place + 1 :])
        assert refusal(mixed).reason in {Reason.CHAIN_BROKEN, Reason.BAD_SIGNATURE}
    for place in range(len(chain) - 1):
        swapped = (*chain[:place], chain[place + 1], chain[place], *chain[place + 2 :])
        assert refusal(swapped).reason in {Reason.CHAIN_BROKEN, Reason.UNKNOWN_MANUFACTURER}
    refusal(tuple(reversed(chain)))


def test_a_chain_has_bounds() -> None:
    chain = device().chain
    for wrong in ((), chain[:1], chain * MAX_CHAIN):
        with pytest.raises(Malformed, match="chain"):
            verify_chain(wrong, manufacturers=ANCHORS, now=NOW)


def below(shown: Device, certificate: bytes, *more: bytes) -> tuple[bytes, ...]:
    """The device's chain with other certificates under its last layer."""
    return (*reversed(more), certificate, *shown.chain[1:])


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_without_a_description_breaks_the_chain(form: ModuleType) -> None:
    shown = device(form=form)
    hidden, attestation = seeded("hidden"), seeded("attestation")
    named = form.uds_certificate(
        manufacturer=shown.layer_key,
        issuer=x509.load_der_x509_certificate(shown.chain[1]) if form is dice_x509 else _subject(shown.chain[1]),
        subject=hidden.public_key(),
    )
    leaf = form.attestation_certificate(authority=hidden, subject=attestation.public_key())
    assert "describes no layer" in str(refusal(below(shown, named, leaf)))


def _subject(certificate: bytes) -> str:
    return dice_cbor.parse(certificate).subject


@pytest.mark.parametrize("form", FORMS)
def test_a_device_cannot_give_itself_a_name(form: ModuleType) -> None:
    shown = device(form=form)
    issuer = x509.load_der_x509_certificate(shown.chain[1]) if form is dice_x509 else _subject(shown.chain[1])
    renamed = form.uds_certificate(
        manufacturer=shown.layer_key, issuer=issuer, subject=seeded("next").public_key(), ueid=NAMED
    )
    message = str(refusal((renamed, *shown.chain[1:])))
    assert "names the device" in message


@pytest.mark.parametrize("form", FORMS)
def test_the_last_key_attests_and_the_others_certify(form: ModuleType) -> None:
    shown = device(form=form)
    assert "not one that attests" in str(refusal(shown.chain[1:]))
    child = form.attestation_certificate(authority=shown.attestation, subject=seeded("next").public_key())
    assert "describes no layer" in str(refusal((child, *shown.chain)))
    itself = form.attestation_certificate(authority=shown.layer_key, subject=shown.layer_key.public_key())
    assert refusal(below(shown, itself)).reason == Reason.KEY_REUSED


def test_hardware_alone_says_nothing_about_software() -> None:
    key = Secrets.of_hardware(bytes(32)).key(Curve.P256)
    hardware = dice_x509.uds_certificate(manufacturer=ACME.key, issuer=ACME.certificate, subject=key.public_key())
    leaf = dice_x509.attestation_certificate(authority=key, subject=seeded("attestation").public_key())
    assert "no layer of software" in str(refusal((leaf, hardware)))


def test_a_path_length_is_kept() -> None:
    shown, attestation = device(), seeded("attestation")
    said = OpenDiceInput.of(firmware_inputs(digest("next")))
    for length, fits in ((0, False), (1, True)):
        last = seeded(f"last {length}")
        limited = dice_x509._device_certificate(shown.layer_key.public_key(), last.public_key(), certifies=True)
        constraint = x509.Extension(
            x509.BasicConstraints.oid, critical=True, value=x509.BasicConstraints(ca=True, path_length=length)
        )
        limited._extensions = [
            constraint if extension.oid == x509.BasicConstraints.oid else extension for extension in limited._extensions
        ]
        extension = x509.UnrecognizedExtension(dice_x509.OPEN_DICE, dice_x509.open_dice_extension(said))
        limited = limited.add_extension(extension, critical=True)
        under = seeded(f"under {length}")
        chain = below(
            shown,
            dice_x509._sign(limited, shown.layer_key),
            dice_x509.cdi_certificate(authority=last, subject=under.public_key(), said=said),
            dice_x509.attestation_certificate(authority=under, subject=attestation.public_key()),
        )
        if fits:
            assert len(verify_chain(chain, manufacturers=ANCHORS, now=NOW).layers) == 4
        else:
            assert "one more than its issuer allows" in str(refusal(chain))


def test_validity_is_checked_against_the_clock_given() -> None:
    key = Secrets.of_hardware(digest("device 1")[:32]).key(Curve.P256).public_key()
    name = dice_x509._name(bytes.fromhex(dice_x509.parse(device().chain[-1]).subject))
    bounded = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(ACME.certificate.subject)
        .serial_number(2)
        .public_key(key)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(dice_x509.usage(certifies=True, attests=False), critical=True)
        .sign(ACME.key, hashes.SHA256())
    )
    chain = (*device().chain[:-1], bounded.public_bytes(Encoding.DER))
    assert verify_chain(chain, manufacturers=ANCHORS, now=NOW).manufacturer == "acme"
    for moment in (datetime(2025, 12, 31, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC)):
        assert refusal(chain, now=moment).reason == Reason.NOT_VALID_NOW


def test_a_mode_stands_in_the_chain_as_it_was_measured() -> None:
    shown = device(layers=(boot_inputs(mode=Mode.DEBUG), firmware_inputs(mode=Mode.RECOVERY)))
    layers = verify_chain(shown.chain, manufacturers=ANCHORS, now=NOW).layers
    assert [layer.mode for layer in layers] == [Mode.DEBUG, Mode.RECOVERY]


def test_a_layers_key_that_may_only_attest_certifies_nothing_below() -> None:
    shown, last = device(), seeded("last")
    said = OpenDiceInput.of(firmware_inputs(digest("next")))
    extension = x509.UnrecognizedExtension(dice_x509.OPEN_DICE, dice_x509.open_dice_extension(said))
    builder = dice_x509._device_certificate(shown.layer_key.public_key(), last.public_key(), certifies=False)
    attests = dice_x509._sign(builder.add_extension(extension, critical=True), shown.layer_key)
    child = dice_x509.attestation_certificate(authority=last, subject=seeded("child").public_key())
    assert "may not certify" in str(refusal(below(shown, attests, child)))
    # As the last one it is an alias certificate in TCG's sense: its layer is judged like every other.
    assert len(verify_chain(below(shown, attests), manufacturers=ANCHORS, now=NOW).layers) == 3


@pytest.mark.filterwarnings("ignore:Parsed a serial number:Warning")  # one of the changes makes it negative
@pytest.mark.parametrize("form", FORMS)
def test_no_byte_of_a_certificate_can_be_changed(form: ModuleType) -> None:
    chain = device(form=form).chain
    anchors = ANCHORS
    accepted = []
    for place, certificate in enumerate(chain):
        for position in range(len(certificate)):
            changed = bytearray(certificate)
            changed[position] ^= 1 << (position % 8)
            candidate = (*chain[:place], bytes(changed), *chain[place + 1 :])
            try:
                verify_chain(candidate, manufacturers=anchors, now=NOW)
            except (Malformed, Untrusted):
                continue
            accepted.append((place, position))
    assert accepted == []


def test_an_anchor_is_a_name_and_a_key_and_its_own_dates_do_not_count() -> None:
    anchor = replace(ACME.anchor(), key_id=None)
    assert verify_chain(device().chain, manufacturers=[anchor], now=datetime(2060, 1, 1, tzinfo=UTC))
