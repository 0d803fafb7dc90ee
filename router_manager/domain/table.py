"""The routes that a relay serves, and which of them a topic belongs to.

A `Table` is a value: the relay swaps one for the next. It is also what the relay keeps on disk, so that it goes on
after a restart while the API server is away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field

from crds.models.addresses import Address
from crds.models.base import Model
from crds.models.dataroute import DataRoute, ResolvedSource
from crds.models.delivery import Endpoint, PayloadFilter
from crds.models.retention import Retention
from crds.models.trust import TrustDomainText
from router_manager.domain.encoding import PLAIN, Carrier, Form, Writers, carrier_of, writers
from router_manager.domain.filters import Filter
from router_manager.domain.kubeedge import forwarded_topic
from router_manager.domain.partition import Partition
from router_manager.domain.payload import Pointer, parse_pointer
from router_manager.domain.peers import Peer, peer_of

_WHOLE = Partition()


class RouteName(NamedTuple):
    """Which DataRoute, as people name it."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Route(Model):
    """One DataRoute as one relay sees it: the sources of its own node, and all targets."""

    uid: str
    namespace: str
    name: str
    sources: tuple[ResolvedSource, ...]
    targets: tuple[Endpoint, ...]
    trust_domain: TrustDomainText | None = None
    filter: PayloadFilter | None = None
    sequence: str | None = None
    retention: Retention | None = None


class Table(Model):
    """All routes of one relay.

    Attributes:
        since: per route uid and topic, the id of the first record that the route may have. A buyer gets nothing that
            was spooled, for others, before the topic was its.
    """

    version: int = 0
    routes: tuple[Route, ...] = ()
    since: dict[str, dict[str, int]] = Field(default_factory=dict)


class Change(Model):
    """From one table to the next.

    Attributes:
        put: routes that are new or other than before, with their marks.
        gone: uids of those that are no more.
    """

    put: Table
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LaneKey:
    """Names one way out: a target of a route."""

    route_uid: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A topic within a route: whose readings they are, and from which record on the route may have them."""

    source: ResolvedSource
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """All that a lane has to know of its route and target."""

    route: RouteName
    target: Endpoint
    address: Address
    """Of the target."""
    location: str
    """The same as one URL."""
    carrier: Carrier
    peer: Peer
    feeds: Mapping[str, Feed]
    clocks: Mapping[str, Pointer]
    """By topic, where readings say when they were taken; of those that do."""
    filter: Filter | None
    retention: Retention | None
    writers: Writers | None


def route_of_node(obj: DataRoute, *, node: str, partition: Partition = _WHOLE) -> Route | None:
    """The part of a DataRoute that a relay of this node serves; None where it has no part."""
    if obj.spec.engine != "Relay":
        return None
    resolved = obj.status.sources if obj.status else ()
    return route_with(obj, tuple(source for source in resolved if source.node == node and partition.has(source.device)))


def route_of_inlet(obj: DataRoute) -> Route | None:
    """The part of a DataRoute that a relay behind KubeEdge's router serves: all nodes; None where it has no part.

    The topic of another node's broker is another topic, so the node stands before each.
    """
    if obj.spec.engine != "KubeEdge":
        return None
    resolved = obj.status.sources if obj.status else ()
    return route_with(
        obj,
        tuple(
            source.model_copy(update={"topic": forwarded_topic(source.topic, node=source.node)}) for source in resolved
        ),
    )


def route_with(obj: DataRoute, sources: tuple[ResolvedSource, ...]) -> Route | None:
    """A DataRoute as far as it has these sources; None where there is nothing to do."""
    meta = obj.metadata
    if not sources or obj.spec.suspend or meta.uid is None or meta.deletion_timestamp:
        return None
    return Route(
        uid=meta.uid,
        namespace=meta.namespace or "default",
        name=meta.name,
        sources=sources,
        targets=obj.spec.targets,
        trust_domain=obj.spec.trust_domain,
        filter=obj.spec.filter,
        sequence=obj.spec.sequence,
        retention=obj.spec.retention,
    )


def difference(old: Table, new: Table, *, head: int) -> Change:
    """What leads from one table to the next.

    Args:
        old: with the marks of what each route may have.
        new: without; a topic of a route keeps its mark, and gets `head` where it was not there.
        head: the id of the next record.
    """
    before = {route.uid: route for route in old.routes}
    # Most routes of a table are the very objects of the last one: not compared field by field.
    put = tuple(route for route in new.routes if (same := before.get(route.uid)) is not route and same != route)
    since = {
        route.uid: {source.topic: old.since.get(route.uid, {}).get(source.topic, head) for source in route.sources}
        for route in put
    }
    gone = before.keys() - {route.uid for route in new.routes}
    return Change(put=Table(version=old.version + 1, routes=put, since=since), gone=tuple(sorted(gone)))


def changed(table: Table, change: Change) -> Table:
    """The table after a change."""
    routes = {route.uid: route for route in table.routes} | {route.uid: route for route in change.put.routes}
    since = table.since | change.put.since
    for uid in change.gone:
        routes.pop(uid, None)
        since.pop(uid, None)
    return table.model_copy(update={"version": change.put.version, "routes": tuple(routes.values()), "since": since})


def capped(table: Table, *, head: int) -> Table:
    """The table of an earlier life, with no mark above the head of the spool.

    A route may have come while records were not yet on disk, and these are gone: their ids are given out again.
    """
    since = {uid: {topic: min(mark, head) for topic, mark in marks.items()} for uid, marks in table.since.items()}
    return table.model_copy(update={"since": since})


def ways(table: Table) -> dict[LaneKey, Way]:
    """The lanes that a table asks for."""
    found = {}
    for route in table.routes:
        feeds = _feeds(route, table.since.get(route.uid, {}))
        compiled = None if route.filter is None else Filter.compile(route.filter)
        clocks = {
            topic: parse_pointer(pointer)
            for topic, feed in feeds.items()
            if (pointer := feed.source.timestamp_pointer) is not None
        }
        for target in route.targets:
            found[LaneKey(route.uid, target.name)] = Way(
                route=RouteName(route.namespace, route.name),
                target=target,
                address=target.address,
                location=target.location,
                carrier=carrier_of(target),
                peer=peer_of(target, trust_domain=route.trust_domain),
                feeds=feeds,
                clocks=clocks,
                filter=compiled,
                retention=route.retention,
                writers=_writers(target, feeds),
            )
    return found


def _writers(target: Endpoint, feeds: Mapping[str, Feed]) -> Writers | None:
    form = Form.of(target)
    return None if form == PLAIN else writers(form, {topic: feed.source for topic, feed in feeds.items()})


def _feeds(route: Route, since: Mapping[str, int]) -> dict[str, Feed]:
    """Of several flavors on one topic the first one names the record: it is delivered once."""
    found: dict[str, Feed] = {}
    for source in sorted(route.sources, key=lambda source: source.flavor):
        found.setdefault(source.topic, Feed(source=source, since=since.get(source.topic, 0)))
    return found
