"""Discovery at work against a real API server."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crds.kube.client import NAMESPACES, NODES, Kind, Kube
from crds.kube.watch import follow
from crds.models.firmware import Firmware
from crds.models.fluidos import Flavor, NodeIdentity
from crds.models.kubeedge import DeviceStatus
from crds.models.leafdevice import LeafDevice
from edge_resource_manager.discovery import DiscoveryReconciler, DiscoverySettings
from edge_resource_manager.domain.flavors import Terms
from edge_resource_manager.domain.liveness import Graces
from scripts.testbed.cluster import Cluster

IDENTITY = NodeIdentity(domain="fluidos.eu", node_id="provider1", ip="192.0.2.1:3004")
_numbers = itertools.count()


@dataclass
class Clock:
    """A time that moves when it is told to."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Site:
    """A namespace of a cluster and what discovery makes there."""

    cluster: Cluster
    kube: Kube
    namespace: str
    clock: Clock
    version: str = "v1beta1"

    def node(self, *, offers: bool = True, ready: bool = True) -> str:
        """Adds a Node of a name of its own: Nodes belong to all tests."""
        name = f"edge-{next(_numbers)}-{self.namespace}"
        self.cluster.add_node(name, {"node-role.fluidos.eu/sensors": "true"} if offers else {}, ready=ready)
        return name

    def apply(self, *bodies: dict[str, Any]) -> None:
        self.cluster.apply(bodies)

    async def delete(self, name: str) -> None:
        path = Kind(f"devices.kubeedge.io/{self.version}", "devices").path(namespace=self.namespace, name=name)
        await self.kube.request("DELETE", path)

    async def leaves(self) -> dict[str, LeafDevice]:
        """By Device."""
        return {leaf.spec.source.name: leaf for leaf in await self.kube.list(LeafDevice, namespace=self.namespace)}

    async def flavors(self) -> list[Flavor]:
        return sorted(
            await self.kube.list(Flavor, namespace=self.namespace), key=lambda flavor: characteristics(flavor)["uid"]
        )

    async def until(self, holds: Callable[[dict[str, LeafDevice], list[Flavor]], Any]) -> list[Flavor]:
        """The flavors as soon as leaves and flavors are as asked."""
        leaves, flavors = {}, []
        for _ in range(300):
            leaves, flavors = await self.leaves(), await self.flavors()
            if holds(leaves, flavors):
                return flavors
            await asyncio.sleep(0.05)
        raise AssertionError(f"never came: {leaves} {flavors}")

    def writes(self) -> list[str]:
        """Every request of anyone that could have changed our kinds in this namespace, by the audit log."""
        assert self.cluster.audit_log is not None
        written = []
        complete, _, _on_its_way = self.cluster.audit_log.read_text().rpartition("\n")
        for line in complete.splitlines():
            entry = json.loads(line)
            what = entry.get("objectRef", {})
            ours = what.get("namespace") == self.namespace and what.get("resource") in {"leafdevices", "flavors"}
            if ours and entry["verb"] not in {"get", "list", "watch"}:
                written.append(f"{entry['verb']} {what['resource']} {what.get('name')}")
        return written

    @contextlib.asynccontextmanager
    async def discovery(
        self,
        *,
        graces: Graces | None = None,
        clock: Callable[[], datetime] | None = None,
        insecure: bool = True,
        kube: Kube | None = None,
    ) -> AsyncIterator[DiscoveryReconciler]:
        """Discovery at work, until the end of the block."""
        settings = DiscoverySettings(terms=Terms(identity=IDENTITY), graces=graces or Graces(), insecure=insecure)
        reconciler = DiscoveryReconciler(kube or self.kube, settings, clock or self.clock)
        followed = {
            NODES: reconciler.node_seen,
            NAMESPACES: reconciler.namespace_seen,
            Kind(f"devices.kubeedge.io/{self.version}", "devices"): reconciler.device_seen,
            Kind.of(DeviceStatus.crd): reconciler.device_status_seen,
            Kind.of(LeafDevice.crd): reconciler.leaf_seen,
            Kind.of(Flavor.crd): reconciler.flavor_seen,
            Kind.of(Firmware.crd): reconciler.firmware_seen,
        }
        synced = [asyncio.Event() for _ in followed]
        tasks = [
            asyncio.create_task(
                follow(
                    self.kube,
                    kind,
                    changed=changed,
                    synced=event,
                    namespace=None if kind in (NODES, NAMESPACES) else self.namespace,
                )
            )
            for (kind, changed), event in zip(followed.items(), synced, strict=True)
        ]
        tasks.append(asyncio.create_task(reconciler.run()))
        try:
            async with asyncio.timeout(15):
                for event in synced:
                    await event.wait()
            yield reconciler
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Asks until it is so."""
    for _ in range(300):
        if await holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("never")


def characteristics(flavor: Flavor) -> dict[str, Any]:
    found: dict[str, Any] = flavor.spec.flavor_type.type_data["characteristics"]
    return found


def condition(leaf: LeafDevice | None, name: str) -> tuple[str, str]:
    """Status and reason."""
    conditions = leaf.status.conditions if leaf and leaf.status else ()
    return next(((each.status, each.reason) for each in conditions if each.type == name), ("", ""))


@pytest.fixture
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as connected:
        yield connected


@pytest.fixture
def site(cluster: Cluster, kube: Kube, namespace: str) -> Site:
    return Site(cluster=cluster, kube=kube, namespace=namespace, clock=Clock())
