"""Reading whom this cluster is federated with: ConfigMap `fluidos-edge-federation`."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import structlog

from crds.errors import InvalidField
from crds.kube.client import CONFIG_MAPS, Kube, Object
from crds.kube.events import emit
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Gone, Put, follow
from crds.models.base import Crd, ObjectMeta, Resource, validate
from crds.models.federation import CONFIG_MAP
from spire.domain.federation import read_peers
from spire.domain.spiffe_id import TrustDomain
from spire.issuer.federation import Federation

log = structlog.get_logger(__name__)

MAX_COMPLAINTS = 8


class _ConfigMap(Resource):
    """What an Event is about."""

    crd: ClassVar[Crd] = Crd(group="", version="v1", kind="ConfigMap", plural="configmaps")


class Peers:
    """Tells a federation who belongs to it.

    Args:
        kube: the API server.
        federation: who is told.
        namespace: of the ConfigMap.
        own: our trust domain.
    """

    def __init__(self, kube: Kube, *, federation: Federation, namespace: str, own: TrustDomain) -> None:
        self._kube = kube
        self._federation = federation
        self._namespace = namespace
        self._own = own
        self._seen = False
        self._refused: tuple[Object, list[InvalidField]] | None = None
        self._untold = asyncio.Event()

    async def run(self) -> None:
        """Follow the ConfigMap until cancelled. Until it was read, the federation is what it was before."""
        synced = asyncio.Event()
        only = {"fieldSelector": f"metadata.name={CONFIG_MAP}"}
        async with asyncio.TaskGroup() as group:
            group.create_task(
                follow(
                    self._kube,
                    CONFIG_MAPS,
                    changed=self.seen,
                    synced=synced,
                    namespace=self._namespace,
                    query=only,
                )
            )
            group.create_task(self._run_complaints())
            await synced.wait()
            if not self._seen:
                self._federation.configure({})

    def seen(self, change: Change) -> None:
        """Take in the ConfigMap."""
        self._seen = True
        match change:
            case Gone():
                self._federation.configure({})
            case Put(_, obj):
                configured = read_peers(obj.get("data") or {}, own=self._own)
                self._federation.configure(configured)
                errors = [each for each in configured.values() if isinstance(each, InvalidField)]
                for error in errors:
                    REFUSED_OBJECTS.labels("FederatedTrustDomain").inc()
                    log.error("federated trust domain refused, what is known of it stays", error=str(error))
                if errors:
                    self._refused = obj, errors
                    self._untold.set()

    async def _run_complaints(self) -> None:
        while True:
            await self._untold.wait()
            self._untold.clear()
            if self._refused is None:
                continue
            obj, errors = self._refused
            for error in errors[:MAX_COMPLAINTS]:
                await emit(
                    self._kube,
                    _ConfigMap(metadata=validate(ObjectMeta, obj["metadata"])),
                    kind="Warning",
                    reason="PeerRefused",
                    action="Federate",
                    note=str(error),
                    reporter="identity-issuer",
                )
