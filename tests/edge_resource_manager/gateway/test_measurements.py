"""What relays measured, as buyers get to know it: of their contracts, and of every flavor."""

from __future__ import annotations

from typing import Any

from crds.kube.watch import Gone, Put
from edge_resource_manager.gateway.measurements import Measurements
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Provider, eventually

MEASURED = {"delivered": 30, "rateMillihertz": 3_000, "p50Microseconds": 900, "p99Microseconds": 18_000}
ROUTES = "/apis/edge.fluidos.eu/v1alpha1/namespaces/{}/dataroutes"


def route(name: str, *flavors: str, namespace: str = "edge", p99: int | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "DataRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": {"flavors": list(flavors)}, "targets": [{"name": "t", "url": "http://192.0.2.7/t"}]},
        "status": {} if p99 is None else {**MEASURED, "p99Microseconds": p99},
    }


def measure(provider: Provider, obj: dict[str, Any]) -> None:
    """Apply a route, and what its relay would report of it."""
    name, namespace = obj["metadata"]["name"], obj["metadata"]["namespace"]
    provider.cluster.apply([{key: value for key, value in obj.items() if key != "status"}])
    provider.cluster.api.request(
        "PATCH",
        f"{ROUTES.format(namespace)}/{name}/status",
        body={"status": obj["status"]},
        content_type="application/merge-patch+json",
    )


async def latency(provider: Provider, flavor: str) -> str | None:
    answer = await provider.get(f"/flavors/sensors/{flavor}")
    additional = answer.json["type"]["data"]["characteristics"]["properties"].get("additional", {})
    found: str | None = additional.get("observedLatencyMicros")
    return found


async def test_a_buyer_gets_to_know_what_was_measured_of_its_contract(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
    transaction = (await provider.reserve(flavor)).json["transactionID"]
    contract = (await provider.purchase(transaction)).json
    path = f"/contracts/{contract['contractID']}"
    measure(provider, route(contract["contractID"], flavor, namespace=namespace, p99=18_000))

    async def told() -> bool:
        return bool((await provider.get(path)).json.get("measured", {}).get("delivered") == 30)

    await eventually(told, "the contract says what was measured")
    answer = (await provider.get(path)).json
    assert answer.pop("measured") == {**MEASURED, "backlogRecords": 0, "lagMicroseconds": 0}
    assert answer == contract, "what was agreed is as it was"
    # What was bought again, or changed, is signed: that says nothing of measurements.
    assert "measured" not in (await provider.purchase(transaction)).json


async def test_flavors_are_offered_with_what_is_observed_of_them(provider: Provider, namespace: str) -> None:
    (flavor,) = await provider.offer(samples.sensor("a", namespace=namespace, additional={"board": "Tester"}))
    assert await latency(provider, flavor) is None

    async def listed(limit: str) -> bool:
        answer = await provider.get("/flavors/sensors", **{"filter[observedLatency][range][max]": limit})
        return flavor in {each["flavorID"] for each in answer.json}

    assert not await listed("1000000ms"), "what was never observed satisfies no limit"
    measure(provider, route(f"by-hand-{namespace}", flavor, namespace=namespace, p99=18_000))

    async def observed() -> bool:
        return await latency(provider, flavor) == "18000"

    await eventually(observed, "the flavor says what is observed")
    assert (await listed("18"), await listed("17.999")) == (True, False)
    # A change of the flavor itself does not hide it.
    await provider.offer(samples.sensor("b", namespace=namespace))
    provider.cluster.apply([samples.sensor("a", namespace=namespace, additional={"board": "Another"})])

    async def changed() -> bool:
        body = (await provider.get(f"/flavors/sensors/{flavor}")).json
        additional = body["type"]["data"]["characteristics"]["properties"]["additional"]
        return bool(additional == {"board": "Another", "observedLatencyMicros": "18000"})

    await eventually(changed, "the flavor is another, as slow as before")
    provider.cluster.api.request("DELETE", f"{ROUTES.format(namespace)}/by-hand-{namespace}")

    async def forgotten() -> bool:
        return await latency(provider, flavor) is None

    await eventually(forgotten, "nobody reads it any more")


def test_only_news_is_told_and_only_of_flavors_that_a_route_reads_alone() -> None:
    told: list[tuple[str, int | None]] = []
    measurements = Measurements(lambda flavor, micros: told.append((flavor, micros)))

    def see(name: str, *flavors: str, p99: int | None = None) -> None:
        measurements.route_seen(Put(("edge", name), route(name, *flavors, p99=p99)))

    see("r1", "a")
    see("mixed", "a", "b", p99=90_000)
    assert told == []
    see("r1", "a", p99=10_000)
    see("r1", "a", p99=12_000)  # as good as the same
    see("r1", "a", p99=13_000)
    see("r1", "a")  # the relay has just started anew
    assert told == [("a", 10_000), ("a", 13_000)]
    see("r2", "a", p99=500_000)  # its endpoint is slow, the sensor is not
    see("r1", "b", p99=10_000)
    assert told[2:] == [("a", 500_000), ("b", 10_000)]
    measurements.route_seen(Gone(("edge", "r2")))
    measurements.route_seen(Put(("edge", "r1"), {"metadata": {"name": "r1"}, "spec": {"source": 7}}))
    assert told[4:] == [("a", None), ("b", None)]
