"""Leader election by Lease: one of several replicas works, the next takes over when it stops renewing.

The official client's elector cannot create its Lease in the version that is locked here, hence our own.
Source of the rules: client-go tools/leaderelection.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from crds.conditions import parse_timestamp
from crds.errors import Retryable
from crds.kube.client import LEASES, MERGE_PATCH, AlreadyExists, Conflict, Kube, NotFound, Object

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """Who wants to lead what, and for how long a silent leader keeps it (seconds)."""

    name: str
    namespace: str
    identity: str
    duration: float = 15.0
    renew: float = 5.0


class Lost(Exception):  # noqa: N818 - an outcome, not an error
    """Another replica leads; stop working."""


def decide(lease: Object | None, *, election: Election, now: datetime) -> dict[str, Any] | None:
    """The Lease spec to write in order to lead, or None while another leads."""
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    ours: dict[str, Any] = {
        "holderIdentity": election.identity,
        "leaseDurationSeconds": max(1, round(election.duration)),
        "renewTime": stamp,
    }
    spec = (lease or {}).get("spec") or {}
    if spec.get("holderIdentity") == election.identity:
        return ours
    renewed = parse_timestamp(spec.get("renewTime") or "")
    free = not spec.get("holderIdentity") or renewed is None
    if free or (renewed and now >= renewed + timedelta(seconds=spec.get("leaseDurationSeconds") or 0)):
        return {**ours, "acquireTime": stamp, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
    return None


class Elector:
    """Holds a Lease. `acquire` waits for it; `hold` renews it until it is lost."""

    def __init__(self, kube: Kube, election: Election) -> None:
        self._kube = kube
        self._election = election
        self._path = LEASES.path(namespace=election.namespace, name=election.name)

    async def acquire(self) -> None:
        """Wait until we lead."""
        waiting = False
        while not await self._try():
            if not waiting:
                log.info("waiting to lead", lease=self._election.name, identity=self._election.identity)
                waiting = True
            await asyncio.sleep(random.uniform(0.5, 1.0) * self._election.renew / 2)  # noqa: S311 - jitter
        log.info("leading", lease=self._election.name, identity=self._election.identity)

    async def hold(self) -> None:
        """Renew for ever.

        Raises:
            Lost: another replica took it, or it could not be renewed for its whole duration.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._election.duration
        while True:
            await asyncio.sleep(self._election.renew)
            if await self._try():
                until = loop.time() + self._election.duration
            elif await self._held_by_other() or loop.time() >= until:
                raise Lost(self._election.name)

    async def release(self) -> None:
        """Give it up at once, so that a successor need not wait."""
        try:
            lease = await self._kube.request("GET", self._path)
            if lease["spec"].get("holderIdentity") == self._election.identity:
                body = {
                    "metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]},
                    "spec": {"holderIdentity": None},
                }
                await self._kube.request("PATCH", self._path, body=body, content_type=MERGE_PATCH)
        except (Retryable, NotFound, Conflict) as error:
            log.info("lease not released", lease=self._election.name, error=str(error))

    async def _try(self) -> bool:
        try:
            try:
                lease: Object | None = await self._kube.request("GET", self._path)
            except NotFound:
                lease = None
            spec = decide(lease, election=self._election, now=datetime.now(UTC))
            if spec is None:
                return False
            await self._write(lease, spec)
        except (AlreadyExists, Conflict):
            return False
        except Retryable as error:
            log.warning("lease not reached", lease=self._election.name, error=str(error))
            return False
        return True

    async def _write(self, lease: Object | None, spec: dict[str, Any]) -> None:
        metadata = {"name": self._election.name, "namespace": self._election.namespace}
        if lease is None:
            body = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": metadata, "spec": spec}
            await self._kube.request("POST", LEASES.path(namespace=self._election.namespace), body=body)
            return
        body = {"metadata": {"resourceVersion": lease["metadata"]["resourceVersion"]}, "spec": spec}
        await self._kube.request("PATCH", self._path, body=body, content_type=MERGE_PATCH)

    async def _held_by_other(self) -> bool:
        try:
            lease = await self._kube.request("GET", self._path)
        except (Retryable, NotFound):
            return False
        return lease["spec"].get("holderIdentity") not in (self._election.identity, None)
