"""A change of routes touches the lanes of those routes, and no others."""

from pathlib import Path

from router_manager.domain.table import LaneKey
from tests.relay.listener.devices import Device, listening, port_of
from tests.relay.support import Target, endpoint, route, serving, table, until


async def test_a_changed_route_leaves_lanes_connections_and_order_of_others_alone(tmp_path: Path) -> None:
    async with serving(Target()) as steady, serving(Target()) as moving, listening(tmp_path) as running:
        routes = [route(endpoint(steady), uid="steady"), route(endpoint(moving), uid="moving")]
        running.apply(table(*routes))
        pump = running.pumps[LaneKey("steady", "target")]
        found = Device(port_of(running))
        await found.connect()
        for number in range(200):
            found.publish("a/b", b'{"id":%d}' % number)
            if number % 10 == 0:
                running.apply(table(routes[0], route(endpoint(moving, f"to-{number}"), uid="moving")))
        await until(lambda: steady.ids == list(range(200)), what="all of the steady route, in order")
        assert running.pumps[LaneKey("steady", "target")] is pump
        assert [key.target for key in running.pumps if key.route_uid == "moving"] == ["to-190"]
        assert not found.ended
        found.stop()


async def test_topics_are_wanted_for_as_long_as_any_route_has_them(tmp_path: Path) -> None:
    async with serving(Target()) as target, listening(tmp_path) as running:
        one, two = (
            route(endpoint(target), uid="one", topics=["a", "b"]),
            route(endpoint(target), uid="two", topics=["b", "c"]),
        )
        for routes, topics in (
            ((one, two), {"a", "b", "c"}),
            ((two,), {"b", "c"}),
            ((route(endpoint(target), uid="two", topics=["d"]),), {"d"}),
            ((), set[str]()),
        ):
            running.apply(table(*routes))
            assert set(running._lanes.topics) == topics
            assert set(running.ingest._groups) == topics


async def test_lanes_of_one_life_are_those_of_the_next_and_nothing_else_is_left(tmp_path: Path) -> None:
    kept, gone = route(endpoint("http://127.0.0.1:9/"), uid="kept"), route(endpoint("http://127.0.0.1:9/"), uid="gone")
    async with listening(tmp_path) as running:
        running.apply(table(kept, gone))
        running.apply(table(kept))
    assert len(list((tmp_path / "positions").glob("*"))) == 1
    async with listening(tmp_path) as running:
        assert running.table.routes == (kept,)
        assert set(running.pumps) == {LaneKey("kept", "target")}
