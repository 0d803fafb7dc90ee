"""Routes of a device into which firmware is written, and contracts about a device that is not yet what was sold."""

from pathlib import Path
from typing import Any

from crds.egress import EgressPolicy
from crds.kube.client import Kube
from crds.kube.watch import Put
from crds.models.dataroute import DataRoute
from crds.models.fluidos import Contract
from crds.models.repurposing import AGREED
from router_manager.catalog import Catalog
from router_manager.domain.routes import NotRouted, drained, resolve, route_of
from scripts.testbed.cluster import Cluster
from tests.router_manager import samples
from tests.router_manager.test_manager import eventually, ready, start
from tests.router_manager.test_routes import stored, verdict

NOW = "2026-11-21T12:00:00Z"


def leaf(namespace: str, *, flashing: str) -> dict[str, Any]:
    said = {"type": "Flashing", "status": flashing, "reason": "Job", "message": "", "lastTransitionTime": NOW}
    source = {"kind": "KubeEdgeDevice", "apiVersion": "devices.kubeedge.io/v1beta1", "name": "board"}
    return {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "LeafDevice",
        "metadata": {"name": "board-1", "namespace": namespace},
        "spec": {"nodeName": "edge-1", "source": source},
        "status": {"conditions": [said]},
    }


def flavor_of_the_board(namespace: str, *, uid: str = "u-2") -> dict[str, Any]:
    flavor = samples.flavor("f1", namespace=namespace)
    owner = {"apiVersion": "edge.fluidos.eu/v1alpha1", "kind": "LeafDevice", "name": "board-1", "uid": uid}
    flavor["metadata"]["ownerReferences"] = [owner]
    return flavor


def test_a_route_keeps_a_device_that_is_being_flashed_and_says_so() -> None:
    catalog = Catalog()
    catalog.flavor_seen(Put(("ns", "f1"), stored(flavor_of_the_board("ns"))))
    assert catalog.leaf_seen(Put(("ns", "board-1"), stored(leaf("ns", flashing="True")))) == {"f1"}
    assert catalog.leaf_seen(Put(("ns", "board-1"), stored(leaf("ns", flashing="True")))) == frozenset()
    route = DataRoute.parse(samples.route("r", namespace="ns", source={"flavors": ["f1"]}))
    resolution = resolve(route, flavors=catalog.of("ns"), policy=EgressPolicy(), insecure=True)
    during = drained(resolution, catalog.flashed("ns"))
    assert during.sources == resolution.sources != ()
    assert verdict(during, "Ready") == ("False", "Flashing", "firmware is being written into board-1")
    assert verdict(during, "SourcesResolved")[0] == "True"
    assert catalog.leaf_seen(Put(("ns", "board-1"), stored(leaf("ns", flashing="False")))) == {"f1"}
    assert drained(resolution, catalog.flashed("ns")) == resolution


def test_a_contract_is_not_carried_out_before_its_device_is_what_was_sold() -> None:
    flavor = samples.flavor("f1", namespace="ns")
    sold = stored(samples.contract("c", namespace="ns", flavor=flavor))
    sold["metadata"]["annotations"] = {AGREED: "{}"}
    assert route_of(Contract.parse(sold), insecure=True) == NotRouted(why=None)
    del sold["metadata"]["annotations"][AGREED]
    assert isinstance(route_of(Contract.parse(sold), insecure=True), DataRoute)


async def test_the_manager_follows_a_flash(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    board = leaf(namespace, flashing="True")
    path = f"/apis/edge.fluidos.eu/v1alpha1/namespaces/{namespace}/leafdevices/board-1"

    def flashing(status: str) -> None:
        body = {"status": leaf(namespace, flashing=status)["status"]}
        cluster.api.request("PATCH", f"{path}/status", body=body, content_type="application/merge-patch+json")

    cluster.apply([{key: value for key, value in board.items() if key != "status"}])
    uid = cluster.api.request("GET", path)["metadata"]["uid"]
    cluster.apply([flavor_of_the_board(namespace, uid=uid)])
    cluster.apply([samples.route("r", namespace=namespace, source={"flavors": ["f1"]})])
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        with start(cluster, tmp_path):
            await eventually(kube, namespace, "r", ready("True"))
            flashing("True")
            route = await eventually(kube, namespace, "r", ready("False"))
            assert route is not None
            assert route.status is not None
            assert [one.device for one in route.status.sources] == ["board-1"], "the relay keeps its place"
            flashing("False")
            await eventually(kube, namespace, "r", ready("True"))
