"""What may be offered, by what is proven of a device and what its namespace asks."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crds.conditions import Verdict, timestamp
from crds.errors import InvalidField
from crds.models.base import Condition
from crds.models.leafdevice import LeafDeviceStatus
from crds.models.trust import TIERS, Firmware, Tier, Trust, at_least
from edge_resource_manager.adapters.kubeedge import parse_device
from edge_resource_manager.domain.devices import describe
from edge_resource_manager.domain.leafstatus import verdicts
from edge_resource_manager.domain.publication import Open, Withheld, may_publish, minimum_tier
from tests.edge_resource_manager.discovery import samples

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
UEID, OTHER = "01" + "ab" * 16, "01" + "cd" * 16
ONLINE = Verdict(type="Online", status="True", reason="Reporting")


def attested(status: str = "False", reason: str = "MeasurementUnknown", message: str = "nobody knows it") -> Condition:
    body = {"type": "Attested", "status": status, "reason": reason, "message": message}
    return Condition.model_validate({**body, "lastTransitionTime": timestamp(NOW)})


def proven(tier: Tier = "Attested", *, ueid: str | None = UEID, seconds: float | None = 60) -> Trust:
    return Trust(
        tier=tier,
        spiffe_id=f"spiffe://provider/device/{ueid}/app/thermometer" if ueid else None,
        application="thermometer",
        firmware=Firmware(measurement="ab" * 32),
        expiration_time=None if seconds is None else timestamp(NOW + timedelta(seconds=seconds)),
    )


def judged(
    trust: Trust | None,
    *conditions: Condition,
    ueid: str | None = UEID,
    minimum: Tier | InvalidField | None = "GatewayVouched",
) -> Open | tuple[str, str]:
    status = LeafDeviceStatus(trust=trust, conditions=conditions)
    outcome = may_publish(status, ueid=ueid, minimum=minimum, now=NOW)
    if isinstance(outcome, Open):
        return outcome
    assert isinstance(outcome, Withheld)
    return outcome.verdict.status, outcome.verdict.reason


def test_what_is_proven_is_said_to_buyers() -> None:
    outcome = judged(proven())
    assert isinstance(outcome, Open)
    assert outcome.look_again == 60
    assert (outcome.trust.tier, outcome.trust.application, outcome.trust.firmware) == (
        "Attested",
        "thermometer",
        "ab" * 32,
    )
    assert outcome.trust.spiffe_id == f"spiffe://provider/device/{UEID}/app/thermometer"


def test_a_device_waits_until_somebody_has_judged_it() -> None:
    assert judged(None) == ("Unknown", "NotAttested")
    assert judged(None, ueid=None) == ("Unknown", "NotAttested")
    assert judged(proven(), minimum=None) == ("Unknown", "NotAttested")


def test_the_reason_is_that_of_who_judged_it() -> None:
    assert judged(proven("None"), attested()) == ("False", "MeasurementUnknown")
    assert judged(proven("None"), attested(reason="DuplicateUeid")) == ("False", "DuplicateUeid")


def test_what_is_over_counts_for_nothing_even_if_nobody_wrote_it() -> None:
    assert judged(proven(seconds=0), attested("True", "Attested")) == ("False", "Expired")
    assert isinstance(judged(proven(seconds=1)), Open)
    anything = judged(proven(seconds=0), minimum="None")
    assert isinstance(anything, Open)
    assert (anything.trust.tier, anything.trust.spiffe_id, anything.look_again) == ("None", None, None)


def test_what_was_proven_of_another_device_counts_for_nothing() -> None:
    assert judged(proven(ueid=OTHER)) == ("Unknown", "NotAttested")
    assert judged(proven(), ueid=None) == ("Unknown", "NotAttested")
    assert judged(proven("GatewayVouched", ueid=None)) == ("Unknown", "NotAttested")
    assert isinstance(judged(proven("GatewayVouched", ueid=None, seconds=None), ueid=None), Open)


def test_a_namespace_can_ask_for_more_and_for_less() -> None:
    vouched = proven("GatewayVouched", ueid=None)
    assert judged(vouched, ueid=None, minimum="Attested") == ("False", "TierTooLow")
    assert judged(proven("Legacy", ueid=None), attested()) == ("False", "TierTooLow")
    assert isinstance(judged(proven("Legacy", ueid=None), minimum="Legacy"), Open)
    assert isinstance(judged(None, minimum="None"), Open)


@pytest.mark.parametrize("label", ["", "attested", "Attested ", "Gold"])
def test_a_label_that_is_no_tier_publishes_nothing_and_is_named(label: str) -> None:
    with pytest.raises(InvalidField, match=r"minimum-tier.*expected None, Legacy, GatewayVouched, Attested") as error:
        minimum_tier({"edge.fluidos.eu/minimum-tier": label})
    assert judged(proven(), minimum=error.value) == ("False", "MinimumTierInvalid")


def test_a_namespace_that_says_nothing_asks_for_the_word_of_a_gateway() -> None:
    assert minimum_tier({}) == "GatewayVouched"
    assert [minimum_tier({"edge.fluidos.eu/minimum-tier": tier}) for tier in TIERS] == list(TIERS)


tiers = st.sampled_from(TIERS)
ueids = st.none() | st.sampled_from([UEID, OTHER])
trusts = st.none() | st.builds(
    lambda tier, ueid, seconds: proven(tier, ueid=ueid, seconds=seconds),
    tiers,
    ueids,
    st.none() | st.integers(-100, 100),
)
conditions = st.sampled_from([(), (attested(),), (attested("True", "Attested"),), (attested("Unknown", "Waiting"),)])


@given(trust=trusts, ueid=ueids, minimum=tiers, found=conditions)
def test_nothing_is_offered_below_the_minimum_and_nothing_better_is_said_than_is_proven(
    trust: Trust | None, ueid: str | None, minimum: Tier, found: tuple[Condition, ...]
) -> None:
    status = LeafDeviceStatus(trust=trust, conditions=found)
    match may_publish(status, ueid=ueid, minimum=minimum, now=NOW):
        case Open(told, again):
            assert at_least(told.tier, minimum)
            if told.tier == "None":
                assert (told.spiffe_id, told.application, told.firmware) == (None, "", None)
                return
            assert trust is not None
            assert told.tier == trust.tier
            assert (told.tier == "GatewayVouched") is (ueid is None)
            assert told.tier != "Attested" or (told.spiffe_id and f"/{ueid}/" in told.spiffe_id)
            assert (again is None) is (trust.expiration_time is None)
            if again is not None:
                assert again > 0
                later = may_publish(status, ueid=ueid, minimum="Legacy", now=NOW + timedelta(seconds=again))
                assert isinstance(later, Withheld)
        case Withheld(verdict):
            assert minimum != "None"
            assert verdict.message
            assert Condition.model_validate(
                {"lastTransitionTime": timestamp(NOW), **{each: getattr(verdict, each) for each in verdict.__slots__}}
            )


@given(trust=trusts, ueid=ueids, found=conditions)
def test_asking_for_more_never_offers_more(trust: Trust | None, ueid: str | None, found: tuple[Condition, ...]) -> None:
    status = LeafDeviceStatus(trust=trust, conditions=found)
    offered = [isinstance(may_publish(status, ueid=ueid, minimum=each, now=NOW), Open) for each in TIERS]
    assert offered == sorted(offered, reverse=True)


def test_a_device_that_waits_is_not_ready_and_not_unready() -> None:
    def ready(*, online: Verdict = ONLINE, trust: Trust | None = None, **found: bool) -> tuple[str, str]:
        outcome = may_publish(LeafDeviceStatus(trust=trust), ueid=UEID, minimum="GatewayVouched", now=NOW)
        withheld = outcome.verdict if isinstance(outcome, Withheld) else None
        told = verdicts(online=online, sensors=1, errors=(), refusals={}, withheld=withheld, **found)
        assert ("Insecure" in {each.type for each in told}) is found.get("insecure", False)
        return next((each.status, each.reason) for each in told if each.type == "Ready")

    assert ready() == ("Unknown", "NotAttested")
    assert ready(trust=proven()) == ("True", "Ready")
    assert ready(trust=proven(), insecure=True) == ("True", "Ready")
    assert ready(trust=proven(seconds=-1)) == ("False", "Expired")
    assert ready(online=Verdict(type="Online", status="False", reason="DeviceSilent")) == ("False", "DeviceSilent")


@pytest.mark.parametrize("text", ["", "01", UEID[:-2], UEID.upper(), f" {UEID}", "07" + UEID[2:], "0" * 34, "zz"])
def test_a_ueid_that_is_none_is_named_and_said_of_no_device(text: str) -> None:
    described = describe(
        parse_device(samples.device("d", annotations={"edge.fluidos.eu/ueid": text})), node_name="edge-1"
    )
    assert described.spec.ueid is None
    assert described.bad_ueid in described.errors
    assert "metadata[edge.fluidos.eu/ueid]" in str(described.bad_ueid)


@given(raw=st.binary(max_size=40))
def test_a_ueid_is_taken_exactly_as_written_or_not_at_all(raw: bytes) -> None:
    described = describe(
        parse_device(samples.device("d", annotations={"edge.fluidos.eu/ueid": raw.hex()})), node_name="edge-1"
    )
    assert described.spec.ueid in (None, raw.hex())
    assert (described.spec.ueid is None) is (described.bad_ueid is not None)
