"""Endpoints that misbehave, and routes that people write: nobody else notices, and nothing is lost."""

from __future__ import annotations

from typing import Any

from scripts.demo.inventory import NAMESPACE
from scripts.demo.observe import SinkClient
from scripts.demo.site import ENDPOINT
from scripts.sink.record import Fault
from scripts.testbed.processes import free_port
from tests.scenario.world import FLEET, PRESSURE, World

FAULTS = {
    "error": Fault(status=500),
    "large": Fault(status=413, over_records=1),
    "busy": Fault(status=429, retry_after="1"),
    "slow": Fault(delay_seconds=1.0),
    "stuck": Fault(hang=True),
}
TAKE_SOME = {"large", "slow"}
DOWN = "down"
ROUTE = f"edge.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}/dataroutes/by-hand"


def route(world: World, flavor: str, *targets: str) -> dict[str, Any]:
    return {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "DataRoute",
        "metadata": {"name": "by-hand", "namespace": NAMESPACE},
        "spec": {
            "source": {"flavors": [flavor]},
            "targets": [
                {
                    "name": target,
                    "url": f"{world.consumer.sink}/by-hand.{target}",
                    "spiffeID": f"spiffe://{world.trust_domain}/endpoint/{NAMESPACE}/{ENDPOINT}",
                }
                for target in targets
            ],
        },
    }


def test_an_endpoint_that_misbehaves_delays_no_other_and_gets_everything_later(world: World) -> None:
    late, late_port = SinkClient(free_port()), free_port()
    endpoints = dict.fromkeys(("good", *FAULTS, DOWN), "JSONArray")
    claim = world.claim("mixed", PRESSURE, endpoints, urls={DOWN: f"https://127.0.0.1:{late_port}/mixed.{DOWN}"})
    for name, fault in FAULTS.items():
        world.sink.set_fault(f"mixed.{name}", fault)
    with world.claimed(claim):
        world.wait_bound("mixed")
        topics = world.topics("mixed")
        # The same sensor, of another endpoint of the claim and of other claims.
        healthy = ("mixed.good", "pressure.first", "pressure-shared.first")
        with world.flow(targets=dict.fromkeys(healthy, topics)) as flow:
            world.wait_taken(flow, more=150)
        assert world.wait_delivered(flow) == 1
        assert not any(world.arrived(f"mixed.{name}") for name in FAULTS.keys() - TAKE_SOME)

        for name in FAULTS:
            world.sink.set_fault(f"mixed.{name}", Fault())
        world.start_sink("late-sink", late, tls_port=late_port)
        owed = flow.owed("mixed.good")
        for name in FAULTS:
            world.wait_arrived(f"mixed.{name}", owed)
        world.wait_arrived(f"mixed.{DOWN}", owed, sink=late)
    world.crew.kill("late-sink")


def test_a_route_by_hand_works_at_once_and_disturbs_no_other(world: World) -> None:
    flavor = world.flavors("anemometer-1")[0].name
    fleet = "humidity.first"
    with world.flow(*FLEET) as flow:
        world.provider.cluster.apply([route(world, flavor, "kept", "old")])
        try:
            world.wait_flowing("by-hand.kept", "by-hand.old")
            world.provider.cluster.apply([route(world, flavor, "kept", "new")])
            world.wait_flowing("by-hand.kept", "by-hand.new")
            world.wait_silent("by-hand.old", clock="by-hand.new")
        finally:
            world.delete(world.provider, ROUTE)
        world.wait_silent("by-hand.kept", clock=fleet)
        world.wait_silent("by-hand.new", clock=fleet)
    assert world.wait_delivered(flow) == 1
    assert max(world.arrived("by-hand.kept").values()) == 1


def test_a_route_of_a_contract_that_is_deleted_by_hand_is_made_again(world: World) -> None:
    with world.claimed(world.claim("stubborn", PRESSURE, {"first": "JSONArray"})), world.flow(*FLEET) as flow:
        world.wait_bound("stubborn")
        world.wait_flowing("stubborn.first")
        ((_, _, contract),) = world.sold("stubborn")
        before = world.objects()
        world.delete(world.provider, ROUTE.replace("by-hand", contract))
        kind = ("edge.fluidos.eu/v1alpha1/dataroutes", contract)
        world.wait(lambda: world.objects().get(kind) not in (None, before[kind]), "the route to be made again")
        world.wait_flowing("stubborn.first")
        now = world.objects()
        assert {key: uid for key, uid in now.items() if key != kind} == {k: v for k, v in before.items() if k != kind}
    assert world.wait_delivered(flow) == 1
