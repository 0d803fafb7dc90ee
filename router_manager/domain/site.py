"""Past one machine: edge relays put each reading once into Kafka, deliver relays serve the routes from there."""

from __future__ import annotations

from crds.models.dataroute import DataRoute
from crds.models.delivery import Endpoint
from router_manager.domain.table import Route, Table, route_with


def site_topic(topic: str, *, node: str) -> str:
    """What a topic is called where readings of all nodes meet: that of another node's broker is another topic."""
    return f"{node}/{topic}"


def route_of_site(obj: DataRoute) -> Route | None:
    """The part of a DataRoute that a deliver relay serves: all nodes; None where it has no part."""
    if obj.spec.engine != "Relay":
        return None
    sources = obj.status.sources if obj.status else ()
    topics = [site_topic(source.topic, node=source.node) for source in sources]
    return route_with(
        obj, tuple(source.model_copy(update={"topic": topic}) for source, topic in zip(sources, topics, strict=True))
    )


def collected(table: Table, *, into: Endpoint) -> Table:
    """All that the routes of an edge relay read, once each, on its way to one target; filters are not its business."""
    sources = {source.topic: source for route in table.routes for source in route.sources}
    whole = Route(uid="site", namespace="", name="site", sources=tuple(sources.values()), targets=(into,))
    return table.model_copy(update={"routes": (whole,) if sources else ()})
