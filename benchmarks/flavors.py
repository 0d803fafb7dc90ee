"""Discovery at a thousand devices: how soon all flavors are there, how soon a change is, and what idling costs.

A real API server and the manager's own process under its own account. The limit that it is held against: the same
client, with the same number of requests in flight, creates the very same four objects a device (itself, its LeafDevice,
two Flavors) on a fresh API server of the same kind, where nobody reacts to them. It is held against as many ConfigMaps,
too: these have no schema to be checked against and cost that server less than half.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.report import Figure, finish
from benchmarks.usage import cpu_seconds, resident_megabytes
from crds.kube.client import CONFIG_MAPS, Kind, Kube, Object
from crds.models.base import ObjectMeta
from crds.models.fluidos import IDENTITY_CONFIG_MAP, Flavor, NodeIdentity
from crds.models.kubeedge import Device
from crds.models.leafdevice import LeafDevice
from crds.naming import flavor_name, leaf_device_name
from edge_resource_manager.adapters.kubeedge import parse_device
from edge_resource_manager.domain.devices import describe
from edge_resource_manager.domain.flavors import Terms, flavor_of
from edge_resource_manager.offering import SOURCE
from scripts.testbed.cluster import Cluster
from scripts.testbed.controlplane import ControlPlanes
from scripts.testbed.manifests import install
from scripts.testbed.processes import Child

_ROOT = Path(__file__).parent.parent
_IN_FLIGHT = 32
_OBJECTS_A_DEVICE = 4  # itself, its LeafDevice, two Flavors
_NAMESPACE = "bench"
_NODE = "edge-1"
_DOMAIN = "fluidos.eu"
_WRITES = re.compile(r'apiserver_request_total\{.*resource="([^"]+)".*verb="(?:POST|PUT|PATCH|APPLY|DELETE)".*\} (\S+)')


@dataclass(frozen=True, slots=True)
class Idle:
    """A manager with nothing to do."""

    cpu_percent: float
    megabytes: float
    writes: float


async def plain_creates(kube: Kube, *, devices: int) -> tuple[float, float]:
    """Seconds for the objects of so many devices, and for as many ConfigMaps."""
    count = _OBJECTS_A_DEVICE * devices
    print(f"creating {count} plain objects, and {count} ConfigMaps ...", flush=True)
    objects = [each for number in range(devices) for each in _consequences(number)]
    maps = [(CONFIG_MAPS, _config_map(number)) for number in range(count)]
    return await _timed(_create_all(kube, objects)), await _timed(_create_all(kube, maps))


async def measure(
    kube: Kube, cluster: Cluster, logs: Path, *, devices: int, idle_seconds: float, plain: tuple[float, float]
) -> list[Figure]:
    """All figures, of one run."""
    with _manager(cluster, logs) as manager:
        await kube.request("POST", _DEVICES.path(namespace=_NAMESPACE), body=_device(devices))
        await _until(lambda: _count(kube, Kind.of(Flavor.crd)), 2)
        print(f"creating {devices} devices ...", flush=True)
        before = cpu_seconds(manager.pid)
        seconds = await _timed(_discovered(kube, devices))
        used = cpu_seconds(manager.pid) - before
        await _until(lambda: _told(kube), devices + 1)
        follows = [await _timed(_follow(kube, number)) for number in range(min(20, devices))]
        print(f"idling for {idle_seconds:g} s ...", flush=True)
        idle = await _idle(cluster, manager, seconds=idle_seconds)
    return [
        Figure(
            key="ofPlainCreates",
            text=f"{devices} devices to {2 * devices} flavors, times the same objects created by hand",
            value=seconds / plain[0],
            goal=2,
            holds="below",
            peer=f"{seconds:.2f} s ({used:.2f} s CPU), by hand {plain[0]:.2f} s",
        ),
        Figure(
            key="ofConfigMapCreates",
            text="the same, times as many ConfigMaps",
            value=seconds / plain[1],
            goal=2,
            holds="below",
            peer=f"ConfigMaps {plain[1]:.2f} s; by hand is {plain[0] / plain[1]:.2f} times that",
        ),
        Figure(
            key="followP50Milliseconds",
            text="a device changes until its flavor does, median ms",
            value=statistics.median(follows) * 1000,
            goal=1000,
            holds="below",
            peer=f"slowest {max(follows) * 1000:.0f} ms",
        ),
        Figure(key="idleCpuPercent", text="idle CPU, % of a core", value=idle.cpu_percent, goal=1, holds="below"),
        Figure(key="idleMegabytes", text="idle memory, MB", value=idle.megabytes, goal=150, holds="below"),
        Figure(
            key="idleWrites", text="API writes while idle (its Lease apart)", value=idle.writes, goal=0, holds="at most"
        ),
    ]


_DEVICES = Kind.of(Device.crd)


def _manager(cluster: Cluster, logs: Path) -> Child:
    kubeconfig = cluster.service_account_kubeconfig("fluidos", "edge-resource-manager")
    command = [sys.executable, "-m", "edge_resource_manager", "--insecure", "--kubeconfig", str(kubeconfig)]
    return Child(name="edge-resource-manager", command=command, directory=_ROOT, logs=logs)


async def _discovered(kube: Kube, devices: int) -> None:
    await _create_all(kube, ((_DEVICES, _device(number)) for number in range(devices)))
    await _until(lambda: _count(kube, Kind.of(LeafDevice.crd)), devices + 1)
    await _until(lambda: _count(kube, Kind.of(Flavor.crd)), 2 * (devices + 1))


async def _create_all(kube: Kube, objects: Iterable[tuple[Kind, Object]]) -> None:
    """As fast as one client goes with a bounded number of requests in flight."""
    waiting = iter(objects)

    async def one_after_another() -> None:
        for kind, body in waiting:
            await kube.request("POST", kind.path(namespace=_NAMESPACE), body=body)

    async with asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(one_after_another())


async def _follow(kube: Kube, number: int) -> None:
    """Change what one device says, and wait for its flavor to say so."""
    path = _DEVICES.path(namespace=_NAMESPACE, name=_name(number))
    annotations = {"sensors": _annotation(number, latency="99")}
    await kube.request(
        "PATCH", path, body={"metadata": {"annotations": annotations}}, content_type="application/merge-patch+json"
    )
    leaf = _leaf_name(number)
    name = flavor_name(domain=_DOMAIN, leaf_namespace=_NAMESPACE, leaf_name=leaf, sensor_uid=_uid(number, 0))
    flavor = Kind.of(Flavor.crd).path(namespace=_NAMESPACE, name=name)

    async def says() -> int:
        spec = (await kube.request("GET", flavor))["spec"]
        return int(spec["flavorType"]["typeData"]["characteristics"]["latency"])

    await _until(says, 99)


async def _idle(cluster: Cluster, manager: Child, *, seconds: float) -> Idle:
    await asyncio.sleep(3)  # kopf keeps a worker for each object for a moment
    before, writes = cpu_seconds(manager.pid), _writes(cluster)
    if not writes:
        raise RuntimeError("the API server counts no writes: its metrics are not as they are read here")
    await asyncio.sleep(seconds)
    return Idle(
        cpu_percent=100 * (cpu_seconds(manager.pid) - before) / seconds,
        megabytes=resident_megabytes(manager.pid),
        writes=_writes(cluster) - writes,
    )


def _writes(cluster: Cluster) -> float:
    """Requests so far that could have changed anything but a Lease; the API server counts them."""
    counted = _WRITES.findall(cluster.api.request("GET", "/metrics"))
    return sum(float(count) for resource, count in counted if resource != "leases")


async def _count(kube: Kube, kind: Kind) -> int:
    """How many objects there are, at the price of one."""
    answer = await kube.request("GET", kind.path(namespace=_NAMESPACE), query={"limit": "1"})
    return len(answer["items"]) + int(answer["metadata"].get("remainingItemCount", 0))


async def _told(kube: Kube) -> int:
    """LeafDevices with a status."""
    return sum(leaf.status is not None for leaf in await kube.list(LeafDevice, namespace=_NAMESPACE))


async def _until(count: Callable[[], Any], wanted: int) -> None:
    deadline = time.monotonic() + 120
    while (found := await count()) != wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{found} instead of {wanted} after 120 s")
        await asyncio.sleep(0.02)


async def _timed(work: Any) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


def _name(number: int) -> str:
    return f"board-{number:04d}"


def _leaf_name(number: int) -> str:
    return leaf_device_name(source=SOURCE, namespace=_NAMESPACE, device=_name(number))


def _uid(number: int, index: int) -> str:
    return f"31bacf17-f217-a6dd-{number:04d}-{index:012d}"


def _annotation(number: int, *, latency: str = "12") -> str:
    """Two sensors of one board, as the fork's sample has them."""
    sensors = [
        {
            "uid": _uid(number, index),
            "node": "",
            "name": "",
            "model": model,
            "manufacturer": "STMicroelectronics",
            "market": "Commercial",
            "type": {"sensorCategory": "Environmental", "sensorType": [kind]},
            "samplingRate": "1",
            "accuracy": ["0.5"],
            "consumption": "0.06",
            "latency": latency,
            "properties": {
                "unit": {"measurement": [unit], "consumption": "mW", "samplingRate": "Hz", "latency": "ms"},
                "additional": {"board": "STWIN.box", "mcu": "STM32U585AI"},
            },
            "access": {"type": "MQTT", "source": "eventbus-fluidos", "resource": {"topic": "", "node": ""}},
        }
        for index, (model, kind, unit) in enumerate((("hts221", "Humidity", "%"), ("ilps22qs", "Pressure", "hPa")))
    ]
    return b64encode(orjson.dumps(sensors)).decode()


