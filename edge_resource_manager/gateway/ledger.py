"""Writes of transactions and contracts: each answer of the API server is in the records before anybody reads them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from crds.kube.client import JSON_PATCH, AlreadyExists, Kind, Kube, NotFound
from crds.models.fluidos import Contract, Transaction
from edge_resource_manager.domain.reservations import is_live
from edge_resource_manager.gateway.records import R, Records

MANAGER = "rear-gateway"


class Ledger:
    """Of one cluster. None as an answer says: something newer is in the records now, decide again."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    async def create(self, records: Records[R], item: R, *, now: datetime) -> R | None:
        """Store a new object."""
        try:
            return records.wrote(await self._kube.create(item, manager=MANAGER))
        except AlreadyExists:
            # An earlier life of this process stored it, or an expired one waits to be removed.
            await self._read(records, item, now=now)
            return None

    async def replace(
        self,
        records: Records[R],
        item: R,
        changed: Mapping[str, Any],
        *,
        annotations: Mapping[str, str | None] | None = None,
    ) -> R | None:
        """Replace whole members of the spec, and single annotations, and nothing else of the object.

        An annotation of None is removed; it has to be there.
        """
        patch = [{"op": "add", "path": f"/spec/{key}", "value": value} for key, value in changed.items()]
        for key, value in (annotations or {}).items():
            # '/' in a name is '~1' in a JSON pointer (RFC 6901)
            path = f"/metadata/annotations/{key.replace('/', '~1')}"
            patch.append(
                {"op": "remove", "path": path} if value is None else {"op": "add", "path": path, "value": value}
            )
        try:
            obj = await self._kube.request(
                "PATCH", _path(item), query={"fieldManager": MANAGER}, body=patch, content_type=JSON_PATCH
            )
        except NotFound:
            records.ended(item)
            return None
        return records.wrote(obj)

    async def remove(self, records: Records[R], item: R) -> None:
        """Delete this life of an object, and forget it."""
        meta = item.metadata
        await self._kube.delete(type(item), meta.name, namespace=meta.namespace, uid=meta.uid)
        records.ended(item)

    async def _read(self, records: Records[R], item: R, *, now: datetime) -> None:
        try:
            stored = records.wrote(await self._kube.request("GET", _path(item)))
        except NotFound:
            return
        if not is_live(stored, now):
            await self.remove(records, stored)


def _path(item: Transaction | Contract) -> str:
    return Kind.of(item.crd).path(namespace=item.metadata.namespace, name=item.metadata.name)
