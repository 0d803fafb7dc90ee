"""Records of devices: complete enough to judge again, and never better than what was proven."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from crds.conditions import stamp
from crds.models.appraisal import AppraisalPolicy
from crds.models.trust import Tier, Trust
from spire.domain.certificates import Layer
from spire.domain.dice import Component, Mode
from spire.domain.errors import Reason
from spire.domain.policy import AllOf, ApplicationIn
from spire.domain.rates import Rates
from spire.domain.site import Site, mac_of, site_of
from spire.domain.spiffe_id import TrustDomain, device_spiffe_id
from spire.domain.standing import Finding, Granted, Standing, Withdrawn, after, device_of, standing, trust_of
from spire.domain.ueid import Ueid
from spire.domain.verdict import Legacy, Proven, Refused
from tests.spire.support import NOW

UEID, OTHER = Ueid(b"\x01" + b"\xaa" * 16), Ueid(b"\x01" + b"\xbb" * 16)
HOUR = timedelta(hours=1)
EVERYBODY = Site(dice=AllOf((ApplicationIn({"thermo"}),)))
NOBODY = Site()
words = st.text("abcXYZ019._-", min_size=1, max_size=20).filter(lambda word: word not in {".", ".."})
digests = st.sampled_from([bytes([n]) * size for n in range(3) for size in (32, 48, 64)])
components = st.builds(
    Component, name=st.just("thermo"), version=st.none() | words, security_counter=st.none() | st.integers(0, 2**53 - 1)
)
boots = st.lists(
    st.builds(Layer, measurement=digests, mode=st.sampled_from(Mode), component=st.just(Component())), max_size=4
)
devices = st.builds(
    lambda boot, application: Proven(ueid=UEID, manufacturer="acme", layers=(*boot, application), application="thermo"),
    boots,
    st.builds(Layer, measurement=digests, mode=st.sampled_from(Mode), component=components),
)
legacies = st.builds(lambda digest: Legacy(mac="f0:f5:bd:00:c2:88", measurement=digest), digests)


def granted(device: Proven | Legacy) -> Granted:
    named = device_spiffe_id(TrustDomain("site.test"), ueid=UEID, application="thermo")
    spiffe_id = named if isinstance(device, Proven) else None
    return Granted(device=device, spiffe_id=spiffe_id, attested=NOW, expires=NOW + HOUR)


def stand(
    trust: Trust | None = None,
    finding: Finding | None = None,
    *,
    before: Standing | None = None,
    ueid: Ueid = UEID,
    site: Site | None = EVERYBODY,
    later: timedelta = timedelta(),
) -> Standing:
    written = stamp((before.verdict,), before=(), generation=1, now=NOW) if before else ()
    condition = next(iter(written), None)
    held = before.trust if before else trust
    return standing(ueid, trust=held, condition=condition, finding=finding, site=site, now=NOW + later)


@settings(max_examples=100)
@given(devices)
def test_a_record_gives_back_what_was_proven(device: Proven) -> None:
    assert device_of(UEID, trust_of(granted(device))) == device


@given(legacies)
def test_a_record_of_a_legacy_certificate_does_too(device: Legacy) -> None:
    ueid = Ueid(b"\x02" + bytes.fromhex("f0f5bd00c288"))
    assert mac_of(ueid) == device.mac
    assert device_of(ueid, trust_of(granted(device))) == device


@settings(max_examples=100)
@given(devices)
def test_what_stands_stays_until_something_happens(device: Proven) -> None:
    first = stand(finding=granted(device))
    assert (first.trust.tier, first.verdict.status, first.until) == ("Attested", "True", NOW + HOUR)
    assert stand(before=first) == first
    assert stand(before=first, site=None) == first, "an unknown policy withdraws nothing"
    expired = stand(before=first, later=HOUR)
    assert (expired.trust.tier, expired.verdict.reason) == ("None", Reason.EXPIRED)
    refused = stand(before=first, site=NOBODY)
    assert (refused.trust.tier, refused.verdict.reason) == ("None", Reason.NO_POLICY)
    for lost in (expired, refused):
        assert lost.trust.spiffe_id is None
        assert lost.trust.expiration_time is None
        assert stand(before=lost) == lost, "a milder policy brings nothing back, and the reason stays"
        assert device_of(UEID, lost.trust) == device, "what was accepted last is remembered"


@settings(max_examples=100)
@given(devices, devices)
def test_findings_that_come_before_they_are_written_forget_nothing(first: Proven, second: Proven) -> None:
    withdrawn = Withdrawn(refused=Refused(reason=Reason.MODE_REFUSED, message="debugging"))
    pending = after(withdrawn, after(withdrawn, granted(first)))
    stands = stand(finding=pending)
    assert (stands.trust.tier, stands.verdict.reason) == ("None", Reason.MODE_REFUSED)
    assert device_of(UEID, stands.trust) == first
    assert stand(finding=after(granted(second), pending)).trust == trust_of(granted(second))


def test_trust_is_of_one_device() -> None:
    layer = Layer(measurement=bytes(64), mode=Mode.NORMAL, component=Component(name="thermo"))
    first = stand(finding=granted(Proven(ueid=UEID, manufacturer="acme", layers=(layer,), application="thermo")))
    other = stand(before=first, ueid=OTHER)
    assert (other.trust, other.verdict.reason) == (Trust(tier="None"), Reason.NEVER_ATTESTED)
    assert device_of(OTHER, first.trust) is None


@settings(max_examples=100)
@given(
    st.builds(
        Trust,
        tier=st.sampled_from(["None", "Legacy", "GatewayVouched", "Attested"]),
        application=st.just("") | words,
        expiration_time=st.none() | st.sampled_from(["2020-01-01T00:00:00Z", "2050-01-01T00:00:00Z", "soon"]),
    )
)
def test_no_record_without_firmware_is_worth_anything(trust: Trust) -> None:
    stands = stand(trust)
    assert (stands.trust.tier, stands.verdict.status) == ("None", "False")


@given(st.sampled_from(["None", "Legacy", "Attested"]))
def test_what_is_proven_needs_an_end(tier: Tier) -> None:
    layer = Layer(measurement=bytes(64), mode=Mode.NORMAL, component=Component(name="thermo"))
    whole = trust_of(granted(Proven(ueid=UEID, manufacturer="acme", layers=(layer,), application="thermo")))
    assert stand(whole.model_copy(update={"tier": tier, "expiration_time": None})).trust.tier == "None"


def test_an_empty_policy_accepts_nothing() -> None:
    layer = Layer(measurement=bytes(64), mode=Mode.NORMAL, component=Component(name="thermo"))
    device = Proven(ueid=UEID, manufacturer="acme", layers=(layer,), application="thermo")
    for site in (Site(), site_of(AppraisalPolicy())):
        assert site.judge(device) is not None
        assert site.judge(Legacy(mac="f0:f5:bd:00:c2:88", measurement=bytes(64))) is not None


def test_a_bucket_fills_again_and_keeps_to_itself() -> None:
    rates = Rates[str](burst=3, per_second=2, capacity=2)
    assert [rates.allow("a", now=NOW) for _ in range(4)] == [True, True, True, False]
    assert rates.allow("b", now=NOW)
    assert [rates.allow("a", now=NOW + timedelta(seconds=1)) for _ in range(3)] == [True, True, False]
    assert not rates.allow("a", now=NOW), "a clock that goes back fills nothing"
    assert rates.allow("c", now=NOW)
    assert rates.allow("b", now=NOW), "who was forgotten starts anew"
