"""Which part of the routes an edge relay that collects has, and which a deliver relay."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from crds.models.dataroute import DataRoute
from crds.models.delivery import PayloadFilter, Threshold
from router_manager.domain.site import collected, route_of_site
from router_manager.domain.table import LaneKey, Table, ways
from router_manager.relay.settings import Settings
from tests.relay.kafka.support import endpoint
from tests.relay.support import endpoint as web
from tests.relay.support import route, source, table

INTO = endpoint("kafka:9092", "site")


def test_who_collects_puts_each_topic_once_and_leaves_filters_to_others() -> None:
    filtered = PayloadFilter(threshold=Threshold(field="/v", above="3"))
    routes = [
        route(web("http://a/"), web("http://b/", "other"), topics=["x", "y"], passing=filtered),
        route(web("http://c/"), uid="route-2", topics=["y", "z"]),
    ]
    found = ways(collected(table(*routes), into=INTO))
    assert found.keys() == {LaneKey("site", "kafka")}
    [way] = found.values()
    assert way.feeds.keys() == {"x", "y", "z"}
    assert (way.filter, way.writers) == (None, None)


def test_nothing_to_collect_is_no_lane() -> None:
    assert ways(collected(Table(), into=INTO)) == {}


def data_route(engine: str) -> DataRoute:
    sources = [source("t", node=node, flavor=f"flavor-{node}").dump() for node in ("edge-1", "edge-2")]
    spec = {"source": {"flavors": ["flavor-edge-1"]}, "targets": [web("http://a/").dump()], "engine": engine}
    if engine == "KubeEdge":
        spec["delivery"] = "BestEffort"
    return DataRoute.parse(
        {
            "apiVersion": "edge.fluidos.eu/v1alpha1",
            "kind": "DataRoute",
            "metadata": {"name": "route", "namespace": "test", "uid": "uid-1"},
            "spec": spec,
            "status": {"sources": sources},
        }
    )


def test_who_delivers_has_the_sources_of_all_nodes_and_tells_their_topics_apart() -> None:
    found = route_of_site(data_route("Relay"))
    assert found is not None
    assert [(each.node, each.topic) for each in found.sources] == [("edge-1", "edge-1/t"), ("edge-2", "edge-2/t")]
    assert route_of_site(data_route("KubeEdge")) is None


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        ({"to_kafka": ("kafka:9092",)}, "to_kafka"),
        ({"from_kafka": ("kafka",), "kafka_topic": "site"}, "from_kafka"),
        ({"from_kafka": ("kafka:9092",), "kafka_topic": "site", "to_kafka": ("kafka:9092",)}, "from_kafka"),
        ({"from_kafka": ("kafka:9092",), "kafka_topic": "site", "broker": "mqtt://127.0.0.1"}, "from_kafka"),
        ({"kafka_topic": "no topic"}, "kafka_topic"),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags: dict[str, object], flag: str) -> None:
    given = {"node": "edge-1", "state_dir": "/nowhere", "insecure": True, "_cli_parse_args": []}
    with pytest.raises(ValidationError) as refused:
        Settings(**given, **flags)  # type: ignore[arg-type] # as the command line gives them
    assert [each["loc"][0] for each in refused.value.errors()] == [flag]
