"""Every process has the rights that it needs, and none that it does not use."""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from crds.models.fluidos import FLUIDOS_NAMESPACE
from scripts.demo.inventory import NAMESPACE
from scripts.demo.observe import known_clusters
from scripts.demo.site import SENSOR_NODE
from tests.scenario.audit import Request, Right, granted, requests
from tests.scenario.boards import MODEL, board
from tests.scenario.firmware import of_firmware
from tests.scenario.rear import Buyer
from tests.scenario.test_faults import PROCESSES
from tests.scenario.test_kubeedge import of_kubeedge
from tests.scenario.world import FLEET, World

LEASES = f"coordination.k8s.io/v1/namespaces/{FLUIDOS_NAMESPACE}/leases"
RESERVATIONS = f"reservation.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}"
CLAIMS = f"edge.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}/sensorclaims"
LEAVES = f"edge.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}/leafdevices"
NODE = "spare"
MANAGER = "edge-resource-manager"
WISH = {"sensor": {"type": "Temperature", "model": MODEL}, "count": 1}

RACES = {
    Right("router-manager", "", "get", resource, group)
    for resource, group in (("flavors", "nodecore.fluidos.eu"), ("leafdevices", "edge.fluidos.eu"))
}
"""Used where a route is looked at before the first list of its sources has come, which nothing here can force."""


@pytest.mark.timeout(600)
def test_processes_use_every_right_that_they_have_and_need_no_other(world: World) -> None:
    logs = [log for site in (world.consumer, world.provider) if (log := site.cluster.audit_log)]
    sizes = [log.stat().st_size for log in logs]

    def seen() -> list[Request]:
        return [request for log in logs for request in requests(log)]

    begin_anew(world)
    discover(world)
    change_a_claim_while_it_is_looked_at(world, seen)
    be_announced(world)
    buyer = Buyer(
        world.provider.gateway,
        flavor=world.flavors("anemometer-1")[0].name,
        sink=world.consumer.sink,
        files=world.buyer_files,
    )
    sell_once_more(world, buyer)
    refuse_a_contract(world, buyer)
    with world.flow(*FLEET):
        pass  # the relay reports that readings arrive
    share_a_node(world, seen)
    revoke(world)
    forget_a_cluster(world)

    # An API server that has just been killed by another test refuses everybody for a moment.
    made = [request for log, size in zip(logs, sizes, strict=True) for request in requests(log, start=size)]
    refused = {f"{each.account}: {each.verb} {each.uri}" for each in made if each.status == 403}
    assert not refused, "\n".join(["missing rights:", *refused])
    ever = seen()
    here = [right for right in granted() if right not in RACES and not of_kubeedge(right) and not of_firmware(right)]
    unused = [str(right) for right in here if not any(each.uses(right) for each in ever)]
    assert not unused, "\n".join(["rights that nobody used:", *unused])


def begin_anew(world: World) -> None:
    """All processes start where there is no Lease, and again where there is one."""
    for name in PROCESSES:
        world.crew.kill(world.process(name))
    for site in (world.consumer, world.provider):
        for lease in ("edge-resource-manager", "router-manager", "flash-controller"):
            world.delete(site, f"{LEASES}/{lease}")
    for name in PROCESSES:
        world.crew.start_again(world.process(name))
    world.crew.wait_ready(limit=90)
    for name in PROCESSES:
        world.crew.kill(world.process(name))
        world.crew.start_again(world.process(name))
    world.crew.wait_ready(limit=90)


def share_a_node(world: World, seen: Callable[[], list[Request]]) -> None:
    """A relay on another machine, with a broker that it does not reach, takes the Lease of the node and gives it up."""
    site = world.provider
    flags = (*site.account("relay", node=site.node), "--node", site.node, "--broker", "mqtts://127.0.0.1:9")
    state = site.directory / "other-relay"
    child = world.crew.launch(
        "other-relay", "router_manager.relay", *flags, "--state-dir", state, "--lease-seconds", "3"
    )

    def verbs() -> set[str]:
        return {each.verb for each in seen() if each.account == "relay" and each.resource == "leases"}

    try:
        world.wait(lambda: "patch" in verbs(), "the Lease to be renewed")
    finally:
        child.stop()


