"""What an idle device could become, for whom, and when not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.conditions import timestamp
from crds.errors import InvalidField
from crds.kube.watch import Put
from crds.models.base import ObjectMeta
from crds.models.firmware import Firmware
from crds.models.fluidos import Price, Transaction, TransactionSpec
from crds.models.leafdevice import LeafDevice
from edge_resource_manager.domain.buyers import May
from edge_resource_manager.domain.following import Entry
from edge_resource_manager.domain.repurposing import (
    BYTES_PER_SECOND,
    Potential,
    expected_seconds,
    failure,
    is_over,
    parse_policy,
    potentials,
    rollout,
    runs,
    sensor_flavor_id,
)
from edge_resource_manager.domain.reservations import MANAGED_BY
from edge_resource_manager.gateway.events import Hub
from edge_resource_manager.gateway.offers import read_flavor
from edge_resource_manager.gateway.repurposing import Repurposing
from edge_resource_manager.gateway.store import Store
from spire.domain.spiffe_id import TrustDomain
from tests.edge_resource_manager import firmwares, workshop
from tests.edge_resource_manager.firmwares import WIND, firmware
from tests.edge_resource_manager.workshop import TERMS

REPOSITORY = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 11, 21, 13, tzinfo=UTC)
BUYER = TrustDomain("consumer")
CATALOG = tuple(firmware(name, status) for name, status in workshop.STATUS.items())


def found(
    leaf: LeafDevice | None = None,
    *catalog: Firmware,
    buyer: TrustDomain | None = BUYER,
    tried: datetime | None = None,
    **rule: Any,
) -> list[Potential]:
    policy = parse_policy(workshop.policy("edge", **rule))
    return list(
        potentials(
            leaf or workshop.leaf(), map(Entry.of, catalog or CATALOG), policy=policy, buyer=buyer, tried=tried, now=NOW
        )
    )


def changed(spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None) -> LeafDevice:
    return workshop.leaf(
        spec={**workshop.spec("thermometer", node="edge-1"), **(spec or {})},
        status={**workshop.status("thermometer"), **(status or {})},
    )


def counting(counter: int) -> dict[str, Any]:
    trust = workshop.status("thermometer")["trust"]
    return {"trust": {**trust, "firmware": {**trust["firmware"], "securityCounter": counter}}}


def test_an_idle_device_could_be_what_the_catalog_has_for_its_board() -> None:
    [one] = found()
    assert (one.firmware, one.sensor.uid, one.trust.application, one.trust.firmware) == ("wind", "wind/1", "wind", WIND)
    assert one.view.repurpose_seconds == one.expected_seconds == 11
    listed = read_flavor(one.flavor(TERMS))
    assert listed.view == one.view
    assert listed.type_data["characteristics"]["properties"]["additional"]["repurposeSeconds"] == "11"
    assert one.flavor_id(TERMS) == one.flavor(TERMS).metadata.name


@pytest.mark.parametrize(
    "leaf",
    [
        changed({"update": None}),
        changed({"ueid": None}),
        changed({"board": {"name": "esp32s3"}}),
        changed({"board": {}}),
        changed(status={"trust": None}),
        changed(status={"trust": {**workshop.status("thermometer")["trust"], "tier": "GatewayVouched"}}),
        changed(status={"trust": {**workshop.status("thermometer")["trust"], "expirationTime": firmwares.NOW}}),
        changed(status=workshop.status("thermometer", flashing="True")),
        changed(
            status={"conditions": [{**workshop.status("wind", flashing="False")["conditions"][-1], "type": "Online"}]}
        ),
        changed(status=counting(1)),
        workshop.leaf("wind", spec=workshop.spec("wind", node="edge-1", board={"name": "other"})),
    ],
)
def test_a_device_that_cannot_prove_or_take_it_is_offered_as_nothing(leaf: LeafDevice) -> None:
    assert found(leaf) == []


@pytest.mark.parametrize(
    ("rule", "offered"),
    [
        ({"trustDomains": ["consumer"]}, True),
        ({"trustDomains": ["somebody"]}, False),
        ({"applications": ["w*"]}, True),
        ({"applications": ["thermo*"]}, False),
        ({"devices": {"namespaces": ["other"]}}, False),
        ({"devices": {"names": ["boa*"]}}, True),
        ({"devices": {"nodes": ["edge-2"]}}, False),
        ({"devices": {"boards": ["NRF52840-DK"]}}, True),
        ({"devices": {"boards": ["esp32*"]}}, False),
        ({"maxSeconds": 11}, True),
        ({"maxSeconds": 10}, False),
    ],
)
def test_only_what_the_provider_opted_in_to(rule: dict[str, Any], offered: bool) -> None:
    assert bool(found(**rule)) is offered


def test_a_device_rests_after_a_flash() -> None:
    flashed = changed(status=workshop.status("thermometer", flashing="False", since="2026-11-21T12:30:00Z"))
    assert found(flashed, cooldownSeconds=1800)
    assert not found(flashed, cooldownSeconds=1801)
    assert found(flashed, cooldownSeconds=600, tried=NOW - timedelta(seconds=600))
    assert not found(flashed, cooldownSeconds=600, tried=NOW - timedelta(seconds=599))


def offering(**rule: Any) -> tuple[Store, Repurposing]:
    """A gateway's, with the catalog and no device."""
    price = Price(amount="", currency="", period="")
    store = Store(Hub(), price=price, may=lambda _, __: May.BUY)
    store.identity = TERMS.identity
    repurposing = Repurposing(store, price=price, clock=lambda: NOW)
    repurposing.policy_seen(Put(("fluidos", "policy"), workshop.policy("edge", **rule)))
    for each in CATALOG:
        repurposing.firmware_seen(Put(("edge", each.metadata.name), each.dump()))
    return store, repurposing


