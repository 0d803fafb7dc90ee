"""Keeps the Rules of KubeEdge's router to what routes want: observe, decide (domain/kubeedge.py), apply."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import structlog

from crds.conditions import Verdict, parse_timestamp
from crds.errors import InvalidField
from crds.kube.client import Kind, Kube, Object
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.base import OwnerReference, Resource
from crds.models.dataroute import DataRoute, ResolvedSource
from crds.models.kubeedge_rules import Rule, RuleEndpoint
from router_manager.domain.kubeedge import (
    Observed,
    Outcomes,
    Plan,
    objects,
    plan,
    subscription_of,
    verdict,
    wishes,
)

log = structlog.get_logger(__name__)

MANAGER = "router-manager"
R = TypeVar("R", bound=Resource)
Routes = Callable[[str], Iterable[DataRoute]]
Owners = Callable[[str], Mapping[str, OwnerReference]]


class Bridge:
    """Works namespace by namespace, so that what is in one is changed in order.

    Args:
        kube: the API server.
        inlet: URL of the relay's inlet, as cloudcore reaches it.
        routes: of a namespace, as they were seen.
        owners: of the objects that are made for the flavors of a namespace.
        look: has a route's status written anew.
        clock: the time.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        inlet: str,
        routes: Routes,
        owners: Owners,
        look: Callable[[Key], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._inlet = inlet
        self._routes_of = routes
        self._owners_of = owners
        self._look = look
        self._clock = clock
        self._rules: dict[str, dict[str, Rule]] = defaultdict(dict)
        self._endpoints: dict[str, dict[str, RuleEndpoint]] = defaultdict(dict)
        self._ready_since: dict[str, datetime] = {}
        self._outcomes: dict[str, Outcomes] = {}
        self.namespaces = WorkQueue("forwarding", self.reconcile)

    def rule_seen(self, change: Change) -> None:
        """A Rule appeared, changed or went."""
        self._keep(self._rules, Rule, change)

    def endpoint_seen(self, change: Change) -> None:
        """A RuleEndpoint appeared, changed or went."""
        self._keep(self._endpoints, RuleEndpoint, change)

    def node_seen(self, change: Change) -> None:
        """A Node came, went, or is ready since another time."""
        name = change.key[1]
        now = _ready_since(change.obj) if isinstance(change, Put) else None
        if now == self._ready_since.get(name):
            return
        if now is None:
            del self._ready_since[name]
        else:
            self._ready_since[name] = now
        for namespace in self._rules.keys() | self._outcomes.keys():
            self.namespaces.add(namespace)

    def verdict(self, sources: Iterable[ResolvedSource], *, namespace: str) -> Verdict:
        """What a route with these sources, which the router can carry, says in its status."""
        found = [subscription_of(source.topic, node=source.node, namespace=namespace) for source in sources]
        return verdict([each for each in found if each is not None], self._outcomes.get(namespace, {}))

    async def reconcile(self, namespace: str) -> float | None:
        """There is one Rule for each subscription that routes of the namespace want."""
        decided = self._decide(namespace, self._routes_of(namespace))
        if decided.delete or decided.create:
            # A life that has just begun may know the Rules before the routes, or the routes before the Rules.
            self._rules[namespace] = {one.metadata.name: one for one in await self._list(Rule, namespace)}
            self._endpoints[namespace] = {one.metadata.name: one for one in await self._list(RuleEndpoint, namespace)}
            decided = self._decide(namespace, await self._list(DataRoute, namespace))
        for gone in decided.delete:
            await self._kube.delete(type(gone), gone.metadata.name, namespace=namespace, uid=gone.metadata.uid)
            self._stored(gone, namespace).pop(gone.metadata.name, None)
            log.info("removed", kind=gone.crd.kind, namespace=namespace, name=gone.metadata.name)
        for subscription, owner in decided.create:
            token = secrets.token_urlsafe(32)
            for one in objects(subscription, namespace=namespace, owner=owner, inlet=self._inlet, token=token):
                made = type(one).parse(await self._kube.create(one, manager=MANAGER))
                self._stored(made, namespace)[made.metadata.name] = made
            log.info("asked KubeEdge's router", namespace=namespace, node=subscription.node, topic=subscription.topic)
        if decided.outcomes != self._outcomes.get(namespace):
            self._outcomes[namespace] = decided.outcomes
            for route in self._routes_of(namespace):
                if route.spec.engine == "KubeEdge":
                    self._look((namespace, route.metadata.name))
        return None if decided.look_again is None else decided.look_again.total_seconds()

    def _decide(self, namespace: str, routes: Iterable[DataRoute]) -> Plan:
        observed = Observed(
            rules=list(self._rules[namespace].values()),
            endpoints=list(self._endpoints[namespace].values()),
            ready_since=self._ready_since,
        )
        wanted = wishes(routes, namespace=namespace, owners=self._owners_of(namespace))
        return plan(wanted, observed, inlet=self._inlet, now=self._clock())

    async def _list(self, kind: type[R], namespace: str) -> list[R]:
        answer = await self._kube.request("GET", Kind.of(kind.crd).path(namespace=namespace))
        return [one for one in (_read(kind, item) for item in answer["items"]) if one is not None]

    def _stored(self, obj: Rule | RuleEndpoint, namespace: str) -> dict[str, Any]:
        return self._rules[namespace] if isinstance(obj, Rule) else self._endpoints[namespace]

    def _keep(self, store: dict[str, dict[str, R]], kind: type[R], change: Change) -> None:
        namespace, name = change.key
        now = None
        match change:
            case Put(_, obj):
                now = _read(kind, obj)
            case Gone():
                pass
        if now is None:
            store[namespace].pop(name, None)
        else:
            store[namespace][name] = now
        self.namespaces.add(namespace)


def _read(kind: type[R], obj: Object) -> R | None:
    try:
        return kind.parse(obj)
    except InvalidField as error:
        REFUSED_OBJECTS.labels(kind.crd.kind).inc()
        log.warning("not readable", kind=kind.crd.kind, name=obj["metadata"]["name"], error=str(error))
        return None


def _ready_since(node: Object) -> datetime | None:
    for condition in node.get("status", {}).get("conditions", ()):
        if condition.get("type") == "Ready" and condition.get("status") == "True":
            return parse_timestamp(condition.get("lastTransitionTime") or "")
    return None
