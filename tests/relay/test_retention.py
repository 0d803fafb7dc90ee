"""What a dead target may hold back, and that no other route suffers for it."""

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from crds.models.retention import Retention
from router_manager.domain.table import LaneKey, Route
from router_manager.relay.reporter import compose
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


@pytest.mark.broker
async def test_damage_costs_what_it_hit_and_is_told_of_the_routes_that_it_may_have_hit(
    tmp_path: Path, broker: Broker
) -> None:
    state = tmp_path / "state"
    async with serving(Target(always=DOWN)) as target:
        one = route(endpoint(target), uid="dead")
        async with relay(state, broker.port, segment_bytes=1000) as running:
            await serve(running, one)
            for start in range(0, 300, 50):
                await publish_all(broker.port, numbered(range(start, start + 50)))
            await until(lambda: running.spool.head == 301)
        spoilt = sorted(state.glob("spool/*.log"))[1]
        data = spoilt.read_bytes()
        spoilt.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        (position,) = state.glob("positions/*")
        position.write_bytes(b"nonsense")
        target.always = None
        async with relay(state, broker.port, segment_bytes=1000) as running:
            await until(lambda: 299 in target.ids)
            (lost,) = set(range(300)) - set(target.ids)
            assert target.ids == [number for number in range(300) if number != lost]
            report = compose(list(running.pumps.values()), node="edge-1", insecure=True, trouble="", now=0.0, sent=None)
            assert report.message == "1 places of the spool could not be read"
            assert (running.spool.damaged, running.damaged_positions) == (1, 1)


@pytest.mark.broker
async def test_what_cannot_be_saved_now_is_saved_later(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with serving(Target()) as target, relay(tmp_path / "state", broker.port) as running:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            patch.setattr(os, "fdatasync", full)
            patch.setattr(os, "pwrite", full)
            await serve(running, route(endpoint(target)))
            assert not (tmp_path / "state/table.json").exists()
        await until((tmp_path / "state/table.json").exists)
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: target.ids == list(range(10)))
