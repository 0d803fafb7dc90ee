"""Which paths of the inlet lead in comes from the API server: they are in the Rules that the router reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from crds.errors import InvalidField
from crds.kube.client import Kind, Kube
from crds.kube.watch import Change, Gone, Key, Put, follow
from crds.models.kubeedge_rules import Rule
from router_manager.domain.kubeedge import MANAGED, doors

log = structlog.get_logger(__name__)


class KubeDoors:
    """Follows the Rules that router_manager made."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._rules: dict[Key, Rule] = {}
        self._changed = asyncio.Event()
        self._synced = asyncio.Event()

    async def run(self, admit: Callable[[Mapping[str, str]], None]) -> None:
        """Call `admit` with all doors, at first and after each change, until cancelled."""
        query = {"labelSelector": ",".join(f"{label}={value}" for label, value in MANAGED.items())}
        async with asyncio.TaskGroup() as group:
            kind = Kind.of(Rule.crd)
            group.create_task(follow(self._kube, kind, changed=self._change, synced=self._synced, query=query))
            # Not before the first whole list: until then the doors of the last life are the better ones.
            await self._synced.wait()
            while True:
                self._changed.clear()
                admit(doors(self._rules.values()))
                await self._changed.wait()

    def _change(self, change: Change) -> None:
        self._rules.pop(change.key, None)
        match change:
            case Gone():
                pass
            case Put(_, obj):
                try:
                    self._rules[change.key] = Rule.parse(obj)
                except InvalidField as error:
                    log.warning("cannot read a Rule", rule="/".join(change.key), error=str(error))
        self._changed.set()
