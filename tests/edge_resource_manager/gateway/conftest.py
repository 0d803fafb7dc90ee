"""A gateway in this process, with a clock that tests set, under the account that it has in a cluster."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic_settings import CliApp

from crds.kube.client import Kube, Unavailable
from edge_resource_manager.gateway.service import Gateway
from edge_resource_manager.gateway.settings import GatewaySettings
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import free_port
from spire.domain.authorization import under
from spire.identity import FixedIdentity, IdentitySource
from spire.tls import client_context
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.parties import GATEWAY, ONE, SELLER, TWO, buyer


@dataclass
class Clock:
    """Time as the gateway sees it."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass
class Answer:
    """An answer that was read."""

    status: int
    json: Any
    headers: Any


class Kubernetes(Kube):
    """The real API server, whose answers to writes can get lost on the way."""

    lost_answers = 0

    async def request(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        answer = await super().request(method, path, **arguments)
        if method != "GET" and self.lost_answers:
            self.lost_answers -= 1
            raise Unavailable(f"{method} {path}: the answer got lost")
        return answer


@dataclass
class Provider:
    """A running gateway and how tests talk to it."""

    cluster: Cluster
    kube: Kubernetes
    gateway: Gateway
    clock: Clock
    http: aiohttp.ClientSession
    url: str
    tls: ssl.SSLContext | bool = True

    def to(self, buyer: IdentitySource) -> "Provider":
        """The same gateway, spoken to by somebody."""
        return replace(self, tls=client_context(buyer, authorize=under("/manager/rear-gateway")))

    async def ask(self, method: str, path: str, **arguments: Any) -> Answer:
        async with self.http.request(method, f"{self.url}{path}", ssl=self.tls, **arguments) as response:
            body = await response.read()
            kind = response.content_type
            json = await response.json(content_type=None) if body and kind.endswith("json") else None
            return Answer(response.status, json, response.headers)

    async def get(self, path: str, **query: str) -> Answer:
        return await self.ask("GET", path, params=query)

    async def reserve(self, flavor_id: str, **changed: Any) -> Answer:
        if self.url.startswith("https"):
            changed.setdefault("url", samples.SECURE_TARGET)
        return await self.ask("POST", "/reservations", json=samples.wish(flavor_id, **changed))

    async def purchase(self, transaction_id: str, **arguments: Any) -> Answer:
        return await self.ask("POST", f"/transactions/{transaction_id}/purchase", **arguments)

    async def offer(self, *flavors: dict[str, Any]) -> tuple[str, ...]:
        """Apply flavors and wait until the gateway has them as they are; their names."""
        self.cluster.apply(flavors)
        names = tuple(each["metadata"]["name"] for each in flavors)
        await eventually(lambda: all(map(self._has, flavors)), f"the gateway has {', '.join(names)}")
        return names

    def _has(self, flavor: dict[str, Any]) -> bool:
        listed = self.gateway.store.find(flavor["metadata"]["name"])
        spec = flavor["spec"]
        return (
            listed is not None
            and listed.type_data == spec["flavorType"]["typeData"]
            and listed.available == spec["availability"]
        )

    def objects(self, plural: str, namespace: str) -> list[dict[str, Any]]:
        """What the API server has."""
        path = f"/apis/reservation.fluidos.eu/v1alpha1/namespaces/{namespace}/{plural}"
        items: list[dict[str, Any]] = self.cluster.api.request("GET", path)["items"]
        return items


async def eventually(holds: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    for _ in range(600):
        found = holds()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.03)
    raise AssertionError(f"never: {what}")


def flags(kubeconfig: Path, *, identity_socket: Path | None = None, **changed: Any) -> list[str]:
    """The command line, by default without an identity; two places a sensor unless it says otherwise itself."""
    values = {"kubeconfig": kubeconfig, "listen": f"127.0.0.1:{free_port()}", "max_consumers": 2, **changed}
    words = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [*words, "--identity-socket", str(identity_socket)] if identity_socket else [*words, "--insecure"]


@asynccontextmanager
async def running(
    cluster: Cluster, *, tidy_seconds: float = 0.1, identity: IdentitySource | None = None, **changed: Any
) -> AsyncIterator[Provider]:
    """A gateway; with an identity `Provider.to` says who asks."""
    account = cluster.service_account_kubeconfig("fluidos", "rear-gateway")
    settings = CliApp.run(GatewaySettings, cli_args=flags(account, **changed))
    clock = Clock()
    stop = asyncio.Event()
    async with await Kubernetes.connect(kubeconfig=account) as kube, aiohttp.ClientSession() as http:
        assert isinstance(kube, Kubernetes)
        gateway = Gateway(kube, settings, identity=identity, clock=clock, tidy_seconds=tidy_seconds)
        task = asyncio.create_task(gateway.run(stop))
        try:
            await eventually(lambda: task.done() or gateway.is_ready(), "the gateway is ready")
            scheme = "https" if identity else "http"
            yield Provider(cluster, kube, gateway, clock, http, f"{scheme}://{settings.listen}/api/v2")
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)


@pytest.fixture(scope="session")
def provider_cluster(cluster: Cluster) -> Cluster:
    """The shared cluster, with a node identity."""
    cluster.apply([samples.IDENTITY])
    return cluster


@pytest.fixture
async def untidy(provider_cluster: Cluster) -> AsyncIterator[Provider]:
    """A gateway that clears up only when it is told to."""
    async with running(provider_cluster, tidy_seconds=3600) as started:
        yield started


@pytest.fixture
async def provider(provider_cluster: Cluster) -> AsyncIterator[Provider]:
    async with running(provider_cluster) as started:
        yield started


@pytest.fixture
def identity() -> FixedIdentity:
    return FixedIdentity(SELLER.identity(GATEWAY, knows=(ONE, TWO)))


@pytest.fixture
async def secured(provider_cluster: Cluster, identity: FixedIdentity) -> AsyncIterator[Provider]:
    async with running(provider_cluster, identity=identity) as started:
        yield started


@pytest.fixture
def one(secured: Provider) -> Provider:
    return secured.to(buyer(ONE))


@pytest.fixture
def two(secured: Provider) -> Provider:
    return secured.to(buyer(TWO))
