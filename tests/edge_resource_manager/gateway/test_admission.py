"""What the gateway may have flashed, by deploy/rbac and deploy/policies on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from crds.kube.client import Kind, Kube, Object, Refused
from crds.models.firmwarerollout import FirmwareRollout
from edge_resource_manager.domain.repurposing import rollout
from scripts.testbed.cluster import Cluster

pytestmark = pytest.mark.control_plane
ROLLOUTS = Kind.of(FirmwareRollout.crd)


@pytest.fixture
async def gateway(cluster: Cluster) -> AsyncIterator[Kube]:
    config = await asyncio.to_thread(cluster.service_account_kubeconfig, "fluidos", "rear-gateway")
    async with await Kube.connect(kubeconfig=config) as kube:
        yield kube


def order(namespace: str, name: str = "repurpose-1", *, labels: Object | None = None, **spec: Any) -> Object:
    made = rollout(name, namespace=namespace, device="tile-1", firmware="thermo").dump()
    made |= {"apiVersion": ROLLOUTS.api_version, "kind": "FirmwareRollout"}
    made["spec"] |= spec
    made["metadata"] |= {} if labels is None else {"labels": labels}
    return made


async def refusal(attempt: Callable[[], Awaitable[object]]) -> str:
    """A policy works a moment after it was written; what is attempted may succeed until then, and again."""
    for _ in range(500):
        try:
            await attempt()
        except Refused as error:
            return str(error)
        await asyncio.sleep(0.02)
    return "taken"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"labels": {}}, "no rollout but those that it made"),
        ({"devices": {"names": ["tile-1", "tile-2"]}}, "one device flashed at a time"),
        ({"devices": {"selector": {"matchLabels": {"a": "b"}}}}, "one device flashed at a time"),
        ({"attestation": "Optional"}, "has to attest afterwards"),
    ],
)
async def test_a_gateway_orders_no_more_than_a_buyer_needs(
    gateway: Kube, namespace: str, changed: Any, told: str
) -> None:
    path, body = ROLLOUTS.path(namespace=namespace), order(namespace, **changed)
    assert told in await refusal(lambda: gateway.request("POST", path, body=body, query={"dryRun": "All"}))


async def test_a_gateway_calls_off_what_is_its_own_and_nothing_else(
    gateway: Kube, cluster: Cluster, namespace: str
) -> None:
    def change(name: str, **spec: str) -> Callable[[], Awaitable[Object]]:
        return lambda: gateway.patch(FirmwareRollout, name, namespace=namespace, body={"spec": spec}, manager="gateway")

    path = ROLLOUTS.path(namespace=namespace)
    await gateway.request("POST", path, body=order(namespace))
    await asyncio.to_thread(cluster.apply, [order(namespace, "fleet", labels={})])
    assert "no rollout but those that it made" in await refusal(change("fleet", desired="Cancel"))
    assert "call a rollout off, and change nothing else" in await refusal(change("repurpose-1", policy="Always"))
    assert (await change("repurpose-1", desired="Cancel")())["spec"]["desired"] == "Cancel"