def _device(number: int) -> Object:
    bluetooth = {"protocolName": "bluetooth"}
    visitor = {**bluetooth, "configData": {"characteristicUUID": "00140000000111e1ac360002a5d5c51b"}}
    mac = ":".join(f"{byte:02X}" for byte in number.to_bytes(6, "big"))
    return {
        "apiVersion": Device.crd.api_version,
        "kind": "Device",
        "metadata": {"name": _name(number), "namespace": _NAMESPACE, "annotations": {"sensors": _annotation(number)}},
        "spec": {
            "nodeName": _NODE,
            "protocol": {**bluetooth, "configData": {"macAddress": mac}},
            "properties": [{"name": "environmental", "visitors": visitor}],
        },
    }


def _consequences(number: int) -> list[tuple[Kind, Object]]:
    """What a device comes to, as if somebody wrote it all by hand."""
    device = parse_device(_device(number))
    leaf = LeafDevice(
        metadata=ObjectMeta(name=_leaf_name(number), namespace=_NAMESPACE, uid=_uid(number, 9)),
        spec=describe(device, node_name=_NODE).spec,
    )
    terms = Terms(identity=NodeIdentity(domain=_DOMAIN, node_id="provider1", ip="192.0.2.1:3004"))
    flavors = (flavor_of(leaf, sensor, terms=terms, available=True).manifest() for sensor in leaf.spec.sensors)
    return [
        (_DEVICES, _device(number)),
        (Kind.of(LeafDevice.crd), leaf.manifest()),
        *((Kind.of(Flavor.crd), flavor) for flavor in flavors),
    ]


