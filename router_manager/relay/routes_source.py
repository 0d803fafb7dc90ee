"""The table comes from the API server: DataRoutes, as far as they are for this relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from crds.errors import InvalidField
from crds.kube.client import Kind, Kube, Object
from crds.kube.watch import Change, Gone, Key, Put, follow
from crds.models.dataroute import DataRoute
from router_manager.domain.table import Route, Table

log = structlog.get_logger(__name__)

_GATHER_SECONDS = 0.02
"""A contract changes several routes at once: one table for all of them."""


class RouteFeed(Protocol):
    """Where tables come from."""

    async def run(self, apply: Callable[[Table], None]) -> None:
        """Call `apply` with the whole table, at first and after each change, until cancelled."""


class KubeRoutes:
    """Follows all DataRoutes; most of their changes are counters, which change no table."""

    def __init__(self, kube: Kube, *, part: Callable[[DataRoute], Route | None]) -> None:
        """Prepare.

        Args:
            kube: the API server.
            part: what this relay serves of a route.
        """
        self._kube = kube
        self._part = part
        self._routes: dict[Key, Route] = {}
        self._told: dict[Key, tuple[object, ...]] = {}
        """Of each object, what a table is made of."""
        self._dirty = asyncio.Event()
        self.synced = asyncio.Event()

    async def run(self, apply: Callable[[Table], None]) -> None:
        """See RouteFeed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(self._kube, Kind.of(DataRoute.crd), changed=self._change, synced=self.synced))
            # Not before the first whole list: until then the table of the last life is the better one.
            await self.synced.wait()
            while True:
                self._dirty.clear()
                apply(Table(routes=tuple(sorted(self._routes.values(), key=lambda route: route.uid))))
                await self._dirty.wait()
                await asyncio.sleep(_GATHER_SECONDS)

    def _change(self, change: Change) -> None:
        before = self._routes.get(change.key)
        match change:
            case Gone():
                after = None
                self._told.pop(change.key, None)
            case Put(_, obj):
                told = _told(obj)
                if told == self._told.get(change.key):
                    return
                self._told[change.key] = told
                try:
                    after = self._part(DataRoute.parse(obj))
                except InvalidField as error:
                    # Of a newer version than this relay: what it knew of the route is better than its loss.
                    log.warning("cannot read a DataRoute", route="/".join(change.key), error=str(error))
                    return
        if after == before:
            return
        if after is None:
            del self._routes[change.key]
        else:
            self._routes[change.key] = after
        self._dirty.set()


def _told(obj: Object) -> tuple[object, ...]:
    """All but what relays report, which changes all the time."""
    meta, status = obj["metadata"], obj.get("status") or {}
    return meta.get("uid"), meta.get("deletionTimestamp"), obj.get("spec"), status.get("sources")
