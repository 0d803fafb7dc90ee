"""Routes, targets and sources that change, come and go while readings flow."""

import asyncio
from pathlib import Path

import pytest

from router_manager.domain.table import LaneKey, Table
from scripts.testbed.broker import Broker
from tests.relay.support import (
    Target,
    endpoint,
    numbered,
    publish_all,
    relay,
    route,
    serve,
    serving,
    session_of,
    status,
    table,
    until,
)

pytestmark = pytest.mark.broker
KEY = LaneKey("route-1", "target")
DOWN = status(503, Retry_After="0")
"""Asks to be tried again soon, or the backoff would decide how long a test takes."""


async def test_routes_change_under_load_and_the_others_notice_nothing(tmp_path: Path, broker: Broker) -> None:
    async with (
        serving(Target()) as steady,
        serving(Target()) as changing,
        relay(tmp_path / "state", broker.port) as running,
    ):
        unchanged = route(endpoint(steady), topics=["a/b"])
        await serve(running, unchanged)
        pump = running.pumps[KEY]
        for number in range(30):
            publishing = asyncio.create_task(
                publish_all(broker.port, numbered(range(number * 100, number * 100 + 100)))
            )
            other = route(endpoint(changing), topics=["a/b", f"other/{number}"], uid=f"route-{number % 3 + 2}")
            running.apply(table(unchanged, other))
            await publishing
        await until(lambda: len(steady.accepted) >= 3000)
        assert steady.ids == list(range(3000))
        assert running.pumps[KEY] is pump
        assert running.connections_lost == 0


async def test_a_changed_target_is_used_for_what_is_still_owed(tmp_path: Path, broker: Broker) -> None:
    async with (
        serving(Target(always=DOWN)) as wrong,
        serving(Target()) as right,
        relay(tmp_path / "state", broker.port) as running,
    ):
        await serve(running, route(endpoint(wrong)))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: wrong.bodies)
        running.apply(table(route(endpoint(right))))
        await until(lambda: right.ids == list(range(10)))


async def test_a_deleted_route_stops_and_leaves_no_position(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target(always=DOWN)) as target, relay(tmp_path / "state", broker.port) as running:
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: target.bodies)
        running.apply(Table())
        assert list((tmp_path / "state/positions").iterdir()) == []
        await until(lambda: not session_of(running)._subscribed)


async def test_a_source_that_goes_takes_its_backlog_with_it_and_no_other(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target(always=DOWN)) as target, relay(tmp_path / "state", broker.port) as running:
        both = route(endpoint(target), topics=["lost", "kept"])
        await serve(running, both)
        await publish_all(
            broker.port, [m for n in range(50) for m in numbered([n], "lost") + numbered([n + 100], "kept")]
        )
        await until(lambda: target.bodies and running.spool.head == 101)
        running.apply(table(both.model_copy(update={"sources": both.sources[1:]})))
        seen = len(target.bodies)
        await until(lambda: len(target.bodies) >= seen + 2)  # the first may have been on its way
        target.always = None
        await until(lambda: len(target.accepted) >= 50)
        await publish_all(broker.port, [*numbered([60], "lost"), *numbered([200], "kept")])
        await until(lambda: 200 in target.ids)
        assert target.ids == [*range(100, 150), 200]


async def test_a_restart_goes_on_where_the_target_had_come_to(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target()) as target:
        async with relay(tmp_path / "state", broker.port) as running:
            await serve(running, route(endpoint(target)))
            await publish_all(broker.port, numbered(range(100)))
            await until(lambda: len(target.accepted) == 100)
            target.always = DOWN
            await publish_all(broker.port, numbered(range(100, 200)))
            await until(lambda: running.spool.head == 201)
        target.always = None
        # Nobody applies a table: the relay has kept the last one.
        async with relay(tmp_path / "state", broker.port):
            await publish_all(broker.port, numbered(range(200, 300)))
            await until(lambda: len(target.accepted) >= 300)
        assert target.ids == list(range(300))


async def test_a_new_target_gets_nothing_from_before_it_was_there(tmp_path: Path, broker: Broker) -> None:
    async with (
        serving(Target()) as first,
        serving(Target()) as second,
        relay(tmp_path / "state", broker.port) as running,
    ):
        await serve(running, route(endpoint(first, "first")))
        await publish_all(broker.port, numbered(range(10)))
        await until(lambda: len(first.accepted) == 10)
        running.apply(table(route(endpoint(first, "first"), endpoint(second, "second"))))
        await publish_all(broker.port, numbered(range(10, 20)))
        await until(lambda: len(second.accepted) == 10)
        assert second.ids == list(range(10, 20))
