"""What was promised is measured: a device whose link becomes slow loses the claim to one that keeps the promise."""

from __future__ import annotations

from collections.abc import Iterable

from scripts.demo.observe import claims
from tests.scenario.boards import MODEL, board
from tests.scenario.rear import Buyer
from tests.scenario.world import World, condition

CLAIM, TARGET = "promised", "promised.first"
LATE_MILLISECONDS = 60_000
WISH = {
    "sensor": {"type": "Temperature", "model": MODEL},
    # Wide enough for the busiest machine.
    "limits": {"latencyMicroseconds": {"lessThan": 30_000_000}},
    "count": 1,
    "onBreach": "Rebind",
}


def test_a_claim_leaves_a_device_that_has_become_slow_and_loses_nothing(world: World) -> None:
    devices = ("steady-1", "steady-2")
    claim = world.claim(CLAIM, WISH, {"first": "JSONArray"})
    with world.plugged_in(*(board(name, dated=True) for name in devices)):
        world.wait(lambda: all(world.flavors(name) for name in devices), "the flavors of both")
        flavors = {world.flavors(name)[0].name: name for name in devices}
        with world.claimed(claim):
            world.wait_bound(CLAIM)
            (bound,) = world.bindings(CLAIM)
            slow = flavors.pop(bound.flavor)
            ((substitute, quick),) = flavors.items()
            buyer = Buyer(
                world.provider.gateway, flavor=bound.flavor, sink=world.consumer.sink, files=world.buyer_files
            )
            with world.flow(late={slow: LATE_MILLISECONDS}) as flow:
                world.wait(lambda: buyer.observed() >= LATE_MILLISECONDS * 1000, "the slowness to be observed")
                world.wait(
                    lambda: [each.flavor for each in world.bindings(CLAIM)] == [substitute],
                    "the claim to be with the other device alone",
                    known=lambda: str(promise(world)),
                )
                assert [flavor for _, flavor, _ in world.sold(CLAIM)] == [substitute]
                world.wait(lambda: promise(world)[0] == "True", "the promise to be kept")
            (bound,) = world.bindings(CLAIM)
            assert bound.measured is not None
            assert bound.measured.p99_microseconds
            (topic,) = world.topics(CLAIM)
            taken = numbers(flow.taken()[topic], quick)
            first = min(numbers(world.arrived(TARGET), quick))
            world.wait(
                lambda: {each for each in taken if each >= first} <= numbers(world.arrived(TARGET), quick),
                "all readings of the other device",
            )
            old = numbers(world.arrived(TARGET), slow)
            assert old == set(range(min(old), max(old) + 1))


def promise(world: World) -> tuple[str, str, str]:
    """What the claim says of it."""
    return condition(claims(world.consumer)[CLAIM], "PromiseKept")


def numbers(readings: Iterable[str], device: str) -> set[int]:
    """Of the readings of one device, whose ids are `<device>-<number>`."""
    found = (each.rpartition("-") for each in readings)
    return {int(number) for name, _, number in found if name == device}
