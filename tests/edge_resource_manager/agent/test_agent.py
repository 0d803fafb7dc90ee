"""The agent at work: a real API server with the site's policies, a real broker, and devices that connect to it."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crds.errors import InvalidField, Retryable, Terminal
from crds.kube.client import APPLY_PATCH, Kind, Kube, Refused
from crds.models.leafdevice import LeafDevice, Update
from edge_resource_manager.agent.service import Agent
from edge_resource_manager.agent.settings import AgentSettings
from flash_controller.adapters.agent_link import EdgeAgent
from scripts.testbed.cluster import Cluster
from spire.domain import cbor
from spire.domain.authorization import exactly
from spire.identity import FixedIdentity
from spire.tls import client_context
from tests.edge_resource_manager.agent.leaves import leaf, trust
from tests.edge_resource_manager.agent.peers import OTHER_UEID, UEID, Client, ScriptedIssuer, Station
from tests.flash_controller.links.station import free_port, udp_echo

pytestmark = [pytest.mark.broker, pytest.mark.control_plane]

LEAVES = Kind.of(LeafDevice.crd)
_numbers = itertools.count()


@dataclass
class Site:
    """A node with its devices, as others see them in the API server."""

    cluster: Cluster
    namespace: str
    station: Station
    issuer: ScriptedIssuer
    kube: Kube
    """As the identity issuer."""

    @property
    def node(self) -> str:
        return self.station.node

    def add(
        self, name: str, topic: str, *, ueid: str | None = None, node: str | None = None, update: Update | None = None
    ) -> None:
        made = leaf(name, topic, ueid=ueid)
        metadata = made.metadata.model_copy(update={"namespace": self.namespace})
        spec = made.spec.model_copy(update={"node_name": node or self.node, "update": update})
        self.cluster.apply([made.model_copy(update={"metadata": metadata, "spec": spec}).manifest()])

    async def believe(self, name: str, *, seconds: float = 3600) -> None:
        now = datetime.now(UTC)
        await self._say(name, trust(minutes=seconds / 60, now=now).dump(), "True", "Attested")

    async def disbelieve(self, name: str) -> None:
        await self._say(name, {"tier": "None"}, "False", "MeasurementUnknown")

    async def _say(self, name: str, said: dict[str, Any], status: str, reason: str) -> None:
        condition = {"type": "Attested", "status": status, "reason": reason, "message": ""}
        condition["lastTransitionTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        await write(self.kube, self.namespace, name, {"trust": said, "conditions": [condition]}, "identity-issuer")

    async def status(self, name: str) -> dict[str, Any]:
        path = LEAVES.path(namespace=self.namespace, name=name)
        obj = await asyncio.to_thread(self.cluster.api.request, "GET", path)
        status: dict[str, Any] = obj.get("status", {})
        return status

    @asynccontextmanager
    async def agent(self, *more: str) -> AsyncIterator[Agent]:
        """The agent at work, under its own account with a token of its node, until the end of the block."""
        config = await asyncio.to_thread(
            self.cluster.service_account_kubeconfig, "fluidos", "edge-agent", node=self.node
        )
        flags = ["--node", self.node, "--broker", self.station.broker.url, "--issuer", self.issuer.url]
        flags += ["--onboarding", self.station.broker.agent_onboarding_url, *more]
        settings = AgentSettings(_cli_parse_args=flags)  # type: ignore[call-arg]  # pydantic-settings' own
        stop = asyncio.Event()
        async with await Kube.connect(kubeconfig=config) as kube:
            agent = Agent(kube, settings, FixedIdentity(self.station.workload("agent")))
            running = asyncio.create_task(agent.run(stop))
            try:
                await until(lambda: agent.ready or running.done())
                assert not running.done(), running
                yield agent
            finally:
                stop.set()
                await running


async def write(kube: Kube, namespace: str, name: str, status: dict[str, Any], manager: str) -> None:
    body = {
        "apiVersion": LEAVES.api_version,
        "kind": "LeafDevice",
        "metadata": {"name": name, "namespace": namespace},
        "status": status,
    }
    path = LEAVES.path(namespace=namespace, name=name, subresource="status")
    query = {"fieldManager": manager, "force": "true"}
    await kube.request("PATCH", path, query=query, body=body, content_type=APPLY_PATCH)


async def until(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    for _ in range(1000):
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came")


async def eventually(device: Client, topic: str, *, allowed: bool = True) -> None:
    """Until the device may publish, or may not any more."""

    async def so() -> bool:
        return await asyncio.to_thread(device.may_publish, topic) == allowed

    await until(so)


@pytest.fixture
def node_station(cluster: Cluster, tmp_path: Path) -> Iterator[Station]:
    node = f"edge-{next(_numbers)}-agent"
    cluster.add_node(node)
    made = Station(tmp_path, node=node)
    with made.broker:
        yield made


@pytest.fixture
async def site(cluster: Cluster, namespace: str, node_station: Station) -> AsyncIterator[Site]:
    config = await asyncio.to_thread(cluster.service_account_kubeconfig, "fluidos", "identity-issuer")
    async with (
        await Kube.connect(kubeconfig=config) as kube,
        ScriptedIssuer().serve(node_station.ca.identity("/issuer", knows=[node_station.foreign])) as issuer,
    ):
        yield Site(cluster, namespace, node_station, issuer, kube)


async def test_a_device_gets_its_svid_and_then_may_publish_and_not_before(site: Site) -> None:
    site.add("tile", "sensor/tile", ueid=UEID)
    site.issuer.answers = {"challenge": (200, cbor.encode({"nonce": bytes(32)})), "evidence": (200, b"\xa0 the svid")}
    async with site.agent():
        with site.station.client(site.station.device()) as early:
            assert not await asyncio.to_thread(early.may_publish, "sensor/tile")

        def attest(device: Client) -> None:
            device.may_subscribe(f"attest/{UEID}/challenge")
            device.may_subscribe(f"attest/{UEID}/svid")
            assert device.publish(f"attest/{UEID}/hello", b"") == 0
            assert device.message() == (f"attest/{UEID}/challenge", site.issuer.answers["challenge"][1])
            assert device.publish(f"attest/{UEID}/evidence", b"\x82AB") == 0

        with site.station.client(client_id=UEID) as device:
            await asyncio.to_thread(attest, device)
            await until(lambda: any(call[0] == "evidence" for call in site.issuer.calls))
            await site.believe("tile")  # as the issuer does when it has answered
            assert await asyncio.to_thread(device.message) == (f"attest/{UEID}/svid", b"\xa0 the svid")
        with site.station.client(site.station.device()) as device:
            assert await asyncio.to_thread(device.may_publish, "sensor/tile")
    evidence = [call for call in site.issuer.calls if call[0] == "evidence"]
    assert [call[1:3] for call in evidence] == [(UEID, b"\x82AB")]
    assert str(evidence[0][3]) == f"spiffe://provider.test/agent/{site.node}"


async def test_a_device_whose_trust_goes_is_cut_and_stays_out_until_it_is_trusted_again(site: Site) -> None:
    site.add("tile", "sensor/tile", ueid=UEID)
    site.add("other", "sensor/other", ueid=OTHER_UEID)
    await site.believe("tile")
    await site.believe("other")
    async with site.agent():
        with (
            site.station.client(site.station.device()) as device,
            site.station.client(site.station.device(OTHER_UEID)) as other,
        ):
            await eventually(device, "sensor/tile")
            await eventually(other, "sensor/other")
            await site.disbelieve("tile")
            await asyncio.to_thread(device.cut)
            assert other.gone.empty()
        with site.station.client(site.station.device()) as again:
            assert not await asyncio.to_thread(again.may_publish, "sensor/tile")
            await site.believe("tile")
            await eventually(again, "sensor/tile")


async def test_a_device_is_cut_when_the_issuer_says_so_before_anybody_wrote_it(site: Site) -> None:
    site.add("tile", "sensor/tile", ueid=UEID)
    await site.believe("tile")
    refusal = cbor.encode({"reason": "MeasurementUnknown", "message": "tampered", "withdrawn": True})
    site.issuer.answers["evidence"] = (403, refusal)
    async with site.agent():
        with site.station.client(site.station.device()) as device:
            await eventually(device, "sensor/tile")
            assert await asyncio.to_thread(device.publish, f"attest/{UEID}/evidence", b"tampered") == 0
            await asyncio.to_thread(device.cut)
        with site.station.client(site.station.device()) as again:
            assert not await asyncio.to_thread(again.may_publish, "sensor/tile")


async def test_a_device_is_cut_when_its_proof_ends_and_nobody_renews_it(site: Site) -> None:
    site.add("tile", "sensor/tile", ueid=UEID)
    await site.believe("tile", seconds=4)
    async with site.agent():
        with site.station.client(site.station.device()) as device:
            await eventually(device, "sensor/tile")
            await asyncio.to_thread(device.cut)


async def test_a_device_that_is_deleted_is_cut(site: Site) -> None:
    site.add("tile", "sensor/tile", ueid=UEID)
    await site.believe("tile")
    async with site.agent():
        with site.station.client(site.station.device()) as device:
            await eventually(device, "sensor/tile")
            path = LEAVES.path(namespace=site.namespace, name="tile")
            await asyncio.to_thread(site.cluster.api.request, "DELETE", path)
            await asyncio.to_thread(device.cut)


async def test_an_agent_that_restarts_cuts_nobody_and_one_that_was_away_catches_up(site: Site) -> None:
    site.add("tile", "sensor/tile", ueid=UEID)
    site.add("other", "sensor/other", ueid=OTHER_UEID)
    await site.believe("tile")
    await site.believe("other")
    with (
        site.station.client(site.station.device()) as device,
        site.station.client(site.station.device(OTHER_UEID)) as other,
    ):
        async with site.agent():
            await eventually(device, "sensor/tile")
            await eventually(other, "sensor/other")
        await site.disbelieve("other")
        assert await asyncio.to_thread(other.may_publish, "sensor/other")  # nobody is there to cut it
        async with site.agent():
            await asyncio.to_thread(other.cut)
            assert await asyncio.to_thread(device.may_publish, "sensor/tile")
            assert device.gone.empty()


async def test_a_broker_that_lost_its_accounts_is_filled_again(site: Site) -> None:
    site.add("tile", "sensor/tile", ueid=UEID)
    await site.believe("tile")
    async with site.agent() as agent:
        site.station.broker.kill()
        (site.station.directory / "broker" / "dynamic-security.json").unlink()
        site.station.broker.restart()
        await until(lambda: not agent.ready)
        await until(lambda: agent.ready)
        with site.station.client(site.station.device()) as device:
            await eventually(device, "sensor/tile")


async def test_it_speaks_for_devices_of_its_node_that_cannot_prove_themselves(site: Site) -> None:
    site.add("plain", "sensor/plain")
    site.add("away", "sensor/away", node="another-node")
    async with site.agent():
        with site.station.client(site.station.workload("mapper").svid) as mapper:
            await eventually(mapper, "sensor/plain")
            assert not await asyncio.to_thread(mapper.may_publish, "sensor/away")
    status = await site.status("plain")
    assert status["trust"]["tier"] == "GatewayVouched"
    assert status["trust"]["vouchedBy"] == f"spiffe://provider.test/agent/{site.node}"
    assert [(each["type"], each["status"], each["reason"]) for each in status["conditions"]] == [
        ("Attested", "False", "VouchedByGateway")
    ]
    assert await site.status("away") == {}


async def test_its_word_is_taken_back_when_the_device_can_prove_itself(site: Site) -> None:
    site.add("tile", "sensor/tile")
    async with site.agent():
        with site.station.client(site.station.workload("mapper").svid) as mapper:
            await eventually(mapper, "sensor/tile")
            site.add("tile", "sensor/tile", ueid=UEID)
            await eventually(mapper, "sensor/tile", allowed=False)

        async def taken_back() -> bool:
            return "trust" not in await site.status("tile")

        await until(taken_back)
        await site.believe("tile")
        with site.station.client(site.station.device()) as device:
            await eventually(device, "sensor/tile")


async def test_the_api_server_holds_it_to_its_own_node(site: Site) -> None:
    site.add("away", "sensor/away", node="another-node")
    config = await asyncio.to_thread(site.cluster.service_account_kubeconfig, "fluidos", "edge-agent", node=site.node)
    vouched = {"trust": {"tier": "GatewayVouched", "vouchedBy": "spiffe://provider.test/agent/another-node"}}
    async with await Kube.connect(kubeconfig=config) as kube:
        with pytest.raises(Refused, match="may write the devices of that node only"):
            await write(kube, site.namespace, "away", vouched, "edge-agent")


async def test_an_unproven_device_is_asked_to_attest_wherever_it_listens(site: Site) -> None:
    site.add("tile", "sensor/tile", ueid=UEID)
    with site.station.client(client_id=UEID) as device:
        await asyncio.to_thread(device.may_subscribe, f"attest/{UEID}/challenge")
        async with site.agent():
            assert await asyncio.to_thread(device.message) == (f"attest/{UEID}/challenge", b"\xa0challenge")


async def test_a_flood_of_strangers_neither_stops_a_device_nor_the_accounts(site: Site) -> None:
    site.add("tile", "sensor/tile", ueid=UEID)
    await site.believe("tile")
    async with site.agent():
        with (
            site.station.client(client_id=OTHER_UEID) as stranger,
            site.station.client(site.station.device()) as device,
        ):
            await eventually(device, "sensor/tile")
            for _ in range(20_000):
                stranger.mqtt.publish(f"attest/{OTHER_UEID}/evidence", b"x" * 512, qos=0)
            await asyncio.to_thread(device.may_subscribe, f"attest/{UEID}/challenge")
            assert await asyncio.to_thread(device.publish, f"attest/{UEID}/hello", b"") == 0
            assert await asyncio.to_thread(device.message) == (f"attest/{UEID}/challenge", b"\xa0challenge")
            await site.disbelieve("tile")
            await asyncio.to_thread(device.cut)
    assert {call[1] for call in site.issuer.calls} == {UEID}


async def test_an_identity_of_another_node_is_refused(site: Site) -> None:
    settings = AgentSettings(
        _cli_parse_args=[  # type: ignore[call-arg]  # pydantic-settings' own
            "--node",
            "another",
            "--broker",
            "mqtts://127.0.0.1:1",
            "--issuer",
            "https://127.0.0.1:1",
        ]
    )
    with pytest.raises(Terminal, match="expected /agent/another"):
        Agent(site.kube, settings, FixedIdentity(site.station.workload("agent")))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "no identity: give --identity-socket"),
        (["--insecure"], "there is nothing that an edge agent does"),
        (["--broker", "mqtt://127.0.0.1:1883"], "--broker: 'mqtt://127.0.0.1:1883' is not valid, expected mqtts://"),
        (["--issuer", "http://127.0.0.1:80"], "--issuer: 'http://127.0.0.1:80' is not valid, expected https://"),
    ],
)
async def test_the_process_says_what_it_misses(cluster: Cluster, flags: list[str], said: str) -> None:
    config = await asyncio.to_thread(cluster.service_account_kubeconfig, "fluidos", "edge-agent")
    needed = ["--node", "edge-1", "--broker", "mqtts://127.0.0.1:1", "--issuer", "https://127.0.0.1:1"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "edge_resource_manager.agent", "--kubeconfig", str(config), *needed, *flags),
        env={},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode in {1, 2}
    assert said in told.decode()


async def test_it_leases_the_devices_of_its_node_to_the_nodes_runner(site: Site) -> None:
    port = free_port()
    async with udp_echo() as echo:
        update = Update(protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
        await asyncio.to_thread(site.add, "board", "board", update=update)
        await asyncio.to_thread(site.add, "elsewhere", "elsewhere", node="edge-2", update=update)
        identity = FixedIdentity(site.station.workload("runner"))
        context = client_context(
            identity, authorize=exactly(site.station.ca.trust_domain.spiffe_id("agent", site.node))
        )
        runner = EdgeAgent(f"https://127.0.0.1:{port}", context=context)
        async with site.agent("--links", f"127.0.0.1:{port}"), runner as agent:
            link = await agent.lease(site.namespace, "board")
            await link.send(b"ab")
            assert await link.receive() == b"ba"
            await link.close()
            with pytest.raises(Retryable, match="no LeafDevice"):
                await agent.lease(site.namespace, "elsewhere")


@pytest.mark.parametrize("wrong", ["3005", "host:port"])
def test_a_wrong_address_for_links_is_told(wrong: str) -> None:
    flags = ["--node", "edge-1", "--broker", "mqtts://b:1", "--issuer", "https://i:1", "--links", wrong]
    settings = AgentSettings(_cli_parse_args=flags)  # type: ignore[call-arg]  # pydantic-settings' own
    with pytest.raises(InvalidField, match="--links"):
        _ = settings.links_address