def revoke(world: World) -> None:
    """A device that no claim has loses its trust, and may prove itself again."""

    def tier() -> str:
        (leaf,) = (each for each in world.leaves() if each["spec"]["source"]["name"] == "thingy-1")
        return str(leaf["status"]["trust"]["tier"])

    world.revoke("thingy-1")
    world.wait(lambda: tier() == "None", "the device to lose its trust")
    world.revoke()
    with world.flow(*FLEET):
        world.wait(lambda: tier() == "Attested", "the device to be trusted again")


def be_announced(world: World) -> None:
    """A cluster announces itself, moves, and falls silent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as announcer:
        announcer.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        announcer.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        for address in ("192.0.2.7:3004", "192.0.2.8:3004"):
            identity = {"domain": "fluidos.eu", "nodeID": "stranger", "ip": address}
            announcer.sendto(json.dumps(identity).encode(), ("239.11.11.1", world.lan.port))
            world.wait(functools.partial(is_known, world, address), f"{address} to be known")


def forget_a_cluster(world: World) -> None:
    """The announced cluster has been silent for its lifetime."""
    world.wait(lambda: known_clusters(world.consumer) == {world.provider.gateway}, "the silent cluster to be forgotten")


def is_known(world: World, address: str) -> bool:
    """Whether the consumer knows a cluster there."""
    return address in known_clusters(world.consumer)


def discover(world: World) -> None:
    """A node and a device come, change, break and go, while the device's readings are bought."""
    device, faster = board("roamer", latency_milliseconds=20), board("roamer", latency_milliseconds=10)

    api = world.provider.cluster.api

    def latencies() -> list[int | None]:
        return [each.view.sensor.latency_microseconds for each in world.flavors("roamer")]

    def leaf() -> dict[str, Any]:
        found = [each for each in world.leaves() if each["spec"]["source"]["name"] == "roamer"]
        return found[0] if found else {"metadata": {}}

    def sources() -> list[str]:
        routes = world.provider.objects("/apis/edge.fluidos.eu/v1alpha1/dataroutes")
        sold = {contract for _, _, contract in world.sold("traveller")}
        return [
            source["flavor"]
            for route in routes
            if route["metadata"]["name"] in sold
            for source in route["status"].get("sources", ())
        ]

    def label(value: str | None) -> None:
        body = {"metadata": {"labels": dict.fromkeys(SENSOR_NODE, value)}}
        api.request("PATCH", f"/api/v1/nodes/{NODE}", body=body, content_type="application/merge-patch+json")

    def minimum_tier(tier: str | None) -> None:
        body = {"metadata": {"labels": {"edge.fluidos.eu/minimum-tier": tier}}}
        path = f"/api/v1/namespaces/{NAMESPACE}"
        api.request("PATCH", path, body=body, content_type="application/merge-patch+json")

    wish = {**WISH, "minimumTier": "None"}
    world.provider.cluster.add_node(NODE, SENSOR_NODE)
    with world.plugged_in(), world.claimed(world.claim("traveller", wish, {"first": "JSONArray"})):
        world.plug_in(device, node=NODE)
        minimum_tier("None")  # no edge agent is there to speak for it
        world.wait(lambda: latencies() == [20_000], "the device's flavor")
        world.wait_bound("traveller")
        elsewhere = world.claim("traveller", wish, {"second": "NDJSON"})
        world.consumer.cluster.apply([elsewhere])
        world.wait(lambda: world.routed("traveller") == world.urls(elsewhere), "the route to the other endpoint")
        world.plug_in(faster, node=NODE)
        world.wait(lambda: latencies() == [10_000], "the flavor to change")
        label(None)
        world.wait(lambda: not latencies(), "the node's sensors to be withdrawn")
        label("true")
        world.wait(lambda: latencies() == [10_000], "the flavor to be back")
        before = leaf()["metadata"]
        world.delete(world.provider, f"{LEAVES}/{before['name']}")
        world.wait(
            lambda: leaf()["metadata"].get("uid") not in (None, before["uid"]), "the LeafDevice to be there again"
        )
        world.wait_bound("traveller")
        # A flavor goes while nobody looks: who routes looks for it after its start.
        away = [world.process(f"provider {each}") for each in ("router-manager", "rear-gateway", MANAGER)]
        for process in away:
            world.crew.kill(process)
        (gone,) = world.flavors("roamer")
        world.delete(world.provider, f"nodecore.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}/flavors/{gone.name}")
        for process in away:
            world.crew.start_again(process)
            world.wait(lambda: process == away[-1] or not sources(), "the route to lose its source")  # noqa: B023
        world.crew.wait_ready(limit=90)
        world.wait_bound("traveller")
        world.unplug(device)
        world.wait(lambda: not world.sold("traveller"), "the contract to be withdrawn")
    minimum_tier(None)
    api.request("DELETE", f"/api/v1/nodes/{NODE}")


