"""What identity costs: appraisals against their bare signature checks, and devices at the door of the real issuer.

A real API server, the issuer as a process with its own account, and devices with DICE engines in this process, which is
the other core. Each device's status is written to its LeafDevice as ever. `scripts/bench.sh identity [--short]`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks import identity_appraisal, identity_tls
from benchmarks.identity_appraisal import FIRMWARE
from benchmarks.relay_engines import Relay
from benchmarks.relay_stage import Stage
from benchmarks.report import Figure, finish
from benchmarks.usage import cpu_seconds
from crds.kube.client import Kind, Kube
from crds.models.appraisal import CONFIG_MAP, KEY
from crds.models.leafdevice import LeafDevice
from scripts.simulator.dice import BOOT_LOADER, Device, Image
from scripts.simulator.doors import attest
from scripts.simulator.factory import Factory, policy_yaml
from scripts.testbed.cluster import Cluster
from scripts.testbed.controlplane import ControlPlanes
from scripts.testbed.manifests import REPOSITORY, install
from scripts.testbed.processes import Child, free_port
from spire.domain import cbor
from spire.domain.authorization import exactly
from spire.helper.issuer import Roots
from spire.identity import Identity, Svid
from spire.tls import anonymous_client_context

FLEET: Final = 10_000
FLEET_MINUTES: Final = 5
ROUTE_RATE: Final = 1_000
_LEAVES = Kind.of(LeafDevice.crd)
_NAMESPACE: Final = "default"
_IN_FLIGHT: Final = 8
_LIMIT: Final = 900.0


@dataclass(frozen=True, slots=True)
class Door:
    """The issuer.

    Attributes:
        url: where it listens.
        bundle: its roots.
        pid: of its process.
    """

    url: str
    bundle: Path
    pid: int


async def measure(cluster: Cluster, directory: Path, *, devices: int, alone: int, route_seconds: int) -> list[Figure]:
    """Figures of devices that attest."""
    factory = Factory.found("acme")
    fleet = [_device(factory, number) for number in range(devices)]
    policy = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP, "namespace": "fluidos"}}
    cluster.apply([{**policy, "data": {KEY: policy_yaml(factory.policy([FIRMWARE]))}}])
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube, _issuer(cluster, directory) as door:
        await asyncio.gather(*(_in_turn(_create(kube, each) for each in fleet[first::32]) for first in range(32)))
        await _expected(door, fleet[-1])
        print(f"{devices} LeafDevices, attesting for the first time", flush=True)
        await _attest_all(door, fleet)
        await _written(kube, devices, since=0)
        print("attesting again", flush=True)
        asked = [await asyncio.to_thread(_ask, door, device) for device in fleet[:alone]]
        began, spent = time.time(), cpu_seconds(door.pid)
        seconds = await _attest_all(door, fleet)
        await _written(kube, devices, since=int(began))
        spent = cpu_seconds(door.pid) - spent
        print(
            f"a route at {ROUTE_RATE} messages/s, alone and while the fleet attests in {FLEET_MINUTES} minutes",
            flush=True,
        )
        beside, quiet = await _routes_beside(door, fleet, directory, seconds=route_seconds)
    return [
        Figure(
            key="routeP99BesideMilliseconds",
            text=f"p99 of a route at {ROUTE_RATE:,}/s while {FLEET:,} devices attest in {FLEET_MINUTES} minutes, ms",
            value=beside,
            goal=10,
            holds="below",
            peer=f"the same route alone: {quiet:.2f} ms",
        ),
        Figure(
            key="askToSvidMilliseconds",
            text="device asks to SVID in hand, its TLS handshake included, p50, ms",
            value=statistics.median(asked),
            goal=25,
            holds="below",
            peer=f"slowest of {alone}: {max(asked):.0f} ms",
        ),
        Figure(
            key="reattestMinutes",
            text=f"{FLEET:,} devices attest again, minutes",
            value=seconds / devices * FLEET / 60,
            goal=5,
            holds="at most",
            peer=f"{devices} in {seconds:.0f} s, {1000 * spent / devices:.2f} ms of the issuer's CPU each",
        ),
    ]


def _device(factory: Factory, number: int) -> Device:
    board = factory.board(number.to_bytes(32, "big"), form="cbor" if number % 2 else "x509")
    return board.boot(Image(code=BOOT_LOADER).inputs(), FIRMWARE.inputs())


async def _create(kube: Kube, device: Device) -> None:
    ueid = str(device.claims.ueid)
    name = f"leaf-{ueid}"
    body = {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "LeafDevice",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "spec": {
            "ueid": ueid,
            "nodeName": "edge-1",
            "source": {"kind": "KubeEdgeDevice", "apiVersion": "v1", "name": name},
        },
    }
    await kube.request("POST", _LEAVES.path(namespace=_NAMESPACE), body=body)


async def _in_turn(work: Any) -> None:
    for each in work:
        await each


@asynccontextmanager
async def _issuer(cluster: Cluster, directory: Path) -> AsyncIterator[Door]:
    port, bundle = free_port(), directory / "bundle.pem"
    kubeconfig = cluster.service_account_kubeconfig("fluidos", "identity-issuer")
    command = [
        *(sys.executable, "-m", "spire.issuer", "--kubeconfig", str(kubeconfig), "--trust-domain", "site.bench"),
        *("--listen", f"127.0.0.1:{port}", "--bundle-file", str(bundle), "--state-dir", str(directory / "state")),
    ]
    child = Child(name="issuer", command=command, directory=REPOSITORY, logs=directory)
    try:
        await asyncio.to_thread(child.wait_until, bundle.exists, what="the issuer's roots", limit=60)
        yield Door(f"https://127.0.0.1:{port}", bundle, child.pid)
    finally:
        child.stop()


def _ask(door: Door, device: Device) -> float:
    """One device by itself, as the simulator's do it; milliseconds."""

    def react(message: bytes) -> bytes | Identity | str:
        match cbor.decode(message, field="answer", limit=1 << 16):
            case {"nonce": bytes() as nonce}:
                return cbor.encode([device.evidence(nonce=nonce), device.csr()])
            case {"chain": [*chain]}:
                return Identity(
                    svid=Svid.parse([each for each in chain if isinstance(each, bytes)], key=b""), bundles={}
                )
            case other:
                return str(other)

    began = time.perf_counter()
    answer = attest(door.url, bundle=door.bundle, ueid=device.claims.ueid, react=react)
    assert isinstance(answer, Identity), answer
    return 1000 * (time.perf_counter() - began)


