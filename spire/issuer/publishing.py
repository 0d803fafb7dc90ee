"""Where the trust domain's roots are told to those who cannot ask yet: a ConfigMap that helpers mount, and a file."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from crds.kube.client import APPLY_PATCH, CONFIG_MAPS, Kube
from crds.kube.queue import WorkQueue
from spire.domain.bundle import to_pem
from spire.issuer.authority import Authority
from spire.issuer.store import write_public

CONFIG_MAP: Final = "fluidos-edge-trust-bundle"
KEY: Final = "bundle.pem"
AGAIN_SECONDS: Final = 600.0
"""Somebody may have changed what we wrote."""

Place = Literal["config map", "file"]


class Publisher:
    """Writes the roots wherever they changed.

    Args:
        kube: the API server.
        authority: whose roots.
        namespace: of the ConfigMap.
        file: another place, for processes of this machine.
    """

    def __init__(self, kube: Kube, *, authority: Authority, namespace: str, file: Path | None) -> None:
        self._kube = kube
        self._authority = authority
        self._namespace = namespace
        self._file = file
        self._queue: WorkQueue[Place] = WorkQueue("trust-bundle", self._publish, workers=2)
        authority.on_change(self._add)

    async def run(self) -> None:
        """Write now, and after each change, until cancelled."""
        self._add()
        await self._queue.run()

    def _add(self) -> None:
        self._queue.add("config map")
        if self._file is not None:
            self._queue.add("file")

    async def _publish(self, place: Place) -> float | None:
        text = to_pem(self._authority.bundle.roots)
        if place == "file":
            if self._file is not None:
                write_public(self._file, text)
            return AGAIN_SECONDS
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": self._namespace},
            "data": {KEY: text},
        }
        await self._kube.request(
            "PATCH",
            CONFIG_MAPS.path(namespace=self._namespace, name=CONFIG_MAP),
            query={"fieldManager": "identity-issuer", "force": "true"},
            body=body,
            content_type=APPLY_PATCH,
        )
        return AGAIN_SECONDS
