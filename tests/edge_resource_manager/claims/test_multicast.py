"""LAN discovery with real datagrams on the loopback interface and a real API server."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crds.errors import Terminal
from crds.kube.client import Kind, Kube
from crds.kube.watch import follow
from crds.models.fluidos import KnownCluster, NodeIdentity
from edge_resource_manager.adapters.multicast import LanDiscovery, MulticastSettings
from edge_resource_manager.metrics import ANNOUNCEMENTS
from scripts.testbed.cluster import Cluster
from tests.edge_resource_manager.claims.conftest import eventually


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Lan:
    """The loopback interface, with a port of the test's own."""

    def __init__(self, manager: Kube, kube: Kube) -> None:
        self.settings = MulticastSettings(port=free_udp_port(), interface="127.0.0.1", ttl=0, period=0.2)
        self.manager = manager
        self.kube = kube
        self.now = datetime.now(UTC)

    def send(self, datagram: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
            sock.sendto(datagram, (self.settings.group, self.settings.port))

    async def known(self, node: str) -> KnownCluster | None:
        return await self.kube.get(KnownCluster, f"knowncluster-{node}", namespace="fluidos")

    @asynccontextmanager
    async def node(self, node: str, *, ip: str = "192.0.2.1:3004") -> AsyncIterator[LanDiscovery]:
        identity = NodeIdentity(domain="fluidos.eu", node_id=node, ip=ip)
        discovery = LanDiscovery(self.manager, self.settings, identity=identity, clock=lambda: self.now)
        synced = asyncio.Event()
        watching = asyncio.create_task(
            follow(
                self.kube,
                Kind.of(KnownCluster.crd),
                changed=discovery.known_cluster_seen,
                synced=synced,
                namespace="fluidos",
            )
        )
        await asyncio.wait_for(synced.wait(), 10)
        working = asyncio.create_task(discovery.run())
        try:
            yield discovery
        finally:
            for task in (watching, working):
                task.cancel()
            await asyncio.gather(watching, working, return_exceptions=True)


@pytest.fixture
async def lan(cluster: Cluster, account: Any) -> AsyncIterator[Lan]:
    async with (
        await Kube.connect(kubeconfig=account) as manager,
        await Kube.connect(kubeconfig=cluster.kubeconfig) as kube,
    ):
        yield Lan(manager, kube)
        for known in await kube.list(KnownCluster, namespace="fluidos"):
            await kube.delete(KnownCluster, known.metadata.name, namespace="fluidos")


async def test_two_nodes_find_each_other_and_forget_who_is_silent(lan: Lan) -> None:
    async def has(node: str, address: str) -> bool:
        found = await lan.known(node)
        return found is not None and found.spec.address == address and found.status is not None

    async def is_gone(node: str) -> bool:
        return await lan.known(node) is None

    async with lan.node("node-a", ip="192.0.2.1:3004"):
        async with lan.node("node-b", ip="192.0.2.2:3004"):
            await eventually(lambda: has("node-a", "192.0.2.1:3004"))
            await eventually(lambda: has("node-b", "192.0.2.2:3004"))
        async with lan.node("node-b", ip="192.0.2.3:3004"):
            await eventually(lambda: has("node-b", "192.0.2.3:3004"))
        lan.now += timedelta(seconds=11)
        await eventually(lambda: is_gone("node-b"))


async def test_bad_datagrams_are_counted_and_harm_nobody(lan: Lan) -> None:
    async def heard() -> bool:
        return await lan.known("node-c") is not None

    malformed = ANNOUNCEMENTS.labels("malformed")
    own = ANNOUNCEMENTS.labels("own")
    before, hears = malformed._value.get(), own._value.get()
    async with lan.node("node-a"):
        await eventually(lambda: own._value.get() > hears, "the node hears itself")
        for datagram in (b"\xff\xfe", b"{}", b"x" * 60_000):
            lan.send(datagram)
        await eventually(lambda: malformed._value.get() >= before + 3)
        lan.send(b'{"domain":"fluidos.eu","nodeID":"node-c","ip":"192.0.2.5:3004"}')
        await eventually(heard)


async def test_a_group_that_cannot_be_joined_is_an_error_that_says_where(lan: Lan) -> None:
    lan.settings = MulticastSettings(group="192.0.2.1", port=4000, interface="127.0.0.1")
    discovery = LanDiscovery(
        lan.kube,
        lan.settings,
        identity=NodeIdentity(domain="d", node_id="n", ip="192.0.2.1:1"),
        clock=lambda: lan.now,
    )
    with pytest.raises(Terminal, match=r"LAN discovery at 192\.0\.2\.1:4000 on 127\.0\.0\.1"):
        await discovery.run()
