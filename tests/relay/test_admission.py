"""Who may speak at the listener: decided from SPIFFE IDs and LeafDevices alone."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.conditions import timestamp
from crds.models.leafdevice import LeafDevice
from router_manager.domain.admission import (
    Access,
    Grant,
    Grants,
    Pace,
    account_of,
    grants,
    is_pattern,
    matches,
)
from spire.domain.errors import Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain

NOW = datetime(2026, 11, 21, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
DOMAIN = TrustDomain("provider.test")
AGENT = DOMAIN.spiffe_id("agent", "edge-1")
UEID = "01" + "ab" * 16


def leaf(name: str, *topics: str, ueid: str | None = None, **trust: str) -> LeafDevice:
    sensors = [
        {"uid": f"s{n}", "model": "m", "measurements": [{"type": "t"}], "access": {"topic": topic}}
        for n, topic in enumerate(topics)
    ]
    spec = {"nodeName": "edge-1", "source": {"kind": "KubeEdgeDevice", "apiVersion": "v1", "name": name}}
    return LeafDevice.parse(
        {
            "apiVersion": "edge.fluidos.eu/v1alpha1",
            "kind": "LeafDevice",
            "metadata": {"name": name, "namespace": "test", "uid": name},
            "spec": {**spec, "sensors": sensors, **({"ueid": ueid} if ueid else {})},
            "status": {"trust": trust} if trust else {},
        }
    )


def test_attested_devices_have_a_grant_until_their_proof_ends_and_vouched_ones_speak_through_the_mapper() -> None:
    found = grants(
        [
            leaf("proven", "a/b", ueid=UEID, tier="Attested", expirationTime=timestamp(LATER)),
            leaf("late", "c/d", ueid="01" + "cd" * 16, tier="Attested", expirationTime=timestamp(NOW)),
            leaf("vouched", "e/f", tier="GatewayVouched", vouchedBy=str(AGENT)),
            leaf("of-another", "g/h", tier="GatewayVouched", vouchedBy=str(DOMAIN.spiffe_id("agent", "edge-2"))),
        ],
        node="edge-1",
        agent=AGENT,
        now=NOW,
    )
    assert found.accounts == {
        UEID: Grant(topics=frozenset({"a/b"}), until=LATER),
        "mapper.edge-1": Grant(topics=frozenset({"e/f"})),
    }
    assert found.of(UEID, now=NOW) is not None
    assert found.of(UEID, now=LATER) is None
    assert Grants.model_validate_json(found.model_dump_json(by_alias=True)) == found


@pytest.mark.parametrize(
    ("text", "account"),
    [
        (f"spiffe://provider.test/device/{UEID}/app/meter", UEID),
        ("spiffe://provider.test/mapper/edge-1", "mapper.edge-1"),
        ("spiffe://provider.test/mapper/edge-2", None),
        (f"spiffe://consumer.test/device/{UEID}/app/meter", None),
        (f"spiffe://provider.test/device/{UEID}", None),
        (f"spiffe://provider.test/device/{UEID}/app/meter/more", None),
        ("spiffe://provider.test/device/mapper.edge-1/app/meter", None),
        ("spiffe://provider.test/relay/edge-1", None),
    ],
)
def test_the_account_follows_from_the_spiffe_id(text: str, account: str | None) -> None:
    peer = SpiffeId.parse(text)
    if account is not None:
        assert account_of(peer, trust_domain=DOMAIN, node="edge-1") == account
        return
    with pytest.raises(Untrusted, match=r"expected spiffe://provider\.test/device/"):
        account_of(peer, trust_domain=DOMAIN, node="edge-1")


@given(st.text(st.sampled_from("device/attest/command+#$" + UEID[:4]), max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_pattern_that_a_device_may_subscribe_to_covers_a_topic_of_another(pattern: str) -> None:
    access = Access(account=UEID, topics=frozenset())
    for start in ("", f"device/{UEID}/command/", f"device/{UEID}/", f"attest/{UEID}/"):
        candidate = start + pattern
        if is_pattern(candidate) and access.may_subscribe(candidate):
            assert candidate.split("/")[:2] in (["device", UEID], ["attest", UEID])
            assert not matches(candidate, f"device/{UEID}/status")
            assert not matches(candidate, f"attest/{UEID}/evidence")


@pytest.mark.parametrize(
    ("pattern", "topic", "covers"),
    [
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a", "a/b", False),
    ],
)
def test_wildcards_cover_what_the_standard_says(pattern: str, topic: str, covers: bool) -> None:
    assert is_pattern(pattern)
    assert matches(pattern, topic) == covers


@pytest.mark.parametrize("text", ["", "a#", "a/#/b", "#/", "a+/b", "a/b\0"])
def test_what_is_no_topic_filter_is_told_apart(text: str) -> None:
    assert not is_pattern(text)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 500)), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_who_waits_as_told_never_exceeds_its_rate(steps: list[tuple[float, int]]) -> None:
    pace, now, total = Pace(per_second=100, burst=50), 0.0, 0
    for idle, tokens in steps:
        now += idle
        now += pace.spend(tokens, now=now)
        total += tokens
        assert total <= 50 + 100 * now + 1e-6
