"""The LeafDevice of an attempt, followed: what the device has proven shows there."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from crds.errors import InvalidField
from crds.kube.client import Kind, Kube
from crds.kube.watch import Change, Gone, Put, follow
from crds.models.base import Condition
from crds.models.leafdevice import LeafDevice
from crds.models.trust import Trust
from spire.domain.standing import ATTESTED

log = structlog.get_logger(__name__)

LEAVES = Kind.of(LeafDevice.crd)


class FollowedLeaf:
    """One LeafDevice; the first is read before, so there always is one.

    Args:
        kube: the API server.
        leaf: as it was read.
    """

    def __init__(self, kube: Kube, leaf: LeafDevice) -> None:
        self._kube = kube
        self._leaf = leaf
        self._changed = asyncio.Event()

    @property
    def trust(self) -> Trust | None:
        """What the device proved last."""
        return self._leaf.status.trust if self._leaf.status else None

    @property
    def attested(self) -> Condition | None:
        """What its appraiser says of that."""
        conditions = self._leaf.status.conditions if self._leaf.status else ()
        return next((each for each in conditions if each.type == ATTESTED), None)

    async def run(self) -> None:
        """Follow until cancelled."""
        meta = self._leaf.metadata
        query = {"fieldSelector": f"metadata.name={meta.name}"}
        await follow(
            self._kube, LEAVES, changed=self._seen, synced=asyncio.Event(), namespace=meta.namespace, query=query
        )

    async def news(self, *, within: float) -> None:
        """Wait for a change, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()
        self._changed.clear()

    def _seen(self, change: Change) -> None:
        match change:
            case Put(_, obj):
                try:
                    self._leaf = LeafDevice.parse(obj)
                except InvalidField as error:
                    log.warning("LeafDevice not readable", error=str(error))
            case Gone():
                log.warning("the LeafDevice is gone; what it said last counts")
        self._changed.set()
