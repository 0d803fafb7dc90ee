"""Which Leases a flash runner may write, by deploy/rbac and deploy/policies on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from crds.kube.client import LEASES, Kube, Refused
from scripts.testbed.cluster import Cluster

pytestmark = pytest.mark.control_plane


@pytest.fixture
async def runner(cluster: Cluster) -> AsyncIterator[Kube]:
    config = await asyncio.to_thread(cluster.service_account_kubeconfig, "fluidos", "flash-runner")
    async with await Kube.connect(kubeconfig=config) as kube:
        yield kube


async def take(kube: Kube, name: str, namespace: str) -> None:
    body = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"name": name}}
    await kube.request("POST", LEASES.path(namespace=namespace), body=body, query={"dryRun": "All"})


@pytest.mark.parametrize(
    ("name", "namespace"),
    [("flash-controller", "fluidos"), ("router-manager", "fluidos"), ("edge-1", "fluidos-relays"), ("leaf", "default")],
)
async def test_a_runner_takes_no_lease_of_another_kind_of_process(runner: Kube, name: str, namespace: str) -> None:
    refusal = ""
    for _ in range(500):  # a policy works a moment after it was written
        try:
            await take(runner, name, namespace)
        except Refused as error:
            refusal = str(error)
            break
        await asyncio.sleep(0.02)
    assert "a flash runner may write the Leases of devices" in refusal


async def test_a_runner_takes_the_lease_of_a_device(runner: Kube, namespace: str) -> None:
    await take(runner, "flash-tile-1-k4gge4ge6v", namespace)
    await take(runner, "flash-tile-1-k4gge4ge6v", "fluidos")
