"""From evidence to a verdict: honest devices pass, and every lie that we could think of does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from types import ModuleType

import cbor2
import pytest

from spire.domain import eat
from spire.domain.appraisal import Appraisal, appraise
from spire.domain.certificates import OpenDiceInput
from spire.domain.chain import Manufacturer
from spire.domain.dice import Inputs, Mode
from spire.domain.eat import DebugState
from spire.domain.errors import Reason, Untrusted
from spire.domain.keys import Curve
from spire.domain.nonces import LIFETIME, Nonces
from spire.domain.policy import AllOf, ModeIn, Policy
from spire.domain.spiffe_id import TrustDomain, device_spiffe_id
from spire.domain.ueid import Ueid
from spire.domain.verdict import Attested, Refused
from tests.spire.support import (
    ACME,
    BOOT,
    FORMS,
    GOOD,
    NONCE,
    NOW,
    PEER,
    POLICY,
    TAMPERED,
    Device,
    boot_inputs,
    device,
    digest,
    factory,
    firmware_inputs,
    seeded,
)

ANCHORS = [ACME.anchor()]


def open_nonces() -> Nonces:
    nonces = Nonces()
    nonces.give(NONCE, peer=PEER, now=NOW)
    return nonces


def judged(
    token: bytes, *, nonces: Nonces | None = None, policy: Policy = POLICY, anchors: Sequence[Manufacturer] = ANCHORS
) -> Attested | Refused:
    return appraise(
        token,
        peer=PEER,
        nonces=open_nonces() if nonces is None else nonces,
        manufacturers=anchors,
        policy=policy,
        now=NOW,
    )


def refusal(token: bytes, *, policy: Policy = POLICY, anchors: Sequence[Manufacturer] = ANCHORS) -> Refused:
    verdict = judged(token, policy=policy, anchors=anchors)
    assert isinstance(verdict, Refused)
    return verdict


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("curve", Curve)
def test_an_honest_device_is_attested(form: ModuleType, curve: Curve) -> None:
    shown = device(form=form, curve=curve)
    verdict = judged(shown.evidence())
    assert isinstance(verdict, Attested)
    assert verdict.key == shown.own.public_key()
    assert (verdict.application, verdict.manufacturer) == ("thermo", "acme")
    assert verdict.firmware.measurement == GOOD
    assert verdict.firmware.component.security_counter == 7
    named = device_spiffe_id(TrustDomain("provider.test"), ueid=verdict.ueid, application=verdict.application)
    assert str(named) == f"spiffe://provider.test/device/{shown.claims.ueid}/app/thermo"


def test_two_layers_in_cbor_fit_into_two_kilobytes() -> None:
    assert len(device(form=FORMS[1]).evidence()) < 2048


# Tampered firmware


def tampered(**changes: object) -> Device:
    return device(layers=(boot_inputs(), firmware_inputs(TAMPERED)), **changes)  # type: ignore[arg-type]


def test_tampered_firmware_that_claims_the_good_digest_contradicts_its_certificate() -> None:
    assert refusal(tampered().evidence(measurement=GOOD)).reason == Reason.CLAIM_CONTRADICTED


def test_tampered_firmware_that_tells_the_truth_is_unknown() -> None:
    assert refusal(tampered().evidence()).reason == Reason.MEASUREMENT_UNKNOWN


@pytest.mark.parametrize("form", FORMS)
def test_tampered_firmware_cannot_certify_a_good_layer_below_itself(form: ModuleType) -> None:
    shown = tampered(form=form)
    invented, attestation = seeded("invented"), seeded("invented attestation")
    said = OpenDiceInput.of(firmware_inputs())
    layer = form.cdi_certificate(authority=shown.layer_key, subject=invented.public_key(), said=said)
    leaf = form.attestation_certificate(authority=invented, subject=attestation.public_key())
    lie = replace(shown, chain=(leaf, layer, *shown.chain[1:]), attestation=attestation)
    verdict = refusal(lie.evidence(measurement=GOOD))
    assert verdict.reason == Reason.MEASUREMENT_UNKNOWN
    assert TAMPERED.hex() in verdict.message


def test_tampered_firmware_cannot_use_the_certificates_of_the_good_one() -> None:
    good, bad = device(), tampered()
    assert refusal(replace(good, attestation=bad.attestation).evidence()).reason == Reason.BAD_SIGNATURE
    grafted = replace(bad, chain=(bad.chain[0], *good.chain[1:]))
    assert refusal(grafted.evidence(measurement=GOOD)).reason == Reason.CHAIN_BROKEN


def test_a_tampered_boot_loader_is_seen_whatever_it_certifies() -> None:
    shown = device(layers=(boot_inputs(code_hash=digest("evil boot")), firmware_inputs()))
    assert refusal(shown.evidence()).reason == Reason.MEASUREMENT_UNKNOWN


# Claims that certificates do not make


@pytest.mark.parametrize(
    "changes",
    [
        {"ueid": Ueid(b"\x01" + bytes(16))},
        {"ueid": device("device 2").claims.ueid},
        {"measurement": BOOT},
        {"measurement": GOOD[:32]},
        {"software_name": "camera"},
        {"software_version": "9.9"},
        {"software_version": None},
        {"debug": DebugState.ENABLED},
    ],
)
def test_claims_must_agree_with_certificates(changes: dict[str, object]) -> None:
    assert refusal(device().evidence(**changes)).reason == Reason.CLAIM_CONTRADICTED


@pytest.mark.parametrize("claimed", [state for state in DebugState if state is not DebugState.ENABLED])
def test_a_device_in_debug_mode_cannot_deny_it(claimed: DebugState) -> None:
    shown = device(layers=(boot_inputs(), firmware_inputs(mode=Mode.DEBUG)))
    everything = AllOf((ModeIn(frozenset(Mode)),))
    assert refusal(shown.evidence(debug=claimed), policy=everything).reason == Reason.CLAIM_CONTRADICTED
    assert isinstance(judged(shown.evidence(), policy=everything), Attested)
    assert refusal(shown.evidence()).reason == Reason.MODE_REFUSED


def test_a_debuggable_boot_loader_is_a_debuggable_device() -> None:
    shown = device(layers=(boot_inputs(mode=Mode.DEBUG), firmware_inputs()))
    assert refusal(shown.evidence()).reason == Reason.CLAIM_CONTRADICTED
    assert refusal(shown.evidence(debug=DebugState.ENABLED)).reason == Reason.MODE_REFUSED


def test_a_counter_that_went_back_is_refused() -> None:
    old = device(layers=(boot_inputs(), firmware_inputs(counter=4)))
    assert refusal(old.evidence()).reason == Reason.COUNTER_TOO_LOW


@pytest.mark.parametrize("name", [None, "", "a/b", "..", "a b"])
def test_an_application_without_a_usable_name_gets_no_identity(name: str | None) -> None:
    shown = device(layers=(boot_inputs(), firmware_inputs(name=name)))
    assert refusal(shown.evidence(software_name=name or "x")).reason == Reason.NO_APPLICATION


def test_flags_instead_of_a_descriptor_name_no_application() -> None:
    shown = device(layers=(boot_inputs(), Inputs(code_hash=GOOD, mode=Mode.NORMAL)))
    assert refusal(shown.evidence()).reason == Reason.NO_APPLICATION


def test_the_attestation_key_does_not_get_certified() -> None:
    shown = device()
    assert refusal(shown.evidence(key=shown.attestation.public_key())).reason == Reason.KEY_REUSED


# Other devices, other makers


def test_evidence_of_one_device_with_the_key_of_another() -> None:
    one, two = device(), device("device 2")
    assert refusal(replace(one, attestation=two.attestation).evidence()).reason == Reason.BAD_SIGNATURE
    assert refusal(replace(one, chain=two.chain).evidence()).reason == Reason.BAD_SIGNATURE
    assert refusal(replace(one, claims=two.claims).evidence()).reason == Reason.CLAIM_CONTRADICTED


def test_another_manufacturers_root() -> None:
    shown = device(maker=factory("other", "other's root"))
    assert refusal(shown.evidence()).reason == Reason.UNKNOWN_MANUFACTURER
    other = factory("other", "other's root").anchor()
    assert refusal(shown.evidence(), anchors=[*ANCHORS, other]).reason == Reason.MANUFACTURER_REFUSED


def test_a_manufacturer_that_may_not_name_devices_cannot_take_the_name_of_anothers() -> None:
    impostor = factory("other", "other's root")
    shown = device("device 2", maker=impostor, ueid=device().claims.ueid)
    assert refusal(shown.evidence(), anchors=[*ANCHORS, impostor.anchor()]).reason == Reason.CHAIN_BROKEN


def test_no_policy_accepts_nothing() -> None:
    assert refusal(device().evidence(), policy=AllOf(())).reason == Reason.NO_POLICY


# Nonces


def test_evidence_is_accepted_once() -> None:
    nonces, token = open_nonces(), device().evidence()
    assert isinstance(judged(token, nonces=nonces), Attested)
    again = judged(token, nonces=nonces)
    assert isinstance(again, Refused)
    assert again.reason == Reason.NONCE_REFUSED


def test_evidence_for_another_challenge_peer_or_time_is_refused() -> None:
    token, nonces = device().evidence(), open_nonces()
    assert refusal(device().evidence(nonce=bytes(32))).reason == Reason.NONCE_REFUSED
    for peer, now in (("another", NOW), (PEER, NOW + LIFETIME), (PEER, NOW + timedelta(days=365))):
        verdict = appraise(token, peer=peer, nonces=nonces, manufacturers=ANCHORS, policy=POLICY, now=now)
        assert isinstance(verdict, Refused)
        assert verdict.reason == Reason.NONCE_REFUSED


def test_who_cannot_sign_cannot_spend_the_nonce_of_who_can() -> None:
    nonces, honest = open_nonces(), device()
    forged = replace(honest, attestation=seeded("forger")).evidence()
    assert isinstance(judged(forged, nonces=nonces), Refused)
    assert isinstance(judged(honest.evidence(), nonces=nonces), Attested)


# Bytes


def unsigned_chain(token: bytes, chain: Sequence[bytes]) -> bytes:
    """The same token, with a chain in the header that the signature leaves out."""
    parts = cbor2.loads(token).value
    return cbor2.dumps(cbor2.CBORTag(18, [parts[0], {33: list(chain)}, *parts[2:]]))


@pytest.mark.filterwarnings("ignore:Parsed a serial number:Warning")  # one of the changes makes it negative
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("signed_chain", [True, False])
def test_no_byte_of_evidence_can_be_changed(form: ModuleType, signed_chain: bool) -> None:
    shown = device(form=form)
    token = shown.evidence()
    if not signed_chain:  # as devices may send it: the chain in the header that the signature leaves out
        bare = eat.encode(shown.claims, key=shown.attestation, chain=())
        token = unsigned_chain(bare, shown.chain)
    nonces = open_nonces()
    accepted = []
    for position in range(len(token)):
        changed = bytearray(token)
        changed[position] ^= 1 << (position % 8)
        if isinstance(judged(bytes(changed), nonces=nonces), Attested):
            accepted.append(position)
    assert accepted == []
    assert isinstance(judged(token, nonces=nonces), Attested)


@pytest.mark.parametrize("cut", [0, 1, 2, 10, 100, 1000, -1])
def test_truncated_and_extended_evidence_is_malformed(cut: int) -> None:
    token = device().evidence()
    assert refusal(token[:cut]).reason == Reason.MALFORMED
    assert refusal(token + b"\x00").reason == Reason.MALFORMED


# The order of steps


def steps() -> Appraisal:
    return Appraisal(manufacturers=ANCHORS, policy=POLICY, now=NOW)


def test_steps_are_taken_in_order_and_once() -> None:
    shown = device()
    appraisal = steps()
    with pytest.raises(RuntimeError):
        appraisal.verdict()
    with pytest.raises(RuntimeError):
        appraisal.accept_evidence(eat.parse(shown.evidence()), nonce=NONCE)
    appraisal.accept_chain(shown.chain)
    with pytest.raises(RuntimeError):
        appraisal.verdict()
    with pytest.raises(RuntimeError):
        appraisal.accept_chain(shown.chain)
    proven = appraisal.accept_evidence(eat.parse(shown.evidence()), nonce=NONCE)
    with pytest.raises(RuntimeError):
        appraisal.accept_evidence(eat.parse(shown.evidence()), nonce=NONCE)
    assert appraisal.verdict() == proven == appraisal.verdict()


def test_a_step_that_failed_is_not_tried_again() -> None:
    shown = device()
    appraisal = steps()
    with pytest.raises(Untrusted):
        appraisal.accept_chain(shown.chain[1:])
    with pytest.raises(RuntimeError):
        appraisal.accept_chain(shown.chain)
    with pytest.raises(RuntimeError):
        appraisal.accept_evidence(eat.parse(shown.evidence()), nonce=NONCE)
    appraisal = steps()
    appraisal.accept_chain(shown.chain)
    with pytest.raises(Untrusted):
        appraisal.accept_evidence(eat.parse(shown.evidence()), nonce=bytes(32))
    with pytest.raises(RuntimeError):
        appraisal.accept_evidence(eat.parse(shown.evidence()), nonce=NONCE)
    with pytest.raises(RuntimeError):
        appraisal.verdict()


def test_the_chain_can_travel_apart_but_not_differ() -> None:
    shown = device()
    appraisal = steps()
    appraisal.accept_chain(shown.chain)
    apart = eat.parse(eat.encode(shown.claims, key=shown.attestation, chain=()))
    assert isinstance(appraisal.accept_evidence(apart, nonce=NONCE), Attested)
    appraisal = steps()
    appraisal.accept_chain(shown.chain)
    with pytest.raises(Untrusted, match="another chain"):
        appraisal.accept_evidence(eat.parse(replace(shown, chain=shown.chain[:1]).evidence()), nonce=NONCE)


def test_evidence_answers_the_nonce_that_was_asked() -> None:
    shown = device()
    appraisal = steps()
    appraisal.accept_chain(shown.chain)
    with pytest.raises(Untrusted, match="another nonce"):
        appraisal.accept_evidence(eat.parse(shown.evidence()), nonce=bytes(32))