def _config_map(number: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"plain-{number}", "namespace": _NAMESPACE},
        "data": {"sensors": _annotation(number)},
    }


def _prepare(cluster: Cluster) -> None:
    install(cluster)
    cluster.add_node(_NODE, {"node-role.fluidos.eu/sensors": "true"})
    identity = {"domain": _DOMAIN, "nodeID": "provider1", "ip": "192.0.2.1", "port": "3004"}
    cluster.apply(
        [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}},
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": IDENTITY_CONFIG_MAP, "namespace": "fluidos"},
                "data": identity,
            },
        ]
    )


async def _run(clusters: list[Cluster], logs: Path, *, devices: int, idle_seconds: float) -> list[Figure]:
    quiet, busy = clusters
    async with await Kube.connect(kubeconfig=quiet.kubeconfig) as kube:
        plain = await plain_creates(kube, devices=devices)
    async with await Kube.connect(kubeconfig=busy.kubeconfig) as kube:
        return await measure(kube, busy, logs, devices=devices, idle_seconds=idle_seconds, plain=plain)


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.flavors", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer devices and less idling, for CI")
    options = parser.parse_args()
    devices, idle_seconds = (200, 5.0) if options.short else (1000, 30.0)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-flavors-")))
        print("starting two control planes ...", flush=True)
        planes = stack.enter_context(ControlPlanes(directory / "state"))
        clusters = planes.start_clusters(["quiet", "busy"])
        for cluster in clusters:
            _prepare(cluster)
        figures = asyncio.run(_run(clusters, directory, devices=devices, idle_seconds=idle_seconds))
    return finish("flavors", figures)


if __name__ == "__main__":
    sys.exit(main())
