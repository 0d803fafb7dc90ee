"""Who may say how far a device is trusted, by deploy/policies on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from crds.kube.client import Kube, Refused
from scripts.testbed.cluster import Cluster
from tests.spire.issuer.leaves import Leaves, connect

NODE, OTHER = "edge-of-trust", "edge-of-others"
UEID = "01" + "ab" * 16
ID = f"spiffe://site.test/device/{UEID}/app/thermo"
AGENT = f"spiffe://site.test/agent/{NODE}"


def condition(status: str, reason: str) -> dict[str, Any]:
    return {
        "type": "Attested",
        "status": status,
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-11-21T12:00:00Z",
    }


ATTESTED = {"trust": {"tier": "Attested", "spiffeID": ID}, "conditions": [condition("True", "Attested")]}
VOUCHED = {"trust": {"tier": "GatewayVouched", "vouchedBy": AGENT}, "conditions": [condition("False", "Vouched")]}


@dataclass
class Writers:
    leaves: Leaves
    issuer: Kube
    agent: Kube
    unbound: Kube
    manager: Kube
    admin: Kube

    async def refused(self, kube: Kube, name: str, status: dict[str, Any]) -> str:
        with pytest.raises(Refused) as refused:
            await self.leaves.write(kube, name, status)
        assert "device-trust.edge.fluidos.eu" in str(refused.value)
        return str(refused.value)


@pytest.fixture(scope="module")
async def kubes(cluster: Cluster) -> AsyncIterator[dict[str, Kube]]:
    for node in (NODE, OTHER):
        cluster.add_node(node)
    async with AsyncExitStack() as stack:
        made = {
            "issuer": await connect(cluster, "identity-issuer"),
            "agent": await connect(cluster, "edge-agent", node=NODE),
            "unbound": await connect(cluster, "edge-agent"),
            "manager": await connect(cluster, "edge-resource-manager"),
            "admin": await Kube.connect(kubeconfig=cluster.kubeconfig),
        }
        for kube in made.values():
            await stack.enter_async_context(kube)
        yield made


@pytest.fixture
async def writers(cluster: Cluster, namespace: str, kubes: dict[str, Kube]) -> Writers:
    leaves = Leaves(cluster, namespace)
    made = Writers(leaves=leaves, **kubes)
    probe = leaves.add(node=NODE)
    for _ in range(500):  # a policy works a moment after it was written
        try:
            await leaves.write(made.admin, probe, {"trust": {"tier": "Attested"}})
        except Refused:
            return made
        await leaves.write(made.admin, probe, {})
        await asyncio.sleep(0.02)
    raise AssertionError("the policy never came into force")


async def test_the_issuer_says_that_a_device_is_attested(writers: Writers) -> None:
    name = writers.leaves.add(UEID, node=NODE)
    await writers.leaves.write(writers.issuer, name, ATTESTED)
    assert writers.leaves.stands(name) == ("Attested", "Attested")
    await writers.leaves.write(writers.issuer, name, {})
    assert writers.leaves.stands(name) == (None, None)


@pytest.mark.parametrize(
    "status",
    [
        VOUCHED,
        {"trust": {"tier": "Attested"}, "conditions": [condition("False", "Revoked")]},
        {"trust": {"tier": "None"}, "conditions": [condition("True", "Attested")]},
    ],
)
async def test_the_issuer_says_nothing_that_contradicts_itself(writers: Writers, status: dict[str, Any]) -> None:
    await writers.refused(writers.issuer, writers.leaves.add(UEID, node=NODE), status)


async def test_an_agent_vouches_for_the_devices_of_its_node(writers: Writers) -> None:
    name = writers.leaves.add(node=NODE)
    await writers.leaves.write(writers.agent, name, VOUCHED)
    assert writers.leaves.stands(name) == ("GatewayVouched", "Vouched")
    await writers.leaves.write(writers.agent, name, {})
    assert writers.leaves.stands(name) == (None, None)


async def test_an_agent_writes_the_rest_of_the_status_of_a_device_that_proved_itself(writers: Writers) -> None:
    name = writers.leaves.add(UEID, node=NODE)
    await writers.leaves.write(writers.issuer, name, ATTESTED)
    await writers.leaves.write(writers.agent, name, {"sensorModels": "hts221"}, manager="agent")
    assert writers.leaves.stands(name) == ("Attested", "Attested")


async def test_an_agent_writes_nothing_on_devices_of_another_node(writers: Writers) -> None:
    name = writers.leaves.add(node=OTHER)
    said = await writers.refused(writers.agent, name, VOUCHED)
    assert OTHER in said
    assert NODE in said
    await writers.refused(writers.agent, name, {"sensorModels": "anything"})


async def test_an_agent_whose_token_is_of_no_node_writes_nothing(writers: Writers) -> None:
    await writers.refused(writers.unbound, writers.leaves.add(node=NODE), VOUCHED)


@pytest.mark.parametrize(
    "status",
    [
        ATTESTED,
        {"trust": {"tier": "Legacy"}},
        {"trust": {"tier": "None"}, "conditions": [condition("True", "Attested")]},
        {"trust": {"tier": "GatewayVouched", "vouchedBy": AGENT, "spiffeID": ID}},
        {"trust": {"tier": "GatewayVouched", "vouchedBy": f"spiffe://site.test/agent/{OTHER}"}},
        {"trust": {"tier": "GatewayVouched"}},
    ],
)
async def test_an_agent_can_vouch_and_nothing_more(writers: Writers, status: dict[str, Any]) -> None:
    await writers.refused(writers.agent, writers.leaves.add(node=NODE), status)


async def test_nobody_vouches_for_a_device_that_is_to_prove_itself(writers: Writers) -> None:
    await writers.refused(writers.agent, writers.leaves.add(UEID, node=NODE), VOUCHED)


@pytest.mark.parametrize("who", ["manager", "admin"])
async def test_others_do_not_touch_trust(writers: Writers, who: str) -> None:
    kube: Kube = getattr(writers, who)
    fresh, attested = writers.leaves.add(node=NODE), writers.leaves.add(UEID, node=NODE)
    await writers.leaves.write(writers.issuer, attested, ATTESTED)
    for status in (ATTESTED, VOUCHED, {"trust": {"tier": "None"}}, {"conditions": [condition("False", "Expired")]}):
        await writers.refused(kube, fresh, status)
    for status in (VOUCHED, {"trust": {"tier": "None"}}, {"conditions": [condition("False", "Expired")]}):
        await writers.refused(kube, attested, status)


async def test_others_write_the_rest_of_the_status(writers: Writers) -> None:
    name = writers.leaves.add(UEID, node=NODE)
    await writers.leaves.write(writers.issuer, name, ATTESTED)
    online = {**condition("True", "Reporting"), "type": "Online"}
    said = {"sensorModels": "hts221", "conditions": [online]}
    await writers.leaves.write(writers.manager, name, said, manager="discovery")
    status = writers.leaves.status(name)
    assert status["sensorModels"] == "hts221"
    assert {each["type"] for each in status["conditions"]} == {"Attested", "Online"}
