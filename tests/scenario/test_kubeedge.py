"""Claims that ask for no promise are served by KubeEdge's router: by a stand-in that behaves, and loses, as it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

from scripts.demo.crew import Crew
from scripts.demo.inventory import NAMESPACE, device, device_model
from scripts.demo.observe import SinkClient, claims, offers
from scripts.demo.site import LOOPBACK, Consumer, Provider
from scripts.testbed.controlplane import ControlPlanes
from scripts.testbed.processes import free_port
from tests.relay.support import publish_all
from tests.scenario.audit import Right, granted, requests
from tests.scenario.boards import MODEL, board
from tests.scenario.world import LIMIT, condition

Document = dict[str, Any]
QPS, BURST = 30, 60
ROUTES = f"/apis/edge.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}/dataroutes"
RULES = f"/apis/rules.kubeedge.io/v1/namespaces/{NAMESPACE}/rules"
WISH = {"sensor": {"type": "Temperature", "model": MODEL}, "count": 1, "delivery": "BestEffort"}


class Site:
    """A consumer, and a provider whose node has KubeEdge in place of a relay; nobody proves who he is."""

    def __init__(self, planes: ControlPlanes, *, directory: Path, stack: ExitStack) -> None:
        self.crew = Crew(directory)
        clusters = planes.start_clusters(["kubeedge-consumer", "kubeedge-provider"], audit=True)
        for cluster in clusters:
            stack.callback(cluster.kill)
        self.consumer = Consumer(clusters[0], 1, directory=directory, insecure=True)
        self.provider = Provider(clusters[1], 1, directory=directory)
        self.sink = SinkClient(self.consumer.sink_port)
        self._stack = stack
        self._numbers = count(1)

    def start(self) -> None:
        """Everything, until the device has its flavor."""
        consumer, provider, allow = self.consumer, self.provider, ("--egress-allow", LOOPBACK)
        for site in (consumer, provider):
            site.prepare()
        provider.open_broker(self._stack)
        self._stack.callback(self.crew.stop)
        inlet = f"127.0.0.1:{free_port()}"
        provider.start_manager(self.crew, "edge_resource_manager")
        by_kubeedge = ("--inlet-url", f"http://{inlet}", "--best-effort-engine", "KubeEdge")
        provider.start_manager(self.crew, "router_manager", *allow, *by_kubeedge)
        gateway = ("--listen", provider.gateway, *allow)
        self.crew.start_probed("gateway", "edge_resource_manager.gateway", *provider.account("rear-gateway"), *gateway)
        relay = ("--node", "cloud-1", "--inlet", inlet, "--state-dir", provider.directory / "relay", *allow)
        self.crew.start_probed("relay", "router_manager.relay", *provider.account("kubeedge-relay"), *relay)
        edge = ("--node", provider.node, "--broker", provider.broker.url, "--qps", str(QPS), "--burst", str(BURST))
        cloud = ("--kubeconfig", provider.cluster.kubeconfig)
        self.crew.start("kubeedge", "scripts.testbed.kubeedge_router", *cloud, *edge)
        consumer.start(self.crew, discover=None)
        consumer.know([provider])
        self.crew.wait_ready(limit=LIMIT)
        thermometer = device(board("thermometer"), number=1, node=provider.node, version=provider.version)
        thermometer["metadata"]["annotations"]["edge.fluidos.eu/topics"] = "Namespaced"
        provider.cluster.apply([device_model(provider.version), thermometer])
        self.wait(lambda: len(offers(provider)) == 1, "the flavor")

    @property
    def topic(self) -> str:
        """Where the device publishes."""
        return offers(self.provider)[0].view.sensor.access.topic

    def wait(self, reached: Any, what: str) -> None:
        """Until `reached()`."""
        self.crew.wait(reached, what=what, limit=LIMIT, known=lambda: self.crew.tail("relay"))

    def publish(self, amount: int) -> list[int]:
        """So many readings; their numbers."""
        numbers = [next(self._numbers) for _ in range(amount)]
        readings = [(self.topic, orjson.dumps({"id": str(number), "number": number})) for number in numbers]
        asyncio.run(publish_all(self.provider.broker.port, readings))
        return numbers

    def arrived(self, endpoint: str) -> set[int]:
        """Numbers that one endpoint of the sink has."""
        return {int(each) for each in self.sink.received(endpoint).arrivals}

    def flows(self, *endpoints: str) -> None:
        """Publish until something arrives: when the edge has subscribed nobody can see."""
        before = {endpoint: self.arrived(endpoint) for endpoint in endpoints}

        def flowing() -> bool:
            self.publish(1)
            return all(self.arrived(endpoint) > before[endpoint] for endpoint in endpoints)

        self.wait(flowing, f"readings at {', '.join(endpoints)}")

    def rules(self) -> list[Document]:
        """Those of the provider."""
        return self.provider.objects(RULES)

    def report(self, route: str) -> Document:
        """What the relay says of a route."""
        found = self.provider.cluster.api.request("GET", f"{ROUTES}/{route}")
        return next(iter(found["status"].get("relays", ())), {})

    def endpoint(self, name: str) -> Document:
        """One of the sink's."""
        return {"name": name.partition(".")[2], "url": f"{self.consumer.sink}/{name}"}

    def claim(self, name: str, *endpoints: str) -> Document:
        """A SensorClaim that asks for no promise."""
        return {
            "apiVersion": "edge.fluidos.eu/v1alpha1",
            "kind": "SensorClaim",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {**WISH, "endpoints": [self.endpoint(f"{name}.{each}") for each in endpoints]},
        }

    def route(self, name: str) -> Document:
        """A DataRoute by hand, whose losses are counted."""
        spec = {
            "source": {"flavors": [offers(self.provider)[0].name]},
            "targets": [self.endpoint(f"{name}.only")],
            "engine": "KubeEdge",
            "delivery": "BestEffort",
            "sequence": "/number",
        }
        metadata = {"name": name, "namespace": NAMESPACE}
        return {"apiVersion": "edge.fluidos.eu/v1alpha1", "kind": "DataRoute", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def site(control_planes: ControlPlanes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        made = Site(control_planes, directory=tmp_path_factory.mktemp("kubeedge"), stack=stack)
        made.start()
        yield made


@pytest.fixture
def counted(site: Site) -> Iterator[str]:
    """The endpoint of a route by hand, at which readings arrive."""
    route = f"counted-{uuid4().hex[:8]}"
    site.provider.cluster.apply([site.route(route)])
    site.flows(f"{route}.only")
    yield f"{route}.only"
    site.provider.cluster.api.request("DELETE", f"{ROUTES}/{route}")
    site.wait(lambda: not site.rules(), "the Rule to go")


def test_claims_and_routes_share_one_rule_and_get_what_keeps_to_the_rate(site: Site, counted: str) -> None:
    site.consumer.cluster.apply([site.claim("temperature", "first", "second"), site.claim("shared", "first")])
    names, endpoints = ("temperature", "shared"), ("temperature.first", "temperature.second", "shared.first")

    def bound() -> bool:
        known = claims(site.consumer)
        return all(condition(known[name], "Bound")[0] == "True" for name in names)

    site.wait(bound, "the claims to be bound")
    site.flows(*endpoints, counted)
    engines = {route["spec"]["engine"] for route in site.provider.objects(ROUTES)}
    assert engines == {"KubeEdge"}
    assert len(site.rules()) == 1
    owed: set[int] = set()
    for _ in range(5):
        owed.update(site.publish(20))
        site.wait(lambda: all(owed <= site.arrived(each) for each in (*endpoints, counted)), "all readings")
    assert max(each.copies for each in site.sink.received("temperature.first").arrivals.values()) == 1
    for name in names:
        path = f"/apis/edge.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}/sensorclaims/{name}"
        site.consumer.cluster.api.request("DELETE", path)
    site.wait(lambda: len(site.provider.objects(ROUTES)) == 1, "the routes of the claims to go")
    assert len(site.rules()) == 1


def test_what_is_lost_while_the_router_is_away_is_counted(site: Site, counted: str) -> None:
    owed = site.publish(30)
    site.wait(lambda: set(owed) <= site.arrived(counted), "what was published before")
    site.crew.kill("kubeedge")
    lost = set(site.publish(50))
    site.crew.start_again("kubeedge")
    site.flows(counted)
    arrived = site.arrived(counted)
    assert not lost & arrived, "nobody kept them"
    route = counted.removesuffix(".only")
    site.wait(lambda: missing(site, counted) == site.report(route).get("missing"), "the losses to be reported")
    assert missing(site, counted) >= len(lost)


def missing(site: Site, endpoint: str) -> int:
    """Between the first and the last reading that arrived."""
    came = site.arrived(endpoint)
    return max(came) - min(came) + 1 - len(came)


def test_what_is_over_the_nodes_rate_comes_late(site: Site, counted: str) -> None:
    began = time.monotonic()
    owed = set(site.publish(200))
    site.wait(lambda: owed <= site.arrived(counted), "the backlog")
    assert time.monotonic() - began > (200 - BURST - QPS) / QPS


def test_a_relay_that_is_killed_goes_on_with_its_doors(site: Site, counted: str) -> None:
    before = [rule["metadata"]["uid"] for rule in site.rules()]
    site.crew.kill("relay")
    site.crew.start_again("relay")
    site.crew.wait_ready(limit=LIMIT)
    site.flows(counted)
    assert [rule["metadata"]["uid"] for rule in site.rules()] == before


def test_the_accounts_of_kubeedges_side_need_their_rights_and_no_others(site: Site) -> None:
    site.provider.cluster.apply([site.route("rights")])
    site.flows("rights.only")
    site.wait(lambda: "delivered" in site.report("rights"), "a report")
    site.provider.cluster.api.request("DELETE", f"{ROUTES}/rights")
    site.wait(lambda: not site.rules(), "the Rule to go")
    assert site.provider.cluster.audit_log is not None
    made = list(requests(site.provider.cluster.audit_log))
    refused = {f"{each.account}: {each.verb} {each.uri}" for each in made if each.status == 403}
    assert not refused, "\n".join(["missing rights:", *refused])
    unused = [str(right) for right in granted() if of_kubeedge(right) and not any(each.uses(right) for each in made)]
    assert not unused, "\n".join(["rights that nobody used:", *unused])


def of_kubeedge(right: Right) -> bool:
    """Whether it is for those alone who have KubeEdge's router."""
    forwards = right.account == "router-manager" and right.resource in {"rules", "ruleendpoints", "nodes"}
    return right.account == "kubeedge-relay" or forwards
