"""Selling what a device is not yet: a rollout is started, the contract waits for it, and a failure frees everything."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from crds.models.firmwarerollout import FirmwareRollout
from crds.models.fluidos import Contract, Transaction
from crds.models.repurposing import AGREED
from edge_resource_manager.domain.signature import verify
from edge_resource_manager.gateway.metrics import REPURPOSING_POLICY_BROKEN
from tests.edge_resource_manager.gateway.conftest import Answer, Provider, eventually, running
from tests.edge_resource_manager.gateway.parties import GATEWAY, SELLER
from tests.edge_resource_manager.workshop import Workshop
from tests.spire.pki import bundles_of

ALLOWED: dict[str, Any] = {"repurpose": {"mode": "Allow", "maxSeconds": 60}}


@pytest.fixture
async def workshop(provider: Provider, namespace: str) -> AsyncIterator[Workshop]:
    async with Workshop.opened(provider.cluster, namespace) as shop:
        yield shop


async def potential(provider: Provider, namespace: str) -> list[dict[str, Any]]:
    query = {"filter[node][match]": namespace, "filter[sensorType][match]": "WindSpeed"}
    answer = await provider.get("/flavors/sensors/potential", **query)
    assert answer.status == 200
    assert int(answer.headers["Total-Count"]) == len(answer.json)
    return list(answer.json)


async def offered(provider: Provider, workshop: Workshop, **rule: Any) -> str:
    """The flavor that the board could have."""
    await workshop.allow(**rule)

    async def listed() -> bool:
        return len(await potential(provider, workshop.namespace)) == 1

    await eventually(listed, "the board is offered as what it could be")
    [flavor] = await potential(provider, workshop.namespace)
    assert flavor["type"]["data"]["characteristics"]["properties"]["additional"]["repurposeSeconds"] == "11"
    return str(flavor["flavorID"])


async def bought(provider: Provider, flavor: str, **changed: Any) -> dict[str, Any]:
    reserved = await provider.reserve(flavor, **{**ALLOWED, **changed})
    assert reserved.status == 200, reserved.json
    sold = await provider.purchase(reserved.json["transactionID"])
    assert sold.status == 200, sold.json
    return dict(sold.json)


async def contracts(workshop: Workshop) -> list[Contract]:
    return await workshop.kube.list(Contract, namespace=workshop.namespace)


async def released(workshop: Workshop) -> bool:
    return not await contracts(workshop) and not await workshop.kube.list(Transaction, namespace=workshop.namespace)


def seconds_of(answer: Answer) -> str | None:
    found: str | None = answer.json["type"]["data"]["characteristics"]["properties"]["additional"].get(
        "repurposeSeconds"
    )
    return found


async def test_what_was_bought_is_made(provider: Provider, workshop: Workshop) -> None:
    flavor = await offered(provider, workshop, afterwards="thermometer")
    assert (await provider.get(f"/flavors/sensors/{flavor}")).status == 404, "nobody has bought it"
    contract = await bought(provider, flavor)
    assert contract["flavor"]["flavorID"] == flavor
    assert await potential(provider, workshop.namespace) == [], "the device is promised"
    assert seconds_of(await provider.get(f"/flavors/sensors/{flavor}")) == "11"
    made = await workshop.rollout("wind")
    assert made.spec.devices.names == ("board",)
    assert await bought(provider, flavor) == contract, "again is the same"

    fresh = await workshop.flash("wind")
    assert fresh.metadata.name == flavor
    await eventually(lambda: active(workshop), "the contract is about the sensor")
    [sold] = await contracts(workshop)
    assert sold.metadata.name == contract["contractID"]
    assert sold.spec.flavor.spec.flavor_type.type_data == fresh.spec.flavor_type.type_data
    assert seconds_of(await provider.get(f"/flavors/sensors/{flavor}")) is None
    second = await provider.reserve(flavor, claim="uid-2")
    assert second.status == 200, "the sensor is sold like any other"
    await provider.ask("DELETE", f"/transactions/{second.json['transactionID']}")

    assert set(await workshop.rollouts()) == {"wind"}
    await provider.ask("DELETE", f"/contracts/{contract['contractID']}")
    back = await workshop.rollout("thermometer")
    assert back.spec.devices.names == ("board",)
    assert (await provider.reserve(flavor, claim="uid-3")).status == 409, "the device goes back"
    await workshop.flash("thermometer")
    provider.clock.advance(seconds=60)
    await offered(provider, workshop)


async def active(workshop: Workshop) -> bool:
    found = await contracts(workshop)
    return bool(found) and not any(AGREED in each.metadata.annotations for each in found)


async def test_a_buyer_who_does_not_allow_it_gets_nothing(provider: Provider, workshop: Workshop) -> None:
    flavor = await offered(provider, workshop)
    for wish in ({}, {"repurpose": {"mode": "Never"}}, {"repurpose": {"mode": "Allow", "maxSeconds": 10}}):
        answer = await provider.reserve(flavor, **wish)
        assert answer.status == 404, answer.json
    assert await workshop.rollouts() == {}


async def test_a_device_in_use_is_not_repurposed(provider: Provider, workshop: Workshop) -> None:
    flavor = await offered(provider, workshop)
    thermometer = await workshop.become("thermometer")
    reserved = await provider.reserve(thermometer.metadata.name)
    assert reserved.status == 200
    assert await potential(provider, workshop.namespace) == []
    assert (await provider.reserve(flavor, **ALLOWED)).status == 404
    await provider.ask("DELETE", f"/transactions/{reserved.json['transactionID']}")
    held = await provider.reserve(flavor, **ALLOWED)
    assert held.status == 200
    refused = await provider.reserve(thermometer.metadata.name, claim="uid-2")
    assert refused.status == 409, "and a device that is promised is not sold as it is"


async def test_a_device_that_a_route_of_the_site_reads_is_in_use(provider: Provider, workshop: Workshop) -> None:
    await offered(provider, workshop)
    thermometer = await workshop.become("thermometer")
    targets = [{"name": "own", "url": "http://192.0.2.7/"}]
    route = {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "DataRoute",
        "metadata": {"name": "own", "namespace": workshop.namespace},
        "spec": {"source": {"flavors": [thermometer.metadata.name]}, "targets": targets},
    }
    provider.cluster.apply([route])
    path = f"/apis/edge.fluidos.eu/v1alpha1/namespaces/{workshop.namespace}/dataroutes/own/status"
    source = {"flavor": thermometer.metadata.name, "device": "board", "sensor": "1", "model": "m", "node": "n"}
    body = {"status": {"sources": [{**source, "provider": "", "topic": "t", "unit": ""}]}}
    provider.cluster.api.request("PATCH", path, body=body, content_type="application/merge-patch+json")

    async def gone() -> bool:
        return await potential(provider, workshop.namespace) == []

    await eventually(gone, "a device that is read is no longer offered as something else")


async def test_of_two_claims_at_once_one_gets_the_device(provider: Provider, workshop: Workshop) -> None:
    flavor = await offered(provider, workshop)
    answers = await asyncio.gather(*(provider.reserve(flavor, claim=f"uid-{each}", **ALLOWED) for each in range(5)))
    assert sorted(each.status for each in answers) == [200, 404, 404, 404, 404]


async def test_a_failure_frees_everything_and_says_why(provider: Provider, workshop: Workshop) -> None:
    flavor = await offered(provider, workshop)
    await bought(provider, flavor)
    made = await workshop.rollout("wind")
    async with provider.http.get(f"{provider.url}/flavors/sensors/events") as events:
        assert orjson.loads(await events.content.readline())["type"] == "HEARTBEAT"
        await workshop.finish(made, "RolledBack", reason="MeasurementMismatch", message="it runs something else")
        told = orjson.loads(await asyncio.wait_for(events.content.readline(), 15))
    assert told["type"] == "WITHDRAW"
    assert (told["flavorID"], told["reason"]) == (flavor, "RolledBack (MeasurementMismatch): it runs something else")
    await eventually(lambda: released(workshop), "contract and reservation are gone")
    assert (await provider.get(f"/flavors/sensors/{flavor}")).status == 404


@pytest.mark.parametrize("desired", ["Run", "Suspend"])
async def test_what_takes_too_long_is_given_up(provider: Provider, workshop: Workshop, desired: str) -> None:
    flavor = await offered(provider, workshop)
    await bought(provider, flavor)
    made = await workshop.rollout("wind")
    body = {"spec": {"desired": desired}}
    await workshop.kube.patch(
        FirmwareRollout, made.metadata.name, namespace=workshop.namespace, body=body, manager="test"
    )
    provider.clock.advance(seconds=61)
    await eventually(lambda: released(workshop), "contract and reservation are gone")
    await eventually(lambda: cancelled(workshop), "the rollout stops")


async def cancelled(workshop: Workshop) -> bool:
    return (await workshop.rollout("wind")).spec.desired == "Cancel"


async def test_a_buyer_who_gives_up_stops_the_rollout(provider: Provider, workshop: Workshop) -> None:
    flavor = await offered(provider, workshop)
    contract = await bought(provider, flavor)
    await workshop.rollout("wind")
    assert (await provider.ask("DELETE", f"/contracts/{contract['contractID']}")).status == 204
    await eventually(lambda: cancelled(workshop), "the rollout stops")
    assert await released(workshop)


async def test_a_gateway_that_was_killed_goes_on(
    provider: Provider, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    flavor = await offered(provider, workshop)
    monkeypatch.setattr(provider.gateway.keeper, "look", lambda: None)  # killed after the purchase
    contract = await bought(provider, flavor)
    assert await workshop.rollouts() == {}
    async with running(provider.cluster) as another:
        await workshop.flash("wind")
        await eventually(lambda: active(workshop), "the contract is about the sensor")
        assert (await another.get(f"/contracts/{contract['contractID']}")).status == 200


async def test_a_policy_that_cannot_be_read_changes_nothing(provider: Provider, workshop: Workshop) -> None:
    flavor = await offered(provider, workshop)
    await workshop.allow(trustDomains=[])
    await eventually(
        lambda: next(iter(REPURPOSING_POLICY_BROKEN.collect())).samples[0].value == 1, "it is read, and refused"
    )
    assert [each["flavorID"] for each in await potential(provider, workshop.namespace)] == [flavor]


async def test_each_buyer_sees_what_may_be_made_for_it(
    secured: Provider, one: Provider, two: Provider, namespace: str
) -> None:
    async with Workshop.opened(secured.cluster, namespace) as workshop:
        flavor = await offered(one, workshop, trustDomains=["consumer-1"])
        assert await potential(two, namespace) == []
        assert (await two.reserve(flavor, **ALLOWED)).status == 404
        contract = await bought(one, flavor)
        assert (await two.get(f"/flavors/sensors/{flavor}")).status == 404, "it is another buyer's"
        await workshop.flash("wind")
        await eventually(lambda: active(workshop), "the contract is about the sensor")
        refreshed = (await one.get(f"/contracts/{contract['contractID']}")).json
    assert refreshed["signature"] != contract["signature"]
    content = {key: value for key, value in refreshed.items() if key != "signature"}
    assert verify(refreshed["signature"], content, bundles=bundles_of(SELLER), now=secured.clock.now).path == GATEWAY
