"""What the relays measured, as the gateway sees it: fed by a watch on DataRoutes.

A contract's route has the contract's name. What is observed of a flavor is told to the store, which offers it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import structlog

from crds.errors import InvalidField
from crds.kube.watch import Change, Key, Put
from crds.models.dataroute import DataRoute
from crds.models.fluidos import Contract
from crds.models.measured import Measured
from edge_resource_manager.domain.promises import observation

log = structlog.get_logger(__name__)


class Measurements:
    """By route.

    Args:
        observed: called with a flavor and its new observed latency in microseconds, None where there is none any more.
    """

    def __init__(self, observed: Callable[[str, int | None], None]) -> None:
        self._tell = observed
        self._routes: dict[Key, Measured] = {}
        self._sources: dict[Key, str] = {}
        self._readers: defaultdict[str, dict[Key, int | None]] = defaultdict(dict)
        self._observed: dict[str, int] = {}

    def of(self, contract: Contract) -> Measured | None:
        """What was measured of a contract's delivery; None while nothing was."""
        return self._routes.get((contract.metadata.namespace or "", contract.metadata.name))

    def route_seen(self, change: Change) -> None:
        """A DataRoute appeared, changed or went."""
        key, route = change.key, None
        if isinstance(change, Put):
            try:
                route = DataRoute.parse(change.obj)
            except InvalidField as error:
                log.warning("route is ignored", key=key, error=str(error))
        before, now = self._sources.pop(key, None), None if route is None else _only_source(route)
        if before is not None:
            del self._readers[before][key]
        if route is None or route.status is None:
            self._routes.pop(key, None)
        else:
            self._routes[key] = route.status.figures()
        if now is not None:
            self._sources[key] = now
            self._readers[now][key] = self._routes[key].p99_microseconds if key in self._routes else None
        for flavor in {before, now}:
            if flavor is not None:
                self._look_at(flavor)

    def _look_at(self, flavor: str) -> None:
        readers, before = self._readers[flavor], self._observed.pop(flavor, None)
        now = observation(tuple(readers.values()), published=before)
        if now is not None:
            self._observed[flavor] = now
        if not readers:
            del self._readers[flavor]
        if now != before:
            self._tell(flavor, now)


def _only_source(route: DataRoute) -> str | None:
    """Of a route with several flavors nobody knows which one was slow."""
    flavors = route.spec.source.flavors or ()
    return flavors[0] if len(flavors) == 1 else None
