"""Claims and the REAR gateway of this project: two processes' worth of code that meet on the wire only."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from crds.models.fluidos import Contract
from crds.models.sensorclaim import SensorClaim
from scripts.testbed.cluster import Cluster
from tests.edge_resource_manager.claims.conftest import Site, bindings, condition, eventually, is_ready
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Provider, running


@pytest.fixture
async def gateway(cluster: Cluster, site: Site) -> AsyncIterator[Provider]:
    cluster.apply([samples.IDENTITY])
    async with running(cluster, egress_allow="192.0.2.0/24") as provider:
        site.know("provider-1", provider.url.removeprefix("http://").removesuffix("/api/v2"))
        yield provider


async def contracts(site: Site) -> list[Contract]:
    return await site.kube.list(Contract, namespace=site.namespace)


async def test_a_claim_is_bound_moved_and_ended_through_the_gateway(site: Site, gateway: Provider) -> None:
    def need(below: int) -> dict[str, Any]:
        here = f'device.attributes["sensor.fluidos.eu"].node == "{site.namespace}"'
        return {
            "sensor": {"type": "Humidity", "mcuFamily": "stm32", "unit": "%"},
            "selector": here,
            "limits": {
                "latencyMicroseconds": {"lessThan": below},
                "samplingRateMillihertz": {"atLeast": 500},
                "consumptionMicrowatts": {"atMost": 100},
                "accuracyMicrounits": {"atMost": 5_000},
            },
        }

    stm32 = {"mcu": "STM32L475"}
    (slow,) = await gateway.offer(samples.sensor("slow", namespace=site.namespace, latency="16.000", additional=stm32))
    async with site.reconciler():
        site.claim(count=1, **need(16_000))
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "NoMatch")
        assert "latency 16.000 ms, asked < 16.000 ms" in condition(claim, "Bound")[2]
        (fast,) = await gateway.offer(samples.sensor("fast", namespace=site.namespace, latency="12", additional=stm32))
        claim = await site.until(is_ready)
        assert set(bindings(claim)) == {fast}
        (contract,) = await contracts(site)
        assert contract.metadata.name == bindings(claim)[fast].contract
        assert contract.spec.configuration is not None
        assert contract.spec.configuration.data["claim"]["uid"] == claim.metadata.uid

        site.claim(count=1, endpoints=[{"name": "there", "url": "http://192.0.2.8/"}], **need(16_000))
        await site.until(lambda claim: claim.metadata.generation == 2 and is_ready(claim))
        (contract,) = await contracts(site)
        assert contract.spec.ingress_telemetry_endpoint is not None
        assert contract.spec.ingress_telemetry_endpoint.endpoint == "http://192.0.2.8/"

        site.claim(count="All", **need(17_000))
        await site.until(lambda claim: is_ready(claim) and set(bindings(claim)) == {slow, fast})
        await site.kube.delete(SensorClaim, "humidity", namespace=site.namespace)

        async def ended() -> bool:
            return await site.read() is None and await contracts(site) == []

        await eventually(ended)


async def test_an_endpoint_that_the_provider_must_not_reach_is_told(site: Site, gateway: Provider) -> None:
    await gateway.offer(samples.sensor("fast", namespace=site.namespace, latency="12"))
    async with site.reconciler():
        site.claim(
            selector=f'device.attributes["sensor.fluidos.eu"].node == "{site.namespace}"',
            endpoints=[{"name": "inside", "url": "http://127.0.0.1:6443/"}],
        )
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "Refused")
    assert "HTTP 403: endpoint inside (http://127.0.0.1:6443/)" in condition(claim, "Bound")[2]
    assert await contracts(site) == []