def test_a_device_of_which_something_is_sold_is_in_use_also_while_its_flavor_is_not_there() -> None:
    store, repurposing = offering()
    leaf = store.leaves["edge", "board"] = workshop.leaf()
    flavor = sensor_flavor_id(leaf, leaf.spec.sensors[0], domain=TERMS.identity.domain)
    spec = TransactionSpec(
        flavor_id=flavor, buyer=TERMS.identity, cluster_id="c", expiration_time="2026-11-21T14:00:00Z"
    )
    held = Transaction(metadata=ObjectMeta(name="t-1", namespace="edge", labels=MANAGED_BY), spec=spec)
    assert repurposing.used() == frozenset()
    store.transactions.assume(held)
    assert repurposing.used() == {("edge", "board")}
    assert repurposing.used(but="t-1") == frozenset()
    assert list(repurposing.listed(lambda _: True, viewer=BUYER)) == []


def test_a_device_rests_after_the_last_try_to_make_something_of_it() -> None:
    store, repurposing = offering(cooldownSeconds=3600)
    for name, tried in (("board-1", (50, 70)), ("board-2", (61, 70)), ("board-3", ())):
        store.leaves["edge", name] = workshop.leaf(metadata={"name": name, "namespace": "edge", "uid": name})
        for minutes in tried:
            made = rollout(f"repurpose-{name}-{minutes}", namespace="edge", device=name, firmware="wind")
            status = {"finishedTime": timestamp(NOW - timedelta(minutes=minutes))}
            repurposing.rollout_seen(Put(("edge", made.metadata.name), {**made.manifest(), "status": status}))
    listed = repurposing.listed(lambda _: True, viewer=BUYER)
    assert [each.leaf for each in listed] == [("edge", "board-2"), ("edge", "board-3")]


def test_nobody_who_proves_nothing_is_one_of_a_trust_domain() -> None:
    assert found(buyer=None)
    assert not found(buyer=None, trustDomains=["consumer"])


def test_of_one_application_the_newest_that_is_ready_counts() -> None:
    sensor = firmwares.sensor("WindSpeed", "m/s")
    versions = [
        firmware(f"wind-{index}", firmwares.status("wind", f"{index:02x}" * 32, sensor, **facts))
        for index, facts in enumerate(
            [
                {"version": "1.9.0"},
                {"version": "1.10.0"},
                {"version": "9.0.0", "ready": "False"},
                {"version": "8.0.0", "board": "esp32s3"},
            ]
        )
    ]
    assert [each.firmware for each in found(None, *versions)] == ["wind-1"]
    unmeasured = firmware("wind-9", firmwares.status("wind", None, sensor, version="7.0.0"))
    assert [each.firmware for each in found(None, *versions, unmeasured)] == ["wind-1"]


def test_counters_never_go_back() -> None:
    kept = firmware("wind", firmwares.status("wind", WIND, firmwares.sensor("WindSpeed", "m/s"), securityCounter=3))
    assert found(changed(status=counting(3)), kept)
    assert not found(changed(status=counting(4)), kept)


@given(size=st.integers(0, 2**32), protocol=st.sampled_from(sorted(BYTES_PER_SECOND)))
@settings(max_examples=50)
def test_nothing_is_expected_sooner_than_its_bytes_can_go(size: int, protocol: Any) -> None:
    assert expected_seconds(size, protocol=protocol) * BYTES_PER_SECOND[protocol] >= size


def test_a_rollout_is_for_one_device_and_ends() -> None:
    made = rollout("repurpose-1", namespace="edge", device="board", firmware="wind", seconds=30, afterwards="thermo")
    assert made.spec.devices.names == ("board",)
    assert (made.spec.deadline_seconds, made.spec.attestation, made.spec.policy) == (60, "Required", "OnlyNewer")
    assert not is_over(made)
    assert failure(made) is None
    for state, why in (
        ("Confirmed", None),
        ("Failed", "Failed (BadDigest): no"),
        ("RolledBack", "RolledBack (BadDigest): no"),
    ):
        told = {"name": "board", "state": state, "reason": "BadDigest", "message": "no"}
        over = made.manifest() | {"status": {"finishedTime": firmwares.NOW, "devices": [told]}}
        assert failure(type(made).parse(over)) == why
    assert failure(type(made).parse(made.manifest() | {"status": {"finishedTime": firmwares.NOW}})) is not None


def test_what_runs_already_need_not_be_brought_back() -> None:
    assert runs(workshop.leaf(), workshop.release("thermometer"))
    assert not runs(workshop.leaf(), workshop.release("wind"))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("rules: [{}]", "rules[0].trustDomains"),
        ("rules: [{trustDomains: ['*'], cooldown: 5}]", "rules[0].cooldown"),
        ("rules: [{trustDomains: ['*'], maxSeconds: 0}]", "rules[0].maxSeconds"),
        ("rules: [{trustDomains: ['*'], devices: {boards: ['a?b']}}]", "rules[0].devices.boards[0]"),
        ("", "rules"),
    ],
)
def test_what_is_wrong_in_a_policy_is_named(text: str, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_policy({"data": {"policy.yaml": text}})
    assert caught.value.field == f"ConfigMap fluidos-edge-repurposing, policy.yaml.{field}"


def test_the_documented_policy_is_one() -> None:
    written = (REPOSITORY / "docs" / "repurposing.md").read_text()
    [block] = [each for each in written.split("```yaml\n") if "kind: ConfigMap" in each]
    [rule] = parse_policy(yaml.safe_load(block.partition("```")[0])).grants
    assert (rule.afterwards, rule.cooldown_seconds) == ("thermometer", 3600)
