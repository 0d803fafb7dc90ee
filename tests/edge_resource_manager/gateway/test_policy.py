"""The policy on buyers: who may see, who may buy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Answer, Provider, eventually
from tests.edge_resource_manager.gateway.parties import (
    CONFIGURATION,
    bought,
)


@asynccontextmanager
async def policy(provider: Provider, text: str) -> AsyncIterator[None]:
    """A ConfigMap for a while; waits until the gateway obeys it by the flavors that `consumer-1` sees."""
    path = "/api/v1/namespaces/fluidos/configmaps/fluidos-edge-buyers"
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "fluidos-edge-buyers", "namespace": "fluidos"},
        "data": {"policy.yaml": text},
    }
    provider.cluster.apply([document])
    try:
        yield
    finally:
        if provider.cluster.api.exists(path):
            provider.cluster.api.request("DELETE", path)


def rule(trust_domain: str, may: str, *, node: str | None = None) -> str:
    selector = f', selector: \'device.attributes["sensor.fluidos.eu"].node == "{node}"\'' if node else ""
    return f"- {{trustDomains: [{trust_domain}], may: {may}{selector}}}\n"


async def seen(provider: Provider, flavor: str) -> bool:
    return (await provider.get(f"/flavors/sensors/{flavor}")).status == 200


async def test_who_may_see_may_not_buy_and_who_may_not_see_finds_nothing(
    secured: Provider, one: Provider, two: Provider, namespace: str
) -> None:
    (flavor,) = await secured.offer(samples.flavor("a", namespace=namespace))
    async with policy(secured, f"rules:\n{rule('consumer-1', 'See', node=namespace)}"):

        async def obeyed() -> bool:
            return not await seen(two, flavor)

        await eventually(obeyed, "the policy holds")
        assert await seen(one, flavor)
        query = {"filter[node][match]": namespace}
        assert [each["flavorID"] for each in (await one.get("/flavors/sensors", **query)).json] == [flavor]
        hidden = await two.get("/flavors/sensors", **query)
        assert hidden.json == []
        assert hidden.headers["Total-Count"] == "0"
        refused = await one.reserve(flavor)
        assert refused.status == 403
        assert "consumer-1 may not buy" in refused.json["detail"]
        assert (await two.reserve(flavor)).status == 404
        missing = await two.get("/flavors/sensors/none")
        assert (await two.get(f"/flavors/sensors/{flavor}")).json["detail"] == missing.json["detail"].replace(
            "none", flavor
        )
        assert secured.objects("transactions", namespace) == []

    async def open_again() -> bool:
        return await seen(two, flavor)

    await eventually(open_again, "without a policy everybody sees")
    assert (await two.reserve(flavor)).status == 200


async def test_other_types_are_for_whom_a_rule_without_selector_names(
    secured: Provider, one: Provider, two: Provider, namespace: str
) -> None:
    (name,) = await secured.offer(samples.flavor("x", namespace=namespace, kind="K8Slice", data=samples.K8SLICE))

    def listed(answer: Answer) -> bool:
        return name in {each["flavorID"] for each in answer.json or ()}

    async with policy(secured, f"rules:\n{rule('consumer-1', 'Buy')}{rule('consumer-2', 'Buy', node=namespace)}"):

        async def obeyed() -> bool:
            return not listed(await two.get("/flavors"))

        await eventually(obeyed, "the policy holds")
        for path in ("/flavors", "/flavors/k8slice"):
            assert listed(await one.get(path))
            assert not listed(await two.get(path))


async def test_a_policy_that_turns_against_a_buyer_leaves_it_its_contract_until_the_end_of_its_time(
    secured: Provider, one: Provider, two: Provider, namespace: str
) -> None:
    (flavor,) = await secured.offer(samples.flavor("a", namespace=namespace))
    contract = await bought(one, flavor)
    reserved = (await one.reserve(flavor, claim="another")).json["transactionID"]
    async with policy(secured, "rules: []"):

        async def obeyed() -> bool:
            return not await seen(two, flavor)

        await eventually(obeyed, "the policy holds")
        path = f"/contracts/{contract['contractID']}"
        assert await seen(one, flavor)
        assert (await one.get(path)).status == 200
        assert (await one.reserve(flavor)).json["transactionID"] == contract["transactionID"]
        # But no more of it, and no longer.
        assert (await one.purchase(reserved)).status == 409
        assert (await one.reserve(flavor, claim="third")).status == 404
        assert (await one.ask("PUT", f"{path}/configuration", json=CONFIGURATION)).status == 403
        assert (await one.ask("DELETE", path)).status == 204
        assert not await seen(one, flavor)


async def test_events_tell_each_trust_domain_what_it_may_see(
    secured: Provider, one: Provider, two: Provider, namespace: str
) -> None:
    open_to_both = f"rules:\n{rule('consumer-1', 'Buy')}{rule('consumer-2', 'See', node='shared')}"
    flavor = samples.named("a", namespace)

    async def told(provider: Provider) -> list[str]:
        """Types of events about the flavor, until it is withdrawn for all."""
        events: list[str] = []
        async with (
            asyncio.timeout(20),
            provider.http.get(f"{provider.url}/flavors/sensors/events", ssl=provider.tls) as stream,
        ):
            async for line in stream.content:
                event = orjson.loads(line)
                name = event.get("flavorID") or event.get("flavor", {}).get("flavorID")
                if name == flavor:
                    events.append(event["type"])
                if name == samples.named("end", namespace):
                    return events
        raise AssertionError(events)

    def sensor(name: str, *, node: str) -> dict[str, Any]:
        made = samples.sensor(name, namespace=namespace)
        made["spec"]["flavorType"]["typeData"]["characteristics"]["node"] = node
        return made

    async with policy(secured, open_to_both):

        async def obeyed() -> bool:
            slices = await two.get("/flavors/sensors", **{"filter[node][match]": "own"})
            return bool(slices.json == [])

        await eventually(obeyed, "the policy holds")
        listeners = [asyncio.create_task(told(each)) for each in (one, two)]
        await eventually(lambda: len(secured.gateway.hub) == 2, "both listen")
        for node in ("own", "shared", "own"):
            await secured.offer(sensor("a", node=node))
        await secured.offer(sensor("end", node="shared"))
        assert await listeners[0] in (["REFRESH"], ["REFRESH"] * 2, ["REFRESH"] * 3)
        assert await listeners[1] in (["REFRESH", "WITHDRAW"], ["WITHDRAW"])


async def test_streams_end_when_the_policy_changes(secured: Provider, one: Provider) -> None:
    async with one.http.get(f"{one.url}/flavors/sensors/events", ssl=one.tls) as stream:
        await stream.content.readline()
        async with policy(secured, f"rules:\n{rule('consumer-1', 'See')}"), asyncio.timeout(20):
            while await stream.content.readline():
                pass
