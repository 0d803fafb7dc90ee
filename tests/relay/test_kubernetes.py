"""The relay under its own ServiceAccount on a real API server: routes come from there, reports go there."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crds.kube.client import Kube
from crds.models.dataroute import DataRoute, RelayReport
from scripts.testbed.broker import Broker
from scripts.testbed.cluster import Cluster
from tests.relay.support import LIMIT_SECONDS, Target, numbered, publish_all, serving, source, until
from tests.relay.test_process import RelayProcess

pytestmark = [pytest.mark.broker, pytest.mark.control_plane]


class Routes:
    """What a user and router_manager do to DataRoutes of one namespace."""

    def __init__(self, cluster: Cluster, kube: Kube, namespace: str) -> None:
        self._cluster = cluster
        self._kube = kube
        self.namespace = namespace

    def apply(self, name: str, target: Target, **spec: Any) -> None:
        targets = [{"name": "t", "url": target.url}]
        manifest = {
            "apiVersion": "edge.fluidos.eu/v1alpha1",
            "kind": "DataRoute",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"source": {"flavors": ["f"]}, "targets": targets, **spec},
        }
        self._cluster.apply([manifest])

    async def resolve(self, name: str, *topics: str, node: str = "edge-1") -> None:
        sources = [source(topic, flavor=f"flavor-{number}", node=node).dump() for number, topic in enumerate(topics)]
        await self._kube.apply_status(
            DataRoute, name=name, namespace=self.namespace, status={"sources": sources}, manager="router-manager-status"
        )

    async def delete(self, name: str) -> None:
        await self._kube.delete(DataRoute, name, namespace=self.namespace)

    async def report(self, name: str) -> RelayReport | None:
        found = await self._kube.get(DataRoute, name, namespace=self.namespace)
        assert found is not None
        return found.status.relays[0] if found.status and found.status.relays else None

    async def reported(self, name: str, holds: Callable[[RelayReport | None], bool]) -> RelayReport | None:
        report = None
        for _ in range(int(LIMIT_SECONDS * 10)):
            report = await self.report(name)
            if holds(report):
                return report
            await asyncio.sleep(0.1)
        raise AssertionError(f"the last report is {report!r}")


@asynccontextmanager
async def world(tmp_path: Path, broker: Broker, cluster: Cluster, namespace: str) -> AsyncIterator[Routes]:
    process = RelayProcess(tmp_path, broker.url, kubeconfig=cluster.service_account_kubeconfig("fluidos", "relay"))
    try:
        async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
            await process.ready()
            yield Routes(cluster, kube, namespace)
    finally:
        process.child.kill()


async def delivers(broker: Broker, target: Target, topic: str) -> None:
    """Publishes until something arrives: when a route holds is the relay's business."""
    number = 0
    before = len(target.accepted)

    async def publish_some() -> None:
        nonlocal number
        while len(target.accepted) == before:
            number += 1
            await publish_all(broker.port, numbered([number], topic))
            await asyncio.sleep(0.05)

    async with asyncio.timeout(LIMIT_SECONDS):
        await publish_some()


async def test_routes_come_change_and_go(tmp_path: Path, broker: Broker, cluster: Cluster, namespace: str) -> None:
    async with (
        serving(Target()) as one,
        serving(Target()) as two,
        world(tmp_path, broker, cluster, namespace) as routes,
    ):
        routes.apply("first", one)
        await routes.resolve("first", "k/1")
        await delivers(broker, one, "k/1")
        routes.apply("second", two)
        await routes.resolve("second", "k/1", "k/2")
        await delivers(broker, two, "k/2")
        await routes.resolve("second", "k/3")
        await delivers(broker, two, "k/3")
        await routes.delete("second")
        routes.apply("first", two)
        await delivers(broker, two, "k/1")


async def test_the_first_delivery_is_reported_and_the_rest_at_a_bounded_rate(
    tmp_path: Path, broker: Broker, cluster: Cluster, namespace: str
) -> None:
    async with serving(Target()) as target, world(tmp_path, broker, cluster, namespace) as routes:
        routes.apply("counted", target)
        await routes.resolve("counted", "k/1")
        await delivers(broker, target, "k/1")
        report = await routes.reported("counted", lambda report: report is not None and report.delivered > 0)
        assert report is not None
        assert report.node == "edge-1"
        assert report.p99_microseconds
        assert report.last_delivered_time
        assert report.insecure
        # Its sources move to another node: the entry of this relay goes.
        await routes.resolve("counted", "k/1", node="edge-2")
        await routes.reported("counted", lambda report: report is None)


async def test_suspended_routes_and_those_of_other_nodes_are_left_alone(
    tmp_path: Path, broker: Broker, cluster: Cluster, namespace: str
) -> None:
    async with (
        serving(Target()) as wanted,
        serving(Target()) as unwanted,
        world(tmp_path, broker, cluster, namespace) as routes,
    ):
        routes.apply("suspended", unwanted, suspend=True)
        await routes.resolve("suspended", "k/1")
        routes.apply("elsewhere", unwanted)
        await routes.resolve("elsewhere", "k/1", node="edge-2")
        routes.apply("wanted", wanted)
        await routes.resolve("wanted", "k/1")
        await delivers(broker, wanted, "k/1")
        assert unwanted.bodies == []


async def test_the_relay_goes_on_without_its_api_server(
    tmp_path: Path, broker: Broker, start_cluster: Callable[..., Cluster]
) -> None:
    own = start_cluster(controllers=False)
    process = RelayProcess(tmp_path, broker.url, kubeconfig=own.service_account_kubeconfig("fluidos", "relay"))
    try:
        async with serving(Target()) as target, await Kube.connect(kubeconfig=own.kubeconfig) as kube:
            routes = Routes(own, kube, "default")
            routes.apply("kept", target)
            await routes.resolve("kept", "k/1")
            await process.ready()
            await delivers(broker, target, "k/1")
            await asyncio.to_thread(own.kill_apiserver)
            process.child.kill()
            process.start()
            await process.ready()
            await publish_all(broker.port, numbered(range(1000, 1100), "k/1"))
            await until(lambda: set(range(1000, 1100)) <= set(target.ids))
    finally:
        process.child.kill()
