"""LeafDevice to Flavor and status, and the difference between what is and what should be."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from crds.conditions import Verdict
from crds.errors import InvalidField
from crds.models.base import ObjectMeta
from crds.models.fluidos import Location, NodeIdentity, Price
from crds.models.leafdevice import LeafDevice, LeafDeviceStatus, Offer
from edge_resource_manager.adapters.kubeedge import parse_device
from edge_resource_manager.adapters.mirror import merge_patch
from edge_resource_manager.domain.devices import describe
from edge_resource_manager.domain.flavors import Terms, flavor_of, is_available
from edge_resource_manager.domain.leafstatus import status_of, verdicts, worth_an_event
from tests.edge_resource_manager.discovery import samples

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
IDENTITY = NodeIdentity(domain="fluidos.eu", node_id="provider1", ip="192.0.2.1:3004")
ONLINE = Verdict(type="Online", status="True", reason="Reporting")


def leaf(body: dict[str, Any], status: LeafDeviceStatus | None = None) -> LeafDevice:
    return LeafDevice(
        metadata=ObjectMeta(name="d-abc", namespace="edge", uid="u-1"),
        spec=describe(parse_device(body), node_name="edge-1").spec,
        status=status,
    )


def test_type_data_is_the_forks_byte_for_byte() -> None:
    device = leaf(samples.device("d"))
    flavor = flavor_of(device, device.spec.sensors[0], terms=Terms(identity=IDENTITY), available=True).manifest()
    resource = {"topic": samples.TOPIC, "node": "edge-1"}
    expected = {
        **samples.HUMIDITY,
        "node": "edge-1",
        "access": {"type": "MQTT", "source": "eventbus-fluidos", "resource": resource},
    }
    type_data = flavor["spec"]["flavorType"]["typeData"]
    assert json.dumps(type_data) == json.dumps({"characteristics": expected})
    assert flavor["spec"] | {"flavorType": None} == {
        "providerID": "provider1",
        "flavorType": None,
        "owner": {"domain": "fluidos.eu", "nodeID": "provider1", "ip": "192.0.2.1:3004"},
        "price": {"amount": "", "currency": "", "period": ""},
        "availability": True,
    }
    assert [each["kind"] for each in flavor["metadata"]["ownerReferences"]] == ["LeafDevice"]


def test_a_provider_says_its_terms() -> None:
    device = leaf(samples.device("d"))
    terms = Terms(
        identity=IDENTITY,
        price=Price(amount="1", currency="EUR", period="hourly"),
        location=Location(city="Heraklion"),
        network_property_type="wired",
    )
    spec = flavor_of(device, device.spec.sensors[0], terms=terms, available=False).spec.dump()
    assert spec["price"] == {"amount": "1", "currency": "EUR", "period": "hourly"}
    assert spec["location"] == {"city": "Heraklion"}
    assert (spec["networkPropertyType"], spec["availability"]) == ("wired", False)


def conditions(*, errors: int = 0, sensors: int = 2, refusals: int = 0) -> dict[str, tuple[str, str]]:
    found = verdicts(
        online=ONLINE,
        sensors=sensors,
        errors=[InvalidField(field=f"sensors[{n}]", value=1, expected="x") for n in range(errors)],
        refusals={f"uid-{n}": "no" for n in range(refusals)},
    )
    return {each.type: (each.status, each.reason) for each in found}


def test_conditions_tell_each_trouble_apart() -> None:
    assert {status for status, _ in conditions().values()} == {"True"}
    assert conditions(errors=1)["SensorsAccepted"] == ("False", "InvalidSensors")
    assert conditions(errors=1)["Ready"] == ("False", "InvalidSensors")
    assert conditions(sensors=0)["SensorsAccepted"] == ("False", "NoSensors")
    assert conditions(refusals=1)["FlavorPublished"] == ("False", "FlavorRefused")
    assert conditions(refusals=1)["Ready"] == ("True", "Ready")


def test_the_message_names_every_bad_entry_within_bounds() -> None:
    errors = [InvalidField(field=f"sensors[{n}]", value="x" * 9999, expected="y") for n in range(64)]
    message = next(
        each
        for each in verdicts(online=ONLINE, sensors=0, errors=errors, refusals={})
        if each.reason == "InvalidSensors"
    ).message
    assert "sensors[19]" in message
    assert message.endswith("and 44 more")
    assert len(message) < 32768


def observed(seen: datetime | None, before: LeafDeviceStatus, online: Verdict = ONLINE) -> LeafDeviceStatus:
    return status_of(
        verdicts(online=online, sensors=1, errors=(), refusals={}),
        models=["hts221"],
        offers=[Offer(sensor="s", flavor="f")],
        seen=seen,
        generation=1,
        before=before,
        now=NOW,
    )


@given(steps=st.lists(st.integers(0, 90), max_size=50))
def test_last_seen_moves_at_most_once_a_minute_and_stays_within_one(steps: list[int]) -> None:
    seen, status, writes = NOW, LeafDeviceStatus(), 0
    for step in steps:
        seen += timedelta(seconds=step)
        after = observed(seen, status)
        writes += after != status
        status = after
        assert status.last_seen_time is not None
        assert seen - datetime.fromisoformat(status.last_seen_time) < timedelta(seconds=60)
    assert writes <= 1 + sum(steps) // 60


def test_events_tell_of_what_turned_over_and_of_what_is_bad_from_the_start() -> None:
    offline = Verdict(type="Online", status="False", reason="DeviceSilent")
    good, bad = observed(NOW, LeafDeviceStatus()), observed(NOW, LeafDeviceStatus(), offline)
    assert worth_an_event(good.conditions, before=()) == []
    assert [each.reason for each in worth_an_event(bad.conditions, before=())] == ["DeviceSilent"]
    assert [each.reason for each in worth_an_event(bad.conditions, before=good.conditions)] == ["DeviceSilent"]
    assert [each.reason for each in worth_an_event(good.conditions, before=bad.conditions)] == ["Reporting"]
    assert worth_an_event(bad.conditions, before=bad.conditions) == []


def test_a_leaf_device_is_available_until_it_says_otherwise() -> None:
    body = samples.device("d")
    offline = Verdict(type="Online", status="False", reason="DeviceSilent")
    assert is_available(leaf(body))
    assert is_available(leaf(body, observed(NOW, LeafDeviceStatus())))
    assert not is_available(leaf(body, observed(NOW, LeafDeviceStatus(), offline)))


documents = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
objects = st.dictionaries(st.sampled_from("abc"), documents, max_size=3)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(held=objects, wanted=objects)
def test_a_merge_patch_makes_the_one_of_the_other(held: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert merged(held, merge_patch(held, wanted)) == wanted
    assert merge_patch(wanted, wanted) == {}
