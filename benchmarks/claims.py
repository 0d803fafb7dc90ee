"""From `kubectl apply` of a claim to its first reading: one consumer, one provider, every process as in the demo.

One claim after the other: applied, bound, first reading at its endpoint, deleted. The devices publish all the time, so
what is measured is the way of the claim and of the data, and at most one period of the devices. In a second round a
provider that takes connections and never answers is known, too. Everybody has an identity and everything is mutual TLS,
as in the demo; `--insecure` measures without.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from aiohttp import web

from benchmarks.report import Figure, finish
from crds.kube.client import CONFIG_MAPS, Kind, Kube
from crds.kube.watch import Change, Put, follow
from crds.models.sensorclaim import SensorClaim
from scripts.demo.crew import Crew
from scripts.demo.factory import Boards
from scripts.demo.inventory import NAMESPACE, boards
from scripts.demo.observe import offers, simulated
from scripts.demo.site import Consumer, Provider
from scripts.demo.trust import identify
from scripts.sink.identity import identity_in
from scripts.testbed.controlplane import ControlPlanes
from spire.domain.authorization import under
from spire.identity import IdentitySource
from spire.tls import server_context

LIMIT = 60.0
RATE = 50.0
"""Readings a second of each sensor."""
CLAIMS = Kind.of(SensorClaim.crd)


@dataclass(slots=True)
class Seen:
    """When things came about, by claim."""

    bound: dict[str, float] = field(default_factory=dict)
    delivered: dict[str, float] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def claim_changed(self, change: Change) -> None:
        """From the watch of claims."""
        name = change.key[1]
        if not isinstance(change, Put):
            self.gone.add(name)
        elif any(each["type"] == "Bound" and each["status"] == "True" for each in _conditions(change.obj)):
            self.bound.setdefault(name, time.perf_counter())
        self.news.set()

    async def deliver(self, request: web.Request) -> web.Response:
        """The endpoint of every claim."""
        await request.read()
        self.delivered.setdefault(request.match_info["claim"], time.perf_counter())
        self.news.set()
        return web.Response(status=204)

    async def until(self, name: str, *where: Any) -> None:
        """Until the claim is in each of these."""
        async with asyncio.timeout(LIMIT):
            while not all(name in each for each in where):
                await self.news.wait()
                self.news.clear()


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds from apply, one a claim."""

    bound: list[float]
    first: list[float]