async def _expected(door: Door, device: Device) -> None:
    """Until the issuer has heard of the last LeafDevice."""
    async with asyncio.timeout(60), _session(door) as http:
        while True:
            async with http.post(f"/v1/devices/{device.claims.ueid}/challenge") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.5)


async def _attest_all(door: Door, fleet: Sequence[Device]) -> float:
    """All devices, as edge agents carry them: over few connections that are kept. Seconds."""
    began = time.perf_counter()
    async with asyncio.timeout(_LIMIT), _session(door) as http:
        shares = (fleet[first::_IN_FLIGHT] for first in range(_IN_FLIGHT))
        await asyncio.gather(*(_in_turn(_attest(http, device) for device in share) for share in shares))
    return time.perf_counter() - began


async def _routes_beside(door: Door, fleet: Sequence[Device], directory: Path, *, seconds: int) -> tuple[float, float]:
    """p99 of a route in milliseconds, beside devices that attest at the fleet's pace, and alone."""
    with Stage(directory) as stage:

        async def p99() -> float:
            count, rate = seconds * ROUTE_RATE, float(ROUTE_RATE)
            run = await asyncio.to_thread(stage.run, Relay(), count=count, rate=rate)
            assert run.lost == 0, f"{run.lost} messages lost"
            return run.p99_ms

        beside, quiet = [], []
        for _ in range(3):
            quiet.append(await p99())
            pacing = asyncio.create_task(_attest_paced(door, fleet))
            try:
                beside.append(await p99())
            finally:
                pacing.cancel()
                await asyncio.wait([pacing])
                assert pacing.cancelled(), pacing.exception()
    return statistics.median(beside), statistics.median(quiet)


async def _attest_paced(door: Door, fleet: Sequence[Device]) -> None:
    """One device after the other, as fast as the whole fleet has to, until cancelled."""
    pause = FLEET_MINUTES * 60 / FLEET
    clock = asyncio.get_running_loop().time
    async with _session(door) as http:
        due = clock()
        for device in cycle(fleet):
            due = max(due + pause, clock() - 1)
            await asyncio.sleep(due - clock())
            await _attest(http, device)


async def _attest(http: aiohttp.ClientSession, device: Device) -> None:
    path = f"/v1/devices/{device.claims.ueid}"
    async with http.post(f"{path}/challenge") as answer:
        challenge: Any = cbor.decode(await answer.read(), field="challenge", limit=1 << 16)
    body = cbor.encode([device.evidence(nonce=challenge["nonce"]), device.csr()])
    async with http.post(f"{path}/evidence", data=body) as answer:
        assert answer.status == 200, await answer.read()
        await answer.read()


@asynccontextmanager
async def _session(door: Door) -> AsyncIterator[aiohttp.ClientSession]:
    domain, roots = Roots(door.bundle, None).read()
    context = anonymous_client_context({domain: roots}, authorize=exactly(domain.spiffe_id("issuer")))
    connector = aiohttp.TCPConnector(ssl=context, limit=_IN_FLIGHT)
    async with aiohttp.ClientSession(door.url, connector=connector) as session:
        yield session


async def _written(kube: Kube, devices: int, *, since: int) -> None:
    """Until the status of every LeafDevice says what its device has proven."""
    after = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    async with asyncio.timeout(_LIMIT):
        while True:
            listed = await kube.request("GET", _LEAVES.path(namespace=_NAMESPACE))
            times = [each.get("status", {}).get("trust", {}).get("attestedTime", "") for each in listed["items"]]
            if sum(each >= after for each in times) >= devices:
                return
            await asyncio.sleep(1)


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.identity", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer and smaller runs, for CI")
    short: bool = parser.parse_args().short
    figures = identity_appraisal.figures(rounds=50 if short else 400)
    with tempfile.TemporaryDirectory(prefix="bench-identity-") as folder:
        directory = Path(folder)
        with ControlPlanes(directory / "planes") as planes:
            cluster = planes.start_cluster("site", controllers=False)
            install(cluster)
            count, alone, pace = (300, 50, 3) if short else (FLEET, 300, 20)
            figures += asyncio.run(measure(cluster, directory, devices=count, alone=alone, route_seconds=pace))
    return finish("identity", figures + identity_tls.figures(short=short))


if __name__ == "__main__":
    sys.exit(main())
