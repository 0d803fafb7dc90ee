"""Rules for KubeEdge's router on a real API server: made in order, never changed, one for each topic of a node."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from crds.egress import EgressPolicy
from crds.kube.client import NODES, Kind, Kube
from crds.kube.watch import Put
from crds.models.dataroute import DataRoute
from crds.models.fluidos import Flavor
from crds.models.kubeedge_rules import Rule, RuleEndpoint
from router_manager.domain.kubeedge import RECONNECT
from router_manager.routing import Routing
from router_manager.settings import RouterSettings
from scripts.testbed.api import ApiError
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import Child
from tests.router_manager import samples
from tests.router_manager.test_manager import eventually, ready, start

pytestmark = pytest.mark.control_plane

INLET = "http://192.0.2.5:9444"
BY_KUBEEDGE = {"engine": "KubeEdge", "delivery": "BestEffort"}


@pytest.fixture
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as connected:
        yield connected


@pytest.fixture
def manager(cluster: Cluster, tmp_path: Path) -> Iterator[Child]:
    with start(cluster, tmp_path, "--inlet-url", INLET, "--best-effort-engine", "KubeEdge") as child:
        yield child
        assert "Traceback" not in child.tail()
        assert "is forbidden: User" not in child.log.read_text()


@pytest.fixture
def node(cluster: Cluster) -> str:
    name = f"edge-{uuid4().hex[:8]}"
    cluster.add_node(name)
    return name


def flavor(name: str, *, namespace: str, node: str, topic: str = "") -> dict[str, Any]:
    return samples.flavor(name, namespace=namespace, node=node, topic=topic or f"{namespace}/board/{name}")


def route(name: str, *flavors: str, namespace: str) -> dict[str, Any]:
    return samples.route(name, namespace=namespace, source={"flavors": list(flavors)}, **BY_KUBEEDGE)


async def rules(kube: Kube, namespace: str, holds: Callable[[list[Rule]], Any]) -> list[Rule]:
    found: list[Rule] = []
    for _ in range(300):
        found = await kube.list(Rule, namespace=namespace)
        if holds(found):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"the Rules never became as expected: {found}")


def topics(found: list[Rule]) -> list[str]:
    return sorted(rule.spec.source_resource["topic"] for rule in found)


def says(status: str, reason: str) -> Callable[[DataRoute | None], bool]:
    def holds(found: DataRoute | None) -> bool:
        conditions = found.status.conditions if found and found.status else ()
        return any((one.type, one.status, one.reason) == ("Forwarded", status, reason) for one in conditions)

    return holds


async def test_routes_share_the_rules_of_their_topics_which_go_with_the_last_of_them(
    cluster: Cluster, namespace: str, node: str, manager: Child, kube: Kube
) -> None:
    cluster.apply([flavor(name, namespace=namespace, node=node) for name in ("f1", "f2")])
    cluster.apply([route("one", "f1", namespace=namespace), route("two", "f1", "f2", namespace=namespace)])
    for name in ("one", "two"):
        await eventually(kube, namespace, name, says("True", "Forwarded"))
        await eventually(kube, namespace, name, ready("True"))
    made = await rules(kube, namespace, lambda found: len(found) == 2)
    assert topics(made) == ["board/f1", "board/f2"]
    ends = {end.metadata.name: end for end in await kube.list(RuleEndpoint, namespace=namespace)}
    assert len(ends) == 4
    for rule in made:
        source, target = ends[rule.spec.source], ends[rule.spec.target]
        assert (source.spec.rule_endpoint_type, target.spec.rule_endpoint_type) == ("eventbus", "rest")
        assert all(
            int(end.metadata.resource_version or 0) < int(rule.metadata.resource_version or 0)
            for end in (source, target)
        )
        assert [owner.kind for owner in rule.metadata.owner_references] == ["Flavor"]
        assert rule.spec.source_resource["node_name"] == node
        assert rule.spec.target_resource["resource"].startswith(f"{INLET}/")
        assert rule.metadata.generation == 1
    assert len({rule.spec.target_resource["resource"] for rule in made}) == 2

    before = {rule.metadata.uid for rule in made}
    await kube.delete(DataRoute, "two", namespace=namespace)
    [left] = await rules(kube, namespace, lambda found: topics(found) == ["board/f1"])
    assert left.metadata.uid in before
    await kube.delete(DataRoute, "one", namespace=namespace)
    await rules(kube, namespace, lambda found: not found)
    for _ in range(300):
        if not await kube.list(RuleEndpoint, namespace=namespace):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("RuleEndpoints are left")


async def test_what_somebody_deletes_is_made_anew_with_another_url(
    cluster: Cluster, namespace: str, node: str, manager: Child, kube: Kube
) -> None:
    cluster.apply([flavor("f1", namespace=namespace, node=node), route("one", "f1", namespace=namespace)])
    [first] = await rules(kube, namespace, len)
    await kube.delete(RuleEndpoint, first.spec.target, namespace=namespace)
    [second] = await rules(kube, namespace, lambda found: found and found[0].metadata.uid != first.metadata.uid)
    assert second.metadata.name != first.metadata.name
    assert second.spec.target_resource != first.spec.target_resource
    await kube.delete(Rule, second.metadata.name, namespace=namespace)
    await rules(kube, namespace, lambda found: found and found[0].metadata.uid != second.metadata.uid)


async def test_a_node_that_is_away_is_waited_for(
    cluster: Cluster, namespace: str, node: str, manager: Child, kube: Kube
) -> None:
    cluster.set_node_ready(node, ready=False)
    cluster.apply([flavor("f1", namespace=namespace, node=node), route("one", "f1", namespace=namespace)])
    await eventually(kube, namespace, "one", says("False", "NodeNotReady"))
    await eventually(kube, namespace, "one", ready("False"))
    assert await kube.list(Rule, namespace=namespace) == []
    cluster.set_node_ready(node, ready=True)
    await rules(kube, namespace, len)
    await eventually(kube, namespace, "one", says("True", "Forwarded"))


async def test_a_topic_that_somebodys_rule_has_is_left_alone_until_that_goes(
    cluster: Cluster, namespace: str, node: str, manager: Child, kube: Kube
) -> None:
    by_hand = {
        "apiVersion": "rules.kubeedge.io/v1",
        "kind": "Rule",
        "metadata": {"name": "by-hand", "namespace": namespace},
        "spec": {
            "source": "a",
            "sourceResource": {"topic": "board/f1", "node_name": node},
            "target": "b",
            "targetResource": {"resource": "http://192.0.2.9/"},
        },
    }
    cluster.apply([by_hand, flavor("f1", namespace=namespace, node=node), route("one", "f1", namespace=namespace)])
    await eventually(kube, namespace, "one", says("False", "TopicTaken"))
    assert [rule.metadata.name for rule in await kube.list(Rule, namespace=namespace)] == ["by-hand"]
    await kube.delete(Rule, "by-hand", namespace=namespace)
    await rules(kube, namespace, lambda found: found and found[0].metadata.name != "by-hand")


async def test_a_buyer_who_asks_for_no_promise_is_served_by_kubeedge(
    cluster: Cluster, namespace: str, node: str, manager: Child, kube: Kube
) -> None:
    sold = flavor("f1", namespace=namespace, node=node)
    cluster.apply([sold, samples.contract("kept", namespace=namespace, flavor=sold)])
    cluster.apply([samples.contract("lost", namespace=namespace, flavor=sold, delivery="BestEffort")])
    await eventually(kube, namespace, "lost", says("True", "Forwarded"))
    kept = await eventually(kube, namespace, "kept", ready("True"))
    assert kept is not None
    assert kept.spec.engine == "Relay"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"inlet_url": "10.0.0.5:9444"}, "an absolute http"),
        ({"inlet_url": "mqtt://10.0.0.5"}, r"http\(s\)://host:port"),
        ({"best_effort_engine": "KubeEdge"}, "needs --inlet-url"),
    ],
)
def test_a_wrong_flag_is_told(flags: dict[str, Any], message: str) -> None:
    said: dict[str, Any] = {"_cli_parse_args": False, "insecure": True, **flags}
    with pytest.raises(ValidationError, match=message):
        RouterSettings(**said)


def test_the_api_server_refuses_a_promise_that_the_router_cannot_keep(cluster: Cluster, namespace: str) -> None:
    asked = samples.route("one", namespace=namespace, source={"flavors": ["f1"]}, engine="KubeEdge")
    with pytest.raises(ApiError, match="must have the delivery BestEffort where engine is KubeEdge"):
        cluster.apply([asked])


async def test_killed_in_mid_work_it_leaves_one_rule_for_each_topic(
    cluster: Cluster, namespace: str, node: str, tmp_path: Path, kube: Kube
) -> None:
    names = [f"f{number}" for number in range(20)]
    cluster.apply([flavor(name, namespace=namespace, node=node) for name in names])
    with start(cluster, tmp_path, "--inlet-url", INLET) as first:
        cluster.apply([route("all", *names, namespace=namespace)])
        before = await rules(kube, namespace, len)
        first.kill()
    with start(cluster, tmp_path, "--inlet-url", INLET):
        await eventually(kube, namespace, "all", says("True", "Forwarded"))
        after = await rules(kube, namespace, lambda found: len(found) == 20)
    assert len(set(topics(after))) == 20
    assert {rule.metadata.uid for rule in before} <= {rule.metadata.uid for rule in after}
    assert len(await kube.list(RuleEndpoint, namespace=namespace)) == 40


async def test_a_rule_that_stays_silent_after_its_node_came_back_is_made_anew_once(
    cluster: Cluster, namespace: str, node: str, tmp_path: Path, kube: Kube
) -> None:
    cluster.apply([flavor("f1", namespace=namespace, node=node), route("one", "f1", namespace=namespace)])
    with start(cluster, tmp_path, "--inlet-url", INLET):
        await eventually(kube, namespace, "one", says("True", "Forwarded"))
        [first] = await rules(kube, namespace, len)
    later = datetime.now(UTC) + timedelta(seconds=10)  # the API server keeps whole seconds
    await node_ready_since(kube, node, later)

    async def look(now: datetime, *, relays: list[dict[str, Any]]) -> str | None:
        status = {"relays": relays}
        await kube.apply_status(DataRoute, name="one", namespace=namespace, status=status, manager="relay-cloud-1")
        policy = EgressPolicy.parse()
        routing = Routing(kube, policy=policy, clock=lambda: now, insecure=True, inlet=INLET)
        assert routing.bridge is not None
        for crd, name, seen in (
            (Flavor.crd, "f1", routing.flavor_seen),
            (DataRoute.crd, "one", routing.route_seen),
        ):
            found = await kube.request("GET", Kind.of(crd).path(namespace=namespace, name=name))
            seen(Put((namespace, name), found))
        routing.bridge.node_seen(Put(("", node), await kube.request("GET", NODES.path(name=node))))
        await routing.bridge.reconcile(namespace)
        [rule] = await kube.list(Rule, namespace=namespace)
        return rule.metadata.uid

    silent: dict[str, Any] = {"node": "cloud-1", "silent": ["f1"]}
    assert await look(later, relays=[silent]) == first.metadata.uid
    assert await look(later + RECONNECT, relays=[{"node": "cloud-1"}]) == first.metadata.uid
    anew = await look(later + RECONNECT, relays=[silent])
    assert anew != first.metadata.uid


async def node_ready_since(kube: Kube, node: str, moment: datetime) -> None:
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}
    await kube.request(
        "PATCH",
        NODES.path(name=node, subresource="status"),
        body={"status": {"conditions": [condition]}},
        content_type="application/strategic-merge-patch+json",
    )