async def measure(kube: Kube, *, claims: int, files: Path | None) -> list[Figure]:
    """All figures; the clusters and their processes are there. `files` are the identity of the endpoints."""
    seen = Seen()
    async with identity_in(files) as identity, _served(seen, identity) as sink, _watched(kube, seen):
        await _one(kube, seen, sink, "warm-up")
        writes = [await _write(kube, number) for number in range(20)]
        alone = [await _one(kube, seen, sink, f"claim-{number}") for number in range(claims)]
        with _black_hole() as silent:
            await _know(kube, "silent", silent)
            beside = [await _one(kube, seen, sink, f"beside-{number}") for number in range(max(claims // 3, 3))]
    warm, delayed = (Times(*map(list, zip(*rows, strict=True))) for rows in (alone, beside))
    write = f"one plain write: {median(writes):.1f} ms"
    return [
        _figure("bound", "applied to bound, p50, ms", median(warm.bound), peer=write),
        _figure(
            "firstMessage",
            "applied to first reading, p50, ms",
            median(warm.first),
            peer=f"a reading every {1000 / RATE:.0f} ms",
        ),
        _figure(
            "slowestFirstMessage",
            "applied to first reading, slowest, ms",
            max(warm.first),
            peer=f"of {len(warm.first)}",
        ),
        _figure(
            "boundBesideSilent",
            "applied to bound while another provider hangs, p50, ms",
            median(delayed.bound),
            peer=f"slowest {max(delayed.bound):.0f} ms",
        ),
    ]


def _figure(key: str, text: str, value: float, *, peer: str) -> Figure:
    return Figure(key=f"{key}Milliseconds", text=text, value=value, goal=1000, holds="below", peer=peer)


async def _one(kube: Kube, seen: Seen, sink: str, name: str) -> tuple[float, float]:
    """One claim's life; milliseconds until it was bound and until its first reading came."""
    claim = {
        "apiVersion": SensorClaim.crd.api_version,
        "kind": SensorClaim.crd.kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "sensor": {"type": "Humidity", "mcuFamily": "STM32"},
            "limits": {"latencyMicroseconds": {"lessThan": 16000}},
            "endpoints": [{"name": "sink", "url": f"{sink}/{name}"}],
        },
    }
    started = time.perf_counter()
    await kube.request("POST", CLAIMS.path(namespace=NAMESPACE), body=claim)
    await seen.until(name, seen.bound, seen.delivered)
    await kube.request("DELETE", CLAIMS.path(namespace=NAMESPACE, name=name))
    await seen.until(name, seen.gone)
    return 1000 * (seen.bound[name] - started), 1000 * (seen.delivered[name] - started)


async def _write(kube: Kube, number: int) -> float:
    started = time.perf_counter()
    body = {"metadata": {"name": f"plain-{number}"}, "data": {"number": str(number)}}
    await kube.request("POST", CONFIG_MAPS.path(namespace=NAMESPACE), body=body)
    return 1000 * (time.perf_counter() - started)


async def _know(kube: Kube, name: str, address: str) -> None:
    """A cluster made known by hand; the manager's watch tells it within milliseconds."""
    path = Kind("network.fluidos.eu/v1alpha1", "knownclusters").path(namespace=NAMESPACE)
    await kube.request("POST", path, body={"metadata": {"name": name}, "spec": {"address": address}, **_KNOWN})
    await asyncio.sleep(1)


_KNOWN = {"apiVersion": "network.fluidos.eu/v1alpha1", "kind": "KnownCluster"}


def _conditions(obj: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (obj.get("status") or {}).get("conditions", [])
    return found


@asynccontextmanager
async def _served(seen: Seen, identity: IdentitySource | None) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes([web.post("/{claim}", seen.deliver)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    context = None if identity is None else server_context(identity, authorize=under("/relay/"))
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _watched(kube: Kube, seen: Seen) -> AsyncIterator[None]:
    synced = asyncio.Event()
    task = asyncio.create_task(follow(kube, CLAIMS, changed=seen.claim_changed, synced=synced, namespace=NAMESPACE))
    try:
        async with asyncio.timeout(LIMIT):
            await synced.wait()
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextmanager
def _black_hole() -> Iterator[str]:
    """Takes connections, for the kernel does, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        yield "{}:{}".format(*server.getsockname())


async def _run(consumer: Consumer, *, claims: int) -> list[Figure]:
    async with await Kube.connect(kubeconfig=consumer.cluster.kubeconfig) as kube:
        return await measure(kube, claims=claims, files=consumer.sink_files)


def _start(directory: Path, stack: ExitStack, *, insecure: bool) -> Consumer:
    """Everything up to devices that publish and a consumer that knows their provider."""
    known = None if insecure else Boards(directory / "boards")
    planes = stack.enter_context(ControlPlanes(directory / "state"))
    clusters = planes.start_clusters(["consumer-1", "provider-1"])
    consumer = Consumer(clusters[0], 1, directory=directory, insecure=insecure)
    provider = Provider(clusters[1], 1, directory=directory, boards=known)
    crew = Crew(directory)
    for site in (consumer, provider):
        site.prepare()
    if known is not None:
        identify([consumer, provider], crew, boards=known, limit=LIMIT)
    provider.open_broker(stack)
    stack.callback(crew.stop)
    provider.start(crew, discover=None)
    consumer.start(crew, discover=None)
    consumer.know([provider])
    crew.wait_ready(limit=LIMIT)
    provider.plug_in()
    sensors = sum(len(board.parts) for board in boards(1))
    crew.wait(lambda: len(simulated(provider)) == sensors, what="the LeafDevices", limit=LIMIT)
    devices = directory / "devices.json"
    devices.write_bytes(orjson.dumps(simulated(provider)))
    crew.start("devices", "scripts.simulator", "--devices", devices, "--rate", str(RATE))
    crew.wait(lambda: len(offers(provider)) == sensors, what="the flavors", limit=LIMIT)
    return consumer


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.claims", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer claims, for CI")
    parser.add_argument("--insecure", action="store_true", help="without identities and TLS")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-claims-")))
        print("starting a consumer and a provider ...", flush=True)
        consumer = _start(directory, stack, insecure=options.insecure)
        print("claiming ...", flush=True)
        figures = asyncio.run(_run(consumer, claims=9 if options.short else 30))
    return finish("claims", figures)


if __name__ == "__main__":
    sys.exit(main())
