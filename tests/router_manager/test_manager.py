"""The manager of routes, as its own process under its own account, against a real API server."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crds.egress import EgressPolicy
from crds.kube.client import Kind, Kube
from crds.kube.watch import Put
from crds.models.dataroute import DataRoute
from crds.models.fluidos import Contract
from router_manager.routing import Routing
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import Child
from tests.router_manager import samples

REPOSITORY = Path(__file__).resolve().parents[2]


def start(cluster: Cluster, directory: Path, *flags: str) -> Child:
    kubeconfig = cluster.service_account_kubeconfig("fluidos", "router-manager")
    command: list[str | Path] = [sys.executable, "-m", "router_manager"]
    command += ["--kubeconfig", kubeconfig, "--identity", "test", "--insecure", *flags]
    return Child(name="router-manager", command=command, directory=REPOSITORY, logs=directory)


@pytest.fixture
def manager(cluster: Cluster, tmp_path: Path) -> Iterator[Child]:
    with start(cluster, tmp_path) as child:
        yield child
        assert "Traceback" not in child.tail()
        # The authorizer's words: the end of another test's namespace is a 403 as well.
        assert "is forbidden: User" not in child.log.read_text()


@pytest.fixture
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as connected:
        yield connected


async def eventually(
    kube: Kube, namespace: str, name: str, holds: Callable[[DataRoute | None], Any]
) -> DataRoute | None:
    """The route as soon as it is as asked; the last one seen is in the failure."""
    found = None
    for _ in range(300):
        found = await kube.get(DataRoute, name, namespace=namespace)
        if holds(found):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"route {name} never became as expected: {found}")


def ready(status: str) -> Callable[[DataRoute | None], bool]:
    def holds(route: DataRoute | None) -> bool:
        conditions = route.status.conditions if route and route.status else ()
        return any(one.type == "Ready" and one.status == status for one in conditions)

    return holds


async def test_a_contract_is_carried_out_and_ended(
    cluster: Cluster, namespace: str, manager: Child, kube: Kube
) -> None:
    flavor = samples.flavor("f1", namespace=namespace)
    cluster.apply([flavor, samples.contract("contract-1", namespace=namespace, flavor=flavor)])
    route = await eventually(kube, namespace, "contract-1", ready("True"))
    assert route is not None
    assert route.status is not None
    assert [one.topic for one in route.status.sources] == ["sensor/f1"]

    # What the buyer changes in the contract is followed; what a person changes in its route is put back.
    changed = samples.contract("contract-1", namespace=namespace, flavor=flavor, url="http://192.0.2.8/other")
    cluster.apply([changed])
    await eventually(
        kube, namespace, "contract-1", lambda found: found and found.spec.targets[0].location.endswith("/other")
    )
    by_hand = {"spec": {"targets": [{"name": "mine", "url": "http://192.0.2.9/mine"}]}}
    await kube.patch(DataRoute, "contract-1", namespace=namespace, body=by_hand, manager="kubectl")
    await eventually(kube, namespace, "contract-1", lambda found: found and (found.metadata.generation or 0) >= 4)
    await eventually(
        kube, namespace, "contract-1", lambda found: found and found.spec.targets[0].location.endswith("/other")
    )
    await kube.delete(DataRoute, "contract-1", namespace=namespace)
    again = await eventually(
        kube, namespace, "contract-1", lambda found: found and found.metadata.uid != route.metadata.uid
    )
    assert again is not None

    cluster.api.request("DELETE", f"/apis/reservation.fluidos.eu/v1alpha1/namespaces/{namespace}/contracts/contract-1")
    await eventually(kube, namespace, "contract-1", lambda found: found is None)


async def test_where_identities_begin_the_routes_of_buyers_who_proved_nothing_end(
    cluster: Cluster, namespace: str, manager: Child, kube: Kube
) -> None:
    flavor = samples.flavor("f1", namespace=namespace)
    cluster.apply([flavor, samples.contract("contract-1", namespace=namespace, flavor=flavor)])
    await eventually(kube, namespace, "contract-1", ready("True"))
    manager.stop()
    key = (namespace, "contract-1")
    routing = Routing(kube, policy=EgressPolicy.parse(), clock=lambda: datetime.now(UTC))
    for crd, seen in ((DataRoute.crd, routing.route_seen), (Contract.crd, routing.contract_seen)):
        seen(Put(key, await kube.request("GET", Kind.of(crd).path(namespace=namespace, name="contract-1"))))
    await routing.reconcile_contract(key)
    assert await kube.get(DataRoute, "contract-1", namespace=namespace) is None


async def test_a_route_by_hand_follows_flavors_that_come_and_go(
    cluster: Cluster, namespace: str, manager: Child, kube: Kube
) -> None:
    selector = 'device.attributes["sensor.fluidos.eu"].measuresHumidity'
    cluster.apply([samples.route("by-hand", namespace=namespace, source={"selector": selector})])
    await eventually(kube, namespace, "by-hand", ready("False"))
    cluster.apply([samples.flavor("f1", namespace=namespace)])
    await eventually(kube, namespace, "by-hand", ready("True"))
    cluster.api.request("DELETE", f"/apis/nodecore.fluidos.eu/v1alpha1/namespaces/{namespace}/flavors/f1")
    await eventually(kube, namespace, "by-hand", ready("False"))


async def test_killed_in_mid_work_and_restarted_it_makes_each_route_once(
    cluster: Cluster, namespace: str, tmp_path: Path, kube: Kube
) -> None:
    flavor = samples.flavor("f1", namespace=namespace)
    with start(cluster, tmp_path) as first:
        cluster.apply([flavor, samples.contract("contract-0", namespace=namespace, flavor=flavor)])
        await eventually(kube, namespace, "contract-0", lambda found: found)
        cluster.apply([samples.contract(f"contract-{n}", namespace=namespace, flavor=flavor) for n in range(1, 20)])
        first.kill()
    before = {one.metadata.name: one.metadata.uid for one in await kube.list(DataRoute, namespace=namespace)}
    with start(cluster, tmp_path):
        for n in range(20):
            await eventually(kube, namespace, f"contract-{n}", ready("True"))
        after = {one.metadata.name: one.metadata.uid for one in await kube.list(DataRoute, namespace=namespace)}
    assert len(after) == 20
    assert before.items() <= after.items()


async def test_a_flavor_that_was_not_seen_yet_stays_a_source_until_it_is_gone(
    cluster: Cluster, namespace: str, tmp_path: Path, kube: Kube
) -> None:
    cluster.apply([samples.flavor("f1", namespace=namespace)])
    cluster.apply([samples.route("by-hand", namespace=namespace, source={"flavors": ["f1"]})])
    with start(cluster, tmp_path):
        await eventually(kube, namespace, "by-hand", ready("True"))
    path = Kind.of(DataRoute.crd).path(namespace=namespace, name="by-hand")
    key = (namespace, "by-hand")
    # The next life hears of the route first.
    routing = Routing(kube, policy=EgressPolicy.parse(), clock=lambda: datetime.now(UTC), insecure=True)
    routing.route_seen(Put(key, await kube.request("GET", path)))
    await routing.reconcile_route(key)
    route = await kube.get(DataRoute, "by-hand", namespace=namespace)
    assert route is not None
    assert route.status is not None
    assert [source.flavor for source in route.status.sources] == ["f1"]

    cluster.api.request("DELETE", f"/apis/nodecore.fluidos.eu/v1alpha1/namespaces/{namespace}/flavors/f1")
    routing = Routing(kube, policy=EgressPolicy.parse(), clock=lambda: datetime.now(UTC), insecure=True)
    routing.route_seen(Put(key, await kube.request("GET", path)))
    await routing.reconcile_route(key)
    await eventually(kube, namespace, "by-hand", ready("False"))