def sell_once_more(world: World, buyer: Buyer) -> None:
    """What the gateway wants to store is there under that name already: somebody else's, of long ago."""
    transaction = buyer.reserve()
    assert buyer.reserve() == transaction
    expired = by_hand(world, f"{RESERVATIONS}/transactions/{transaction}")
    expired["spec"]["flavorID"] = "another"
    buyer.release(transaction)
    world.provider.cluster.apply([expired])
    assert buyer.reserve() == transaction

    contract = buyer.purchase(transaction)
    expired = by_hand(world, f"{RESERVATIONS}/contracts/{contract}")
    expired["spec"]["flavor"]["metadata"]["name"] = "another"
    buyer.end(contract)
    world.provider.cluster.apply([expired])
    assert buyer.purchase(buyer.reserve()) == contract
    buyer.end(contract)


def refuse_a_contract(world: World, buyer: Buyer) -> None:
    """A contract that nobody can carry out."""
    contract = buyer.purchase(buyer.reserve())
    unusable = by_hand(world, f"{RESERVATIONS}/contracts/{contract}")
    buyer.end(contract)
    unusable["metadata"]["name"] = "unusable"
    del unusable["spec"]["configuration"]
    world.provider.cluster.apply([unusable])

    def told() -> bool:
        events = world.provider.objects(f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events")
        return any(each["regarding"]["name"] == "unusable" for each in events)

    world.wait(told, "an Event about the contract")
    world.delete(world.provider, f"{RESERVATIONS}/contracts/unusable")


def by_hand(world: World, path: str) -> dict[str, Any]:
    """A copy of one of the gateway's objects as somebody else might have made it, of long ago."""
    obj = world.provider.cluster.api.request("GET", f"/apis/{path}")
    name = obj["metadata"]["name"]
    spec = {**obj["spec"], "expirationTime": "2026-01-01T00:00:00Z"}
    return {**obj, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def change_a_claim_while_it_is_looked_at(world: World, seen: Callable[[], list[Request]]) -> None:
    """Until the manager writes onto a version that is not the newest, and reads the claim again."""
    numbers = count()
    api = world.consumer.cluster.api

    def annotate(number: int) -> None:
        body = {"metadata": {"annotations": {"number": str(number)}}}
        api.request("PATCH", f"/apis/{CLAIMS}/restless", body=body, content_type="application/merge-patch+json")

    def conflict() -> bool:
        urls = {"first": f"{world.consumer.sink}/restless.{next(numbers) % 2}"}
        world.consumer.cluster.apply([world.claim("restless", WISH, {"first": "JSONArray"}, urls=urls)])
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(annotate, range(40)))
        return any(each.verb == "get" and each.resource == "sensorclaims" for each in seen())

    with world.claimed(world.claim("restless", WISH, {"first": "JSONArray"})):
        world.wait(conflict, "a conflict")
