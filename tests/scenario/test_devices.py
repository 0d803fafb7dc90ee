"""Devices that go and come back: a claim takes the next that fits, or says what it waits for."""

from __future__ import annotations

from scripts.demo.observe import claims
from tests.scenario.boards import MODEL, board
from tests.scenario.world import FLEET, World, condition


def test_a_claim_follows_devices_that_go_and_come_back(world: World) -> None:
    fast, slow = board("fast", latency_milliseconds=10), board("slow", latency_milliseconds=40)
    wish = {"sensor": {"type": "Temperature", "model": MODEL}, "limits": {"latencyMicroseconds": {"lessThan": 50_000}}}
    claim = world.claim("wanderer", {**wish, "count": 1}, {"first": "JSONArray"})

    def devices() -> list[str]:
        """Of the flavors that are bought."""
        names = {offer.name: offer.device for each in (fast, slow) for offer in world.flavors(each.name)}
        return [names.get(each.flavor, "gone") for each in world.bindings("wanderer") if each.contract]

    with world.plugged_in(fast, slow):
        world.wait(lambda: all(world.flavors(each.name) for each in (fast, slow)), "flavors of both devices")
        with world.flow(*FLEET) as flow, world.claimed(claim):
            world.wait(lambda: devices() == ["fast"], "the better device to be bound")
            world.wait_flowing("wanderer.first")

            world.unplug(fast)
            world.wait(lambda: devices() == ["slow"], "the other device to be bound")
            world.wait_flowing("wanderer.first")

            world.unplug(slow)
            world.wait(lambda: "came closest" in _bound(world)[2], "the claim to say what it waits for")
            assert _bound(world)[:2] == ("False", "NoMatch")

            world.plug_in(fast)
            world.wait(lambda: devices() == ["fast"], "the device to be bound again")
            world.wait_flowing("wanderer.first")
    assert world.wait_delivered(flow) == 1


def _bound(world: World) -> tuple[str, str, str]:
    return condition(claims(world.consumer)["wanderer"], "Bound")
