"""Which devices commands can be for comes from the API server: the LeafDevices of a node that have a UEID."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from crds.errors import InvalidField
from crds.kube.client import Kind, Kube
from crds.kube.watch import Change, Key, Put, follow
from crds.models.leafdevice import LeafDevice

log = structlog.get_logger(__name__)


class KubeUeids:
    """Follows them."""

    def __init__(self, kube: Kube, *, node: str) -> None:
        self._kube = kube
        self._node = node
        self._ueids: dict[Key, str] = {}

    async def run(self, know: Callable[[Mapping[Key, str]], None]) -> None:
        """Call `know` with all UEIDs, by namespace and name, after each change, until cancelled."""

        def change(seen: Change) -> None:
            before = self._ueids.pop(seen.key, None)
            after = self._read(seen)
            if after is not None:
                self._ueids[seen.key] = after
            if after != before:
                know(dict(self._ueids))

        query = {"fieldSelector": f"spec.nodeName={self._node}"}
        await follow(self._kube, Kind.of(LeafDevice.crd), changed=change, synced=asyncio.Event(), query=query)

    @staticmethod
    def _read(seen: Change) -> str | None:
        if not isinstance(seen, Put):
            return None
        try:
            return LeafDevice.parse(seen.obj).spec.ueid
        except InvalidField as error:
            log.warning("cannot read a LeafDevice", device="/".join(seen.key), error=str(error))
            return None
