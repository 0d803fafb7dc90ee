"""What a dead target may hold back, and that no other route suffers for it."""

from functools import partial
from pathlib import Path

import pytest

from crds.models.retention import Retention, bounded
from router_manager.domain.table import LaneKey, Route
from router_manager.relay.retention import Keeper
from router_manager.relay.spool import Spool
from scripts.testbed.broker import Broker
from tests.relay.support import Target, endpoint, numbered, publish_all, relay, route, serve, serving, status, until
from tests.relay.test_spool import append

DEAD = LaneKey("dead", "target")
DROP = Retention(when_full="DropOldest")
DOWN = status(503, Retry_After="3600")
"""Longer than any test: what is given up is not waited for."""


def kept(how: Retention, one: Route) -> Route:
    return one.model_copy(update={"retention": how})


def arrived(target: Target, total: int) -> bool:
    return len(target.accepted) >= total


async def flood(broker: Broker, alive: Target, *, start: int, stop: int) -> None:
    """A hundred at a time, so that the spool cannot be full before anybody looks."""
    for first in range(start, stop, 100):
        await publish_all(broker.port, numbered(range(first, first + 100)))
        await until(partial(arrived, alive, first + 100))


@pytest.mark.broker
async def test_a_dead_target_of_a_route_that_may_lose_readings_stops_nobody(tmp_path: Path, broker: Broker) -> None:
    async with (
        serving(Target()) as alive,
        serving(Target(always=DOWN)) as dead,
        relay(tmp_path / "state", broker.port, spool_bytes=60_000, segment_bytes=5_000) as running,
    ):
        await serve(
            running,
            route(endpoint(alive)),
            kept(DROP, route(endpoint(dead), uid="dead")),
        )
        await flood(broker, alive, start=0, stop=4000)  # four times what the spool holds
        assert alive.ids == list(range(4000))
        pump = running.pumps[DEAD]
        dead.always = None
        running.apply(
            running.table.model_copy(
                update={"routes": tuple(kept(Retention(when_full="Wait"), one) for one in running.table.routes)}
            )
        )
        await until(lambda: dead.ids[-1:] == [3999])
        expired = pump.statistics.expired
        assert expired > 2000
        assert dead.ids == list(range(expired, 4000)), "the oldest went, and all that went were counted"


@pytest.mark.broker
async def test_readings_that_are_too_old_are_not_delivered(tmp_path: Path, broker: Broker) -> None:
    async with (
        serving(Target(always=DOWN)) as dead,
        relay(tmp_path / "state", broker.port, segment_bytes=1000) as running,
    ):
        await serve(running, kept(Retention(max_age_seconds=1), route(endpoint(dead), uid="dead")))
        await publish_all(broker.port, numbered(range(200)))
        pump = running.pumps[DEAD]
        await until(lambda: pump.statistics.expired == 200)
        await until(lambda: pump.lane.position == running.spool.head == 201)
        await until(lambda: len(list((tmp_path / "state/spool").glob("*.log"))) == 1, what="the disk to be given back")
        assert (pump.statistics.delivered, dead.accepted) == (0, [])
        assert len(dead.bodies) == 1, "a target that said when is not asked before"


async def test_the_age_of_readings_is_not_that_of_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Retention(max_age_seconds=60)
    spool = Spool.open(tmp_path)
    keeper = Keeper(spool, lane_share=0.5, now=1000.0)
    await append(spool, b"1")
    keeper.look(now=1001.0)
    monkeypatch.setattr("time.time", lambda: 9e9)
    monkeypatch.setattr("time.time_ns", lambda: 9 * 10**18)
    keeper.look(now=1060.0)
    assert keeper.floor(wish) <= 1
    keeper.look(now=1061.5)
    assert keeper.floor(wish) == 2
    spool.close()


@pytest.mark.parametrize(
    ("wish", "bounds", "got"),
    [
        (None, None, None),
        (None, Retention(max_age_seconds=9), Retention(max_age_seconds=9)),
        (Retention(max_age_seconds=5), None, Retention(max_age_seconds=5)),
        (Retention(max_age_seconds=5), Retention(max_age_seconds=9), Retention(max_age_seconds=5)),
        (DROP, Retention(max_age_seconds=9), Retention(when_full="DropOldest", max_age_seconds=9)),
        (Retention(), DROP, DROP),
    ],
)
def test_a_buyer_gets_no_more_patience_than_its_provider_has(
    wish: Retention | None, bounds: Retention | None, got: Retention | None
) -> None:
    assert bounded(wish, bounds=bounds) == got
