"""Says of the node's devices that cannot prove themselves that this agent speaks for them, in their status."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from crds.errors import Retryable
from crds.kube.client import Kube, NotFound
from crds.kube.queue import WorkQueue
from crds.kube.watch import Key
from crds.models.leafdevice import LeafDevice
from edge_resource_manager.agent.domain.trust import voucher
from spire.domain.spiffe_id import SpiffeId

log = structlog.get_logger(__name__)

MANAGER: Final = "edge-agent"
WORKERS: Final = 4


class Vouching:
    """Writes what `voucher` decides.

    Args:
        kube: the API server.
        leaf: what is known of a LeafDevice.
        by: who speaks.
    """

    def __init__(self, kube: Kube, leaf: Callable[[Key], LeafDevice | None], *, by: SpiffeId) -> None:
        self._kube = kube
        self._leaf = leaf
        self._by = by
        self.queue: WorkQueue[Key] = WorkQueue("vouching", self._look, workers=WORKERS)

    async def _look(self, key: Key) -> None:
        leaf = self._leaf(key)
        status = None if leaf is None else voucher(leaf, by=self._by, now=datetime.now(UTC))
        if status is None:
            return
        written = {name: value for name, value in status.dump().items() if name in {"trust", "conditions"} and value}
        try:
            await self._kube.apply_status(LeafDevice, name=key[1], namespace=key[0], status=written, manager=MANAGER)
        except NotFound as error:
            raise Retryable(f"LeafDevice {'/'.join(key)} went away") from error
        log.info("vouched" if written else "word taken back", leaf="/".join(key))
