"""What sites accept, and how policies compose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spire.domain.certificates import Layer
from spire.domain.dice import Component, Mode
from spire.domain.errors import Reason
from spire.domain.policy import (
    AllOf,
    AnyOf,
    ApplicationIn,
    CounterAtLeast,
    LegacyFrom,
    ManufacturedBy,
    MeasuredAs,
    ModeIn,
    NotRevoked,
    Policy,
)
from spire.domain.ueid import Ueid
from spire.domain.verdict import Accepted, Attested, Legacy
from tests.spire.support import BOOT, GOOD, TAMPERED, seeded

THERMO = Component(name="thermo", version="1.2", security_counter=7)
BOOTED = Layer(measurement=BOOT, mode=Mode.NORMAL, component=Component())
FIRMWARE = Layer(measurement=GOOD, mode=Mode.NORMAL, component=THERMO)
DEVICE = Attested(
    ueid=Ueid(b"\x01" + bytes(16)),
    manufacturer="acme",
    layers=(BOOTED, FIRMWARE),
    application="thermo",
    key=seeded("own").public_key(),
)
LEGACY = Legacy(mac="f0:f5:bd:00:c2:88", measurement=bytes(64))
KNOWN = MeasuredAs(boot={BOOT}, firmware={GOOD})


def reason(policy: Policy, device: Accepted = DEVICE) -> Reason | None:
    refused = policy.judge(device)
    return None if refused is None else refused.reason


def with_layers(*layers: Layer) -> Attested:
    return replace(DEVICE, layers=layers)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ManufacturedBy({"acme"}), None),
        (ManufacturedBy({"other"}), Reason.MANUFACTURER_REFUSED),
        (ManufacturedBy(set()), Reason.MANUFACTURER_REFUSED),
        (ModeIn(), None),
        (ModeIn(set()), Reason.MODE_REFUSED),
        (CounterAtLeast(7), None),
        (CounterAtLeast(8), Reason.COUNTER_TOO_LOW),
        (ApplicationIn({"thermo"}), None),
        (ApplicationIn({"camera"}), Reason.APPLICATION_REFUSED),
        (NotRevoked(set()), None),
        (NotRevoked({DEVICE.ueid}), Reason.REVOKED),
        (KNOWN, None),
        (LegacyFrom({LEGACY.mac}), Reason.LEGACY_REFUSED),
    ],
)
def test_each_policy_judges_its_own_thing(policy: Policy, expected: Reason | None) -> None:
    assert reason(policy) == expected


def test_every_layer_must_be_known_and_in_its_place() -> None:
    tampered = replace(FIRMWARE, measurement=TAMPERED)
    for layers in (
        (BOOTED, tampered),
        (replace(BOOTED, measurement=TAMPERED), FIRMWARE),
        (BOOTED, tampered, FIRMWARE),  # the tampered one certifies what it likes
        (BOOTED, FIRMWARE, FIRMWARE),  # even good firmware measures nothing for us
        (FIRMWARE, FIRMWARE),
        (BOOTED,),
    ):
        assert reason(KNOWN, with_layers(*layers)) == Reason.MEASUREMENT_UNKNOWN
    assert reason(KNOWN, with_layers(BOOTED, BOOTED, FIRMWARE)) is None
    assert reason(KNOWN, with_layers(FIRMWARE)) is None


@pytest.mark.parametrize("mode", [Mode.NOT_CONFIGURED, Mode.DEBUG, Mode.RECOVERY])
def test_the_mode_of_every_layer_counts(mode: Mode) -> None:
    for layers in ((replace(BOOTED, mode=mode), FIRMWARE), (BOOTED, replace(FIRMWARE, mode=mode))):
        assert reason(ModeIn(), with_layers(*layers)) == Reason.MODE_REFUSED
        assert reason(ModeIn({Mode.NORMAL, mode}), with_layers(*layers)) is None


def test_no_counter_is_below_every_floor() -> None:
    nameless = replace(FIRMWARE, component=Component(name="thermo"))
    assert reason(CounterAtLeast(0), with_layers(BOOTED, nameless)) == Reason.COUNTER_TOO_LOW


def test_combinations_of_nothing_accept_nothing() -> None:
    for empty in (AllOf(()), AnyOf(()), AllOf((AnyOf(()),)), AnyOf((AllOf(()),))):
        for device in (DEVICE, LEGACY):
            assert reason(empty, device) == Reason.NO_POLICY


def test_all_and_any() -> None:
    good, bad, worse = ApplicationIn({"thermo"}), ApplicationIn({"camera"}), CounterAtLeast(9)
    assert reason(AllOf((good, good))) is None
    assert reason(AllOf((good, worse, bad))) == Reason.COUNTER_TOO_LOW
    assert reason(AnyOf((bad, good))) is None
    refused = AnyOf((bad, worse)).judge(DEVICE)
    assert refused is not None
    assert refused.reason == Reason.APPLICATION_REFUSED
    assert "security counter is 7" in refused.message


def test_legacy_passes_only_where_a_policy_says_so() -> None:
    for policy in (
        ManufacturedBy({"acme"}),
        KNOWN,
        ModeIn(),
        CounterAtLeast(0),
        ApplicationIn({"x"}),
        NotRevoked(set()),
    ):
        assert reason(policy, LEGACY) == Reason.LEGACY_REFUSED
    assert reason(LegacyFrom({"00:00:00:00:00:00"}), LEGACY) == Reason.LEGACY_REFUSED
    both = AnyOf((AllOf((ManufacturedBy({"acme"}), KNOWN)), LegacyFrom({LEGACY.mac})))
    assert reason(both, LEGACY) is None
    assert reason(both, DEVICE) is None
