"""Faults in mid-work: what the broker acknowledged arrives, what was there stays, what was asked is done once."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.scenario.boards import board
from tests.scenario.world import FLEET, LIMIT, PRESSURE, World

PROCESSES = (
    "provider edge-resource-manager",
    "provider rear-gateway",
    "provider router-manager",
    "provider relay",
    "provider edge-agent",
    "provider flash-controller",
    "provider identity-issuer",
    "provider helper",
    "consumer edge-resource-manager",
    "consumer identity-issuer",
)
SEED = 20261121


@pytest.mark.parametrize("name", PROCESSES)
def test_a_killed_process_loses_nothing_and_makes_nothing_twice(world: World, name: str) -> None:
    before = world.objects()
    process = world.process(name)
    newcomer, claim = board("newcomer"), world.claim("new", PRESSURE, {"first": "JSONArray"})
    # A device to discover and a claim to bind are under way when it dies.
    with world.flow(*FLEET) as flow, world.plugged_in(newcomer), world.claimed(claim):
        world.crew.kill(process)
        world.wait_taken(flow)
        world.crew.start_again(process)
        world.crew.wait_ready(limit=LIMIT)
        world.wait_bound("new", *FLEET)
        world.wait_flowing("new.first", *flow.targets)
        world.wait(lambda: len(world.flavors("newcomer")) == 1, "the flavor of the new device")
        now = world.objects()
        assert before.items() <= now.items()
        added = [kind.rpartition("/")[2] for kind, _ in now.keys() - before.keys()]
        assert sorted(added) == ["contracts", "dataroutes", "flavors", "leafdevices"]
    copies = world.wait_delivered(flow)
    # Only the relay's own death may show a reading again: posted but not noted, spooled but not acknowledged.
    assert copies <= (3 if name == "provider relay" else 1)
    assert world.objects() == before


@pytest.mark.parametrize("site", ["provider", "consumer"])
def test_an_api_server_that_dies_disturbs_no_reading_and_no_contract(world: World, site: str) -> None:
    before = world.objects()
    cluster = (world.provider if site == "provider" else world.consumer).cluster
    with world.flow(*FLEET) as flow:
        cluster.kill_apiserver()
        world.wait_flowing(*flow.targets)
        cluster.restart_apiserver()
        with world.claimed(world.claim("after", PRESSURE, {"first": "JSONArray"})):
            world.wait_bound("after", *FLEET)
            world.wait_flowing("after.first")
            assert before.items() <= world.objects().items()
    assert world.wait_delivered(flow) == 1
    assert world.objects() == before


def test_a_broker_that_dies_loses_no_more_than_it_had_not_saved(world: World) -> None:
    with world.flow(*FLEET) as flow:
        world.provider.broker.kill()
        world.provider.broker.restart()
        world.wait_flowing(*flow.targets, more=20)
    # The device sends again what was not acknowledged to it, and the broker what was not acknowledged by the relay.
    # And what it acknowledged in the last round of its loop is not saved yet (docs/delivery.md): one reading, or two.
    assert world.wait_delivered(flow, but=2) <= 3


def test_claims_are_bound_once_however_often_buyer_and_gateway_die(world: World) -> None:
    before = world.objects()
    random = Random(SEED)  # noqa: S311 - chooses moments, guards nothing
    names = [f"crowd-{number}" for number in range(10)]
    victims = [world.process("consumer edge-resource-manager"), world.process("provider rear-gateway")]
    asked = [
        PRESSURE,
        {"sensor": {"type": "Humidity", "mcuFamily": "STM32"}, "count": 2},
        {"sensor": {"type": "Temperature"}, "count": 1},
    ]
    crowd = [world.claim(name, asked[number % 3], {"first": "NDJSON"}) for number, name in enumerate(names)]
    with world.claimed(*crowd):
        for _ in range(7):
            time.sleep(random.uniform(0, 2.5))  # any moment may be the wrong one
            victim = random.choice(victims)
            world.crew.kill(victim)
            world.crew.start_again(victim)
        world.wait_bound(*names)
        bought = [(name, each.flavor, each.contract) for name in names for each in world.bindings(name)]
        assert sorted(world.sold(*names)) == sorted(bought)
        assert len({(name, flavor) for name, flavor, _ in bought}) == len(bought)
        assert [len(world.bindings(name)) for name in names] == [1, 2, 1, 1, 2, 1, 1, 2, 1, 1]
    assert world.objects() == before
