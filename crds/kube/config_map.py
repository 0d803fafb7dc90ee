"""One ConfigMap that people write, followed: what it says goes to its reader, what is wrong with it back to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import ClassVar

from crds.kube.client import CONFIG_MAPS, Kube, Object
from crds.kube.events import emit
from crds.kube.watch import Change, follow
from crds.models.base import Crd, ObjectMeta, Resource, validate


class _ConfigMap(Resource):
    """What an Event is about."""

    crd: ClassVar[Crd] = Crd(group="", version="v1", kind="ConfigMap", plural="configmaps")


class FollowedConfigMap:
    """Of one name.

    Args:
        kube: the API server.
        name: of the ConfigMap.
        namespace: of the ConfigMap.
        reporter: who complains of it.
        reason: of the Events that do so.
        action: what the reporter was doing then.
    """

    def __init__(self, kube: Kube, *, name: str, namespace: str, reporter: str, reason: str, action: str) -> None:
        self._kube = kube
        self._name = name
        self._namespace = namespace
        self._reporter = reporter
        self._reason = reason
        self._action = action
        self._refused: tuple[Object, tuple[str, ...]] | None = None
        self._untold = asyncio.Event()

    async def run(self, changed: Callable[[Change], None], *, listed: Callable[[], None]) -> None:
        """Follow it until cancelled.

        Args:
            changed: gets each change.
            listed: called once, when all that there is has been seen: perhaps nothing.
        """
        synced = asyncio.Event()
        only = {"fieldSelector": f"metadata.name={self._name}"}
        async with asyncio.TaskGroup() as group:
            group.create_task(
                follow(self._kube, CONFIG_MAPS, changed=changed, synced=synced, namespace=self._namespace, query=only)
            )
            group.create_task(self._run_complaints())
            await synced.wait()
            listed()

    def complain(self, obj: Object, notes: Iterable[str]) -> None:
        """Post an Event for each note; what was to be said of an earlier form and was not yet is not said."""
        self._refused = obj, tuple(notes)
        self._untold.set()

    def withdraw_complaint(self) -> None:
        """It is good now: what was to be said is not so any more."""
        self._refused = None

    async def _run_complaints(self) -> None:
        while True:
            await self._untold.wait()
            self._untold.clear()
            if self._refused is None:
                continue
            obj, notes = self._refused
            for note in notes:
                await emit(
                    self._kube,
                    _ConfigMap(metadata=validate(ObjectMeta, obj["metadata"])),
                    kind="Warning",
                    reason=self._reason,
                    action=self._action,
                    note=note,
                    reporter=self._reporter,
                )
