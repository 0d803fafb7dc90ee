"""Which accounts a node's broker has, and what each may."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.models.leafdevice import LeafDevice
from crds.models.trust import Trust
from edge_resource_manager.agent.domain.accounts import (
    Access,
    Admit,
    Amend,
    Plan,
    Right,
    Rights,
    Withdraw,
    is_ueid,
    plan,
    steps,
)
from tests.edge_resource_manager.agent.leaves import AGENT, NOW, leaf, trust
from tests.edge_resource_manager.agent.peers import OTHER_UEID, UEID


def planned(*devices: LeafDevice, distrusted: dict[str, Trust] | None = None, seconds: float = 0) -> Plan:
    now = NOW + timedelta(seconds=seconds)
    return plan(devices, node="edge-1", agent=AGENT, distrusted=distrusted or {}, now=now)


def sends(rights: Iterable[Right]) -> set[str]:
    return {right.topic for right in rights if right.access is Access.SEND and right.allow}


def test_an_attested_device_may_publish_on_the_topics_of_its_sensors_and_its_own_and_on_no_other() -> None:
    accounts = planned(
        leaf("a", "sensor/a/1", "sensor/a/2", ueid=UEID, believed=trust()),
        leaf("b", "sensor/b", ueid=OTHER_UEID, believed=trust()),
    ).accounts
    assert sends(accounts[UEID]) == {"sensor/a/1", "sensor/a/2", f"device/{UEID}/#", f"attest/{UEID}/#"}
    received = {right.topic for right in accounts[UEID] if right.access is not Access.SEND}
    assert received == {f"device/{UEID}/#", f"attest/{UEID}/#"}


@pytest.mark.parametrize(
    "believed", [None, trust("None"), trust("GatewayVouched"), trust(minutes=0), trust(minutes=-5)], ids=repr
)
def test_a_device_that_is_not_believed_now_has_no_account(believed: Trust | None) -> None:
    plan_ = planned(leaf("a", "sensor/a", ueid=UEID, believed=believed))
    assert UEID not in plan_.accounts
    assert not any("sensor/a" in sends(rights) for rights in plan_.accounts.values())


def test_an_account_ends_with_the_proof() -> None:
    device = leaf("a", "sensor/a", ueid=UEID, believed=trust(minutes=1))
    before = planned(device, seconds=59)
    assert before.until == NOW + timedelta(minutes=1)
    assert UEID in before.accounts
    assert UEID not in planned(device, seconds=60).accounts


def test_what_the_issuer_took_back_does_not_count_although_the_status_still_says_it() -> None:
    believed, renewed = trust(minutes=60), trust(minutes=61)
    assert UEID not in planned(leaf("a", ueid=UEID, believed=believed), distrusted={UEID: believed}).accounts
    assert UEID in planned(leaf("a", ueid=UEID, believed=renewed), distrusted={UEID: believed}).accounts


def test_the_mapper_speaks_for_vouched_and_for_legacy_devices_only() -> None:
    accounts = planned(
        leaf("vouched", "sensor/v", believed=trust("GatewayVouched")),
        leaf("legacy", "sensor/l", ueid=OTHER_UEID, believed=trust("Legacy")),
        leaf("new", "sensor/n"),
        leaf("attested", "sensor/a", ueid=UEID, believed=trust()),
    ).accounts
    assert sends(accounts["mapper.edge-1"]) == {"sensor/v", "sensor/l"}
    assert OTHER_UEID not in accounts


def test_a_device_that_another_agent_spoke_for_is_not_ours_yet() -> None:
    theirs = Trust(tier="GatewayVouched", vouched_by="spiffe://provider.test/agent/edge-2")
    assert sends(planned(leaf("a", "sensor/a", believed=theirs)).accounts["mapper.edge-1"]) == set()


@pytest.mark.parametrize(
    "topic", ["$CONTROL/dynamic-security/v1", "$SYS/x", "attest", f"attest/{OTHER_UEID}/svid", f"device/{OTHER_UEID}/x"]
)
def test_no_device_gets_a_right_to_a_reserved_topic(topic: str) -> None:
    result = planned(leaf("a", topic, "sensor/a", ueid=UEID, believed=trust()))
    assert topic not in sends(result.accounts[UEID])
    assert "sensor/a" in sends(result.accounts[UEID])
    assert [(each.topic, each.why) for each in result.refused] == [(topic, "it is reserved")]


def test_firmware_may_name_topics_of_its_own_device() -> None:
    result = planned(leaf("a", f"device/{UEID}/x", ueid=UEID, believed=trust()))
    assert f"device/{UEID}/x" in sends(result.accounts[UEID])
    assert not result.refused


def test_a_topic_that_is_not_of_a_device_but_looks_alike_is_free() -> None:
    assert "device/tile-1/temperature" in sends(
        planned(leaf("a", "device/tile-1/temperature", ueid=UEID, believed=trust())).accounts[UEID]
    )


def test_the_older_device_keeps_a_topic_that_two_name() -> None:
    result = planned(
        leaf("newer", "sensor/x", ueid=UEID, believed=trust(), created=NOW),
        leaf("older", "sensor/x", ueid=OTHER_UEID, believed=trust(), created=NOW - timedelta(days=1)),
    )
    assert "sensor/x" in sends(result.accounts[OTHER_UEID])
    assert "sensor/x" not in sends(result.accounts[UEID])
    assert [each.device for each in result.refused] == ["newer"]


def test_a_topic_of_a_device_that_can_prove_itself_is_not_the_mappers_while_it_does_not() -> None:
    result = planned(
        leaf("vouched", "sensor/x", believed=trust("GatewayVouched"), created=NOW - timedelta(days=1)),
        leaf("unproven", "sensor/x", ueid=UEID),
    )
    assert sends(result.accounts["mapper.edge-1"]) == set()


def test_the_relay_hears_everything_but_attestation_and_says_commands_alone() -> None:
    relay = planned().accounts["relay.edge-1"]
    assert sends(relay) == {"device/+/command"}
    assert Right(Access.RECEIVE, "attest/#", allow=False) in relay


ueids = st.integers(0, 5).map(lambda number: f"01{number:032x}")
topics = st.sampled_from([f"sensor/{n}" for n in range(4)] + ["attest/x", "$SYS/a", f"device/01{1:032x}/data"])
tiers = st.sampled_from(["None", "Legacy", "GatewayVouched", "Attested"])
devices = st.builds(
    lambda name, named, ueid, tier, minutes, age: leaf(
        f"d{name}",
        *named,
        ueid=ueid,
        believed=trust(tier, minutes=minutes),
        created=NOW - timedelta(hours=age),
    ),
    st.integers(0, 1000),
    st.lists(topics, max_size=4, unique=True),
    st.none() | ueids,
    tiers,
    st.integers(-2, 2),
    st.integers(0, 3),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(devices, max_size=8, unique_by=lambda each: each.metadata.name))
def test_whatever_is_declared_each_topic_has_one_publisher_and_nobody_speaks_of_others(found: list[LeafDevice]) -> None:
    accounts = planned(*found).accounts
    senders: dict[str, list[str]] = {}
    for name, rights in accounts.items():
        for topic in sends(rights):
            senders.setdefault(topic, []).append(name)
        for right in rights:
            if right.allow and right.topic.startswith(("attest/", "device/0")):
                assert right.topic.startswith((f"attest/{name}/", f"device/{name}/"))
    assert all(len(names) == 1 for names in senders.values())
    attested = {
        each.spec.ueid
        for each in found
        if each.status and each.status.trust and each.status.trust.tier == "Attested" and each.spec.ueid
    }
    assert {name for name in accounts if is_ueid(name)} <= attested


rights = st.frozensets(st.builds(Right, st.sampled_from(Access), st.sampled_from(["a", "b/#"]), st.booleans()))
names = ueids | st.sampled_from(["relay.edge-1", "mapper.edge-1"])


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(names | st.just("somebody"), st.none() | rights, max_size=6),
    st.dictionaries(names, rights, max_size=6),
)
def test_steps_lead_to_what_is_wanted_and_leave_other_peoples_accounts_alone(
    held: dict[str, Rights | None], wanted: dict[str, Rights]
) -> None:
    state = dict(held)
    taken = steps(held, wanted)
    for step in taken:
        match step:
            case Withdraw(name):
                del state[name]
            case Amend(name, given_rights):
                assert state[name] is not None
                state[name] = given_rights
            case Admit(name, given_rights):
                assert name not in state
                state[name] = given_rights
    others = {name: has for name, has in held.items() if not is_ueid(name) and name not in wanted}
    assert state == {**others, **wanted}
    assert steps(state, wanted) == []
    kinds = [type(step) for step in taken]
    assert kinds == sorted(kinds, key=[Withdraw, Amend, Admit].index)
