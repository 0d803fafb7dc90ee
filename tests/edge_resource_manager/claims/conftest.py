"""Claims at work: a real API server, providers that do as they are told, the account that the manager has."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from crds.kube.client import EVENTS, Kind, Kube
from crds.kube.watch import Change, Put, follow
from crds.models.base import Resource
from crds.models.fluidos import KnownCluster
from crds.models.sensorclaim import Binding, SensorClaim
from edge_resource_manager.claiming import ClaimReconciler, ClaimSettings
from scripts.testbed.cluster import Cluster
from spire.identity import IdentitySource
from tests.edge_resource_manager.claims.rear_simulator import RearSimulator
from tests.edge_resource_manager.claims.samples import ENDPOINT

IDENTITY = {
    "metadata": {"name": "fluidos-node-identity", "namespace": "fluidos"},
    "data": {"domain": "fluidos.eu", "nodeID": "consumer1", "ip": "192.0.2.9", "port": "3004"},
}
QUICK = ClaimSettings(request=0.5, look=1.0, provider_grace=1.0, refusal=0.5, release=2.0)
NEED: dict[str, Any] = {"sensor": {"type": "Humidity"}, "limits": {"latencyMicroseconds": {"lessThan": 16_000}}}


@dataclass
class Site:
    """A namespace with claims, and the providers that it knows."""

    cluster: Cluster
    kube: Kube
    manager: Kube
    namespace: str
    stack: AsyncExitStack
    providers: dict[str, RearSimulator] = field(default_factory=dict)

    async def provider(self, name: str = "provider-1", *, known: bool = True) -> RearSimulator:
        simulator = await self.stack.enter_async_context(RearSimulator(name).serve())
        self.providers[name] = simulator
        if known:
            self.know(name, simulator.address)
        return simulator

    def know(self, name: str, address: str) -> None:
        self.cluster.apply([self._object("network.fluidos.eu/v1alpha1", "KnownCluster", name, {"address": address})])

    async def forget(self, name: str) -> None:
        await self.kube.delete(KnownCluster, name, namespace=self.namespace)

    def claim(self, name: str = "humidity", *, count: Any = 1, **spec: Any) -> None:
        wanted = {**(spec or NEED), "count": count}
        wanted.setdefault("endpoints", [ENDPOINT])
        self.cluster.apply([self._object("edge.fluidos.eu/v1alpha1", "SensorClaim", name, wanted)])

    def _object(self, version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        }

    async def read(self, name: str = "humidity") -> SensorClaim | None:
        return await self.kube.get(SensorClaim, name, namespace=self.namespace)

    async def until(self, holds: Callable[[SensorClaim], Any], *, name: str = "humidity") -> SensorClaim:
        claim = None
        for _ in range(600):
            claim = await self.read(name)
            if claim is not None and holds(claim):
                return claim
            await asyncio.sleep(0.03)
        raise AssertionError(f"never came: {claim and claim.status}")

    async def told(self, reason: str) -> list[str]:
        """Notes of Events of this reason, as soon as there are any: they are posted after the status is written."""
        for _ in range(600):
            answer = await self.kube.request("GET", EVENTS.path(namespace=self.namespace))
            if notes := [each["note"] for each in answer["items"] if each["reason"] == reason]:
                return notes
            await asyncio.sleep(0.03)
        raise AssertionError(f"no Event {reason}")

    @asynccontextmanager
    async def reconciler(
        self,
        *,
        settings: ClaimSettings = QUICK,
        kube: Kube | None = None,
        identity: bool = True,
        svid: IdentitySource | None = None,
    ) -> AsyncIterator[ClaimReconciler]:
        """Claims at work until the end of the block, which ends them as a SIGKILL would: nothing is tidied up."""
        claims = ClaimReconciler(kube or self.manager, settings, lambda: datetime.now(UTC), identity=svid)
        if identity:
            claims.identity_seen(Put(("fluidos", "fluidos-node-identity"), IDENTITY))
        followed: dict[type[Resource], Callable[[Change], None]] = {
            SensorClaim: claims.claim_seen,
            KnownCluster: claims.known_cluster_seen,
        }
        synced = {kind: asyncio.Event() for kind in followed}
        tasks = [
            asyncio.create_task(
                follow(self.kube, Kind.of(kind.crd), changed=seen, synced=synced[kind], namespace=self.namespace)
            )
            for kind, seen in followed.items()
        ]
        try:
            async with asyncio.timeout(15):
                for event in synced.values():
                    await event.wait()
            tasks.append(asyncio.create_task(claims.run()))
            yield claims
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def eventually(holds: Callable[[], bool | Awaitable[bool]], what: str = "") -> None:
    for _ in range(600):
        found = holds()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.03)
    raise AssertionError(f"never: {what}")


def condition(claim: SensorClaim, name: str) -> tuple[str, str, str]:
    """Status, reason, message."""
    conditions = claim.status.conditions if claim.status else ()
    found = next((each for each in conditions if each.type == name), None)
    return (found.status, found.reason, found.message) if found else ("", "", "")


def is_ready(claim: SensorClaim) -> bool:
    current = claim.status is not None and claim.status.observed_generation == claim.metadata.generation
    return current and condition(claim, "Ready")[0] == "True"


def bindings(claim: SensorClaim) -> dict[str, Binding]:
    return {each.flavor: each for each in claim.status.bindings} if claim.status else {}


@pytest.fixture(scope="session")
def account(cluster: Cluster) -> Any:
    return cluster.service_account_kubeconfig("fluidos", "edge-resource-manager")


@pytest.fixture
async def site(cluster: Cluster, account: Any, namespace: str) -> AsyncIterator[Site]:
    async with (
        await Kube.connect(kubeconfig=cluster.kubeconfig) as kube,
        await Kube.connect(kubeconfig=account) as manager,
        AsyncExitStack() as stack,
    ):
        yield Site(cluster=cluster, kube=kube, manager=manager, namespace=namespace, stack=stack)
        # Whatever a test left must not keep its namespace from going.
        for claim in await kube.list(SensorClaim, namespace=namespace):
            with contextlib.suppress(Exception):
                await kube.patch(
                    SensorClaim,
                    claim.metadata.name,
                    namespace=namespace,
                    body={"metadata": {"finalizers": None}},
                    manager="test",
                )
