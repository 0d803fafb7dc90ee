"""Which routes a relay has, and from which record on each may read."""

import orjson

from crds.models.dataroute import DataRoute
from crds.models.delivery import PayloadFilter
from crds.models.shaping import Shape, UnitChange
from router_manager.domain.encoding import write
from router_manager.domain.filters import Drop, FilterState
from router_manager.domain.table import LaneKey, Table, Way, changed, difference, route_of_node, ways
from tests.relay.support import endpoint, record, route, source, table

URL = "http://127.0.0.1:1/"


def data_route(**changes: object) -> DataRoute:
    body = {
        "metadata": {"name": "r", "namespace": "ns", "uid": "u"},
        "spec": {"source": {"flavors": ["f"]}, "targets": [{"name": "t", "url": URL}], **changes},
        "status": {"sources": [source(flavor=f, node=n).dump() for f, n in (("f", "edge-1"), ("g", "edge-2"))]},
    }
    return DataRoute.parse(body)


def test_a_relay_serves_the_sources_of_its_own_node() -> None:
    mine = route_of_node(data_route(), node="edge-1")
    assert mine is not None
    assert [one.flavor for one in mine.sources] == ["f"]
    assert (mine.uid, mine.namespace, mine.name) == ("u", "ns", "r")


def test_a_route_without_a_part_here_or_suspended_is_none() -> None:
    assert route_of_node(data_route(), node="edge-3") is None
    assert route_of_node(data_route(suspend=True), node="edge-1") is None


def succeed(old: Table, new: Table, *, head: int) -> Table:
    return changed(old, difference(old, new, head=head))


def test_a_change_says_what_is_new_other_and_gone() -> None:
    same, old = route(endpoint(URL), uid="same"), route(endpoint(URL), uid="other")
    before = succeed(Table(), table(same, old, route(endpoint(URL), uid="gone")), head=1)
    other, new = route(endpoint(URL), uid="other", topics=["c"]), route(endpoint(URL), uid="new")
    change = difference(before, table(same.model_copy(), other, new), head=7)
    assert change.put.routes == (other, new)
    assert change.put.since == {"other": {"c": 7}, "new": {"a/b": 7}}
    assert change.gone == ("gone",)
    after = changed(before, change)
    assert {one.uid for one in after.routes} == {"same", "other", "new"}
    assert after.since == {"same": {"a/b": 1}} | change.put.since


def test_a_topic_is_owed_from_the_moment_it_came() -> None:
    old = succeed(Table(), table(route(endpoint(URL), topics=["a"])), head=10)
    new = succeed(old, table(route(endpoint(URL), topics=["a", "b"]), route(endpoint(URL), uid="other")), head=20)
    assert new.since == {"route-1": {"a": 10, "b": 20}, "other": {"a/b": 20}}


def test_a_topic_that_went_and_came_back_starts_anew() -> None:
    marks = table(route(endpoint(URL), topics=["a"]))
    without = table(route(endpoint(URL), topics=["b"]))
    assert succeed(succeed(succeed(Table(), marks, head=1), without, head=2), marks, head=3).since["route-1"] == {
        "a": 3
    }


def test_a_table_survives_its_file() -> None:
    whole = succeed(Table(), table(route(endpoint(URL, encoding="NDJSON"), passing=PayloadFilter(every_nth=2))), head=4)
    assert Table.model_validate_json(orjson.dumps(orjson.loads(whole.model_dump_json(by_alias=True)))) == whole


def test_every_target_has_its_way_and_unchanged_ones_are_equal() -> None:
    def compiled(**changes: object) -> dict[LaneKey, Way]:
        return ways(table(route(endpoint(URL, "one"), endpoint(URL, "two", **changes))))

    before, after = compiled(), compiled(envelope=True)
    assert before.keys() == {LaneKey("route-1", "one"), LaneKey("route-1", "two")}
    assert before[LaneKey("route-1", "one")] == after[LaneKey("route-1", "one")]
    assert before[LaneKey("route-1", "two")] != after[LaneKey("route-1", "two")]


def test_targets_of_one_form_share_its_writers() -> None:
    shape = {"shape": Shape(keep=("/v",)), "encoding": "NDJSON"}
    found = ways(
        table(
            route(endpoint(URL, "one", **shape), endpoint(URL, "plain")),
            route(
                endpoint(URL, "two", **(shape | {"encoding": "JSONArray"})),
                endpoint(URL, "other", envelope=True),
                uid="route-2",
            ),
        )
    )
    one, plain, two, other = found.values()
    assert one.writers is not None
    assert one.writers == two.writers
    assert plain.writers is None
    assert other.writers != two.writers


def test_a_route_of_a_newer_relay_stops_no_other() -> None:
    strange = endpoint(URL, "strange", shape=Shape(convert=(UnitChange(field="/v", to="parsec"),)))
    broken = route(strange, uid="broken", passing=PayloadFilter(expression="payload.all(x, true)"))
    found = ways(table(broken, route(endpoint(URL))))
    way = found[LaneKey("broken", "strange")]
    assert way.filter is not None
    assert way.filter.step(FilterState(), record(1)) == (FilterState(), Drop.UNREADABLE)
    encoded = write([record(1)], carrier="JSONArray", writers=way.writers)
    assert encoded.parts == []
    ((_, why),) = encoded.unencodable
    assert "parsec" in why
    assert found[LaneKey("route-1", "target")].writers is None


def test_of_two_flavors_on_one_topic_the_first_names_the_record() -> None:
    one = route(endpoint(URL)).model_copy(update={"sources": (source(flavor="b"), source(flavor="a"))})
    (way,) = ways(table(one)).values()
    assert way.feeds["a/b"].source.flavor == "a"
