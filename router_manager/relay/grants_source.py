"""Who may speak at the listener comes from the API server: LeafDevices of this node, and whom their status believes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import structlog

from crds.errors import InvalidField
from crds.kube.client import Kind, Kube
from crds.kube.watch import Change, Gone, Key, Put, follow
from crds.models.leafdevice import LeafDevice
from router_manager.domain.admission import Grants, grants
from spire.domain.spiffe_id import SpiffeId

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 5.0


class KubeGrants:
    """Follows the LeafDevices of one node. Whoever loses its trust there is cut with the watch's event."""

    def __init__(self, kube: Kube, *, node: str, agent: SpiffeId) -> None:
        self._kube = kube
        self._node = node
        self._agent = agent
        self._devices: dict[Key, LeafDevice] = {}
        self._changed = asyncio.Event()
        self._synced = asyncio.Event()

    async def run(self, permit: Callable[[Grants], None]) -> None:
        """Call `permit` with all grants, at first and after each change, until cancelled."""
        async with asyncio.TaskGroup() as group:
            query = {"fieldSelector": f"spec.nodeName={self._node}"}
            kind = Kind.of(LeafDevice.crd)
            group.create_task(follow(self._kube, kind, changed=self._change, synced=self._synced, query=query))
            # Not before the first whole list: until then the grants of the last life are the better ones.
            await self._synced.wait()
            before: Grants | None = None
            while True:
                self._changed.clear()
                now = datetime.now(UTC)
                found = grants(self._devices.values(), node=self._node, agent=self._agent, now=now)
                if found != before:
                    permit(found)
                    before = found
                with suppress(TimeoutError):  # proofs end by the clock, too
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._changed.wait()

    def _change(self, change: Change) -> None:
        self._devices.pop(change.key, None)
        match change:
            case Gone():
                pass
            case Put(_, obj):
                try:
                    self._devices[change.key] = LeafDevice.parse(obj)
                except InvalidField as error:
                    # Nobody is believed whose object says something that this relay cannot read.
                    log.warning("cannot read a LeafDevice", device="/".join(change.key), error=str(error))
        self._changed.set()
