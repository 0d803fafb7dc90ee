"""A provider for rollouts: devices and Firmwares as objects, a manager, and a kubelet with stand-in runners."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crds.kube.client import Kube
from crds.models.firmwarerollout import DeviceFlash, FirmwareRollout, FirmwareRolloutStatus
from crds.models.leafdevice import LeafDevice
from scripts.testbed.cluster import Cluster
from scripts.testbed.kubelet import start_kubelet
from scripts.testbed.processes import Child
from tests.flash_controller.rollouts.stand_in.__main__ import GATES, OUTCOMES

REPOSITORY = Path(__file__).resolve().parents[3]
NODE = "flash-node"
BOARD = "nrf52840"
GROUP = "/apis/edge.fluidos.eu/v1alpha1/namespaces"
POLICY = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "fluidos-edge-firmware", "namespace": "fluidos"},
    "data": {"policy.yaml": "unsigned: Allow\n"},
}
MOMENT = "2026-11-21T12:00:00Z"
LIMIT_SECONDS = 120.0

Status = FirmwareRolloutStatus


def digest(letter: str) -> str:
    """Of an index; that of its image is alike."""
    return f"sha256:{letter * 64}"


@dataclass
class Site:
    """One namespace of a cluster."""

    cluster: Cluster
    kube: Kube
    namespace: str
    directory: Path
    catalog: bool = False
    """A manager is at work, whose catalog looks at each new Firmware once."""
    gates: Path = field(init=False)

    def __post_init__(self) -> None:
        self.gates = self.directory / "gates"
        self.gates.mkdir(exist_ok=True)

    def manager(self) -> Child:
        """The manager of firmware, under its own account."""
        kubeconfig = self.cluster.service_account_kubeconfig("fluidos", "flash-controller")
        command: list[str | Path] = [sys.executable, "-m", "flash_controller", "--kubeconfig", kubeconfig]
        command += ["--identity", "test", "--insecure", "--runner-folder", self.directory / "runners"]
        return Child(name="flash-controller", command=command, directory=REPOSITORY, logs=self.directory)

    def kubelet(self) -> Child:
        """Of the one node."""
        return start_kubelet(
            self.cluster,
            nodes={NODE: "127.0.0.1"},
            directory=self.directory,
            environment={GATES: str(self.gates)},
            runner="tests.flash_controller.rollouts.stand_in",
        )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Both."""
        with self.manager() as manager, self.kubelet() as kubelet:
            yield
        for child in (manager, kubelet):
            assert "Traceback" not in child.log.read_text(), child.log.read_text()
        assert "is forbidden: User" not in manager.log.read_text()

    def firmware(self, name: str = "thermo", *, letter: str = "a", version: str = "2.0.0") -> None:
        """A Firmware as the catalog has found it; `suspend` keeps it from looking at a registry."""
        spec = {"repository": "registry.invalid/thermo", "digest": digest(letter), "suspend": True}
        self._put("Firmware", name, spec)
        image = {
            "board": BOARD,
            "manifestDigest": digest(letter),
            "digest": digest(letter),
            "sizeBytes": 1000,
            "format": "MCUboot",
            "measurement": letter * 64,
            "version": version,
        }
        path = f"{GROUP}/{self.namespace}/firmwares/{name}"
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.catalog and "status" not in self.cluster.api.request("GET", path):
            assert time.monotonic() < deadline, "the catalog has not looked at it"
            time.sleep(0.02)
        self._say(
            "firmwares",
            name,
            {
                "observedGeneration": 1,
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True",
                        "reason": "Unsigned",
                        "message": "",
                        "lastTransitionTime": MOMENT,
                    }
                ],
                "digest": digest(letter),
                "application": "thermo",
                "version": version,
                "boards": [image],
            },
        )

    def leaf(self, name: str, *outcomes: str) -> None:
        """A device, and what becomes of its attempts."""
        spec = {
            "nodeName": NODE,
            "source": {"kind": "KubeEdgeDevice", "apiVersion": "devices.kubeedge.io/v1beta1", "name": name},
            "board": {"name": BOARD},
            "update": {"protocol": "MCUmgrUDP", "address": "192.0.2.1:1337"},
        }
        annotations = {OUTCOMES: " ".join(outcomes)} if outcomes else {}
        self._put("LeafDevice", name, spec, annotations=annotations, labels={"kind": "thermometer"})

    async def proves(self, name: str, *, runs: str, version: str = "1.0.0") -> None:
        """What a device has proved to run, as the issuer says it."""
        firmware = {"measurement": runs * 64, "version": version}
        attested = {"type": "Attested", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": MOMENT}
        status = {
            "trust": {"tier": "Attested", "application": "thermo", "firmware": firmware},
            "conditions": [attested],
        }
        issuer = self.cluster.service_account_kubeconfig("fluidos", "identity-issuer")
        async with await Kube.connect(kubeconfig=issuer) as kube:
            await kube.apply_status(
                LeafDevice, name=name, namespace=self.namespace, status=status, manager="identity-issuer"
            )

    def roll_out(self, name: str = "roll", *, devices: Any, firmware: str = "thermo", **spec: Any) -> None:
        """Ask for a rollout; `devices` are names, or a whole selection."""
        selection = devices if isinstance(devices, dict) else {"names": list(devices)}
        wish = {"firmwareRef": {"name": firmware}, "devices": selection, "backoffSeconds": 1, **spec}
        self._put("FirmwareRollout", name, wish)

    def change(self, name: str = "roll", **spec: Any) -> None:
        """Change what is asked for."""
        path = f"{GROUP}/{self.namespace}/firmwarerollouts/{name}"
        body = {"spec": spec}
        self.cluster.api.request("PATCH", path, body=body, content_type="application/merge-patch+json")

    def delete(self, name: str) -> None:
        """A rollout."""
        self.cluster.api.request("DELETE", f"{GROUP}/{self.namespace}/firmwarerollouts/{name}")

    def gate(self, device: str, state: str) -> Path:
        """Holds a device's runner in a state until the file is gone."""
        path = self.gates / f"{device}.{state}"
        path.touch()
        return path

    async def until(
        self, holds: Callable[[Status], object], *, name: str = "roll", limit: float = LIMIT_SECONDS
    ) -> Status:
        """The status as soon as it is as asked; the last one seen is in the failure."""
        deadline = asyncio.get_running_loop().time() + limit
        rollout = None
        while asyncio.get_running_loop().time() < deadline:
            rollout = await self.kube.get(FirmwareRollout, name, namespace=self.namespace)
            if rollout and rollout.status and holds(rollout.status):
                return rollout.status
            await asyncio.sleep(0.05)
        raise AssertionError(f"never came: {rollout and rollout.status}")

    async def finished(self, *, name: str = "roll", limit: float = LIMIT_SECONDS) -> Status:
        """The status at the end."""
        return await self.until(lambda status: status.finished_time, name=name, limit=limit)

    async def flashing(self, device: str) -> str:
        """Status of the condition Flashing; empty where there is none."""
        leaf = await self.kube.get(LeafDevice, device, namespace=self.namespace)
        assert leaf is not None
        conditions = leaf.status.conditions if leaf.status else ()
        return next((each.status for each in conditions if each.type == "Flashing"), "")

    async def until_idle(self, device: str) -> None:
        """No job has the device any more, and its condition says so."""

        async def idle() -> bool:
            return await self.flashing(device) == "False"

        await until(idle)

    def jobs(self) -> list[dict[str, Any]]:
        """Of this namespace's devices."""
        items = self.cluster.api.request("GET", "/apis/batch/v1/namespaces/fluidos/jobs")["items"]
        return [
            each
            for each in items
            if each["metadata"]["annotations"]["edge.fluidos.eu/flash-namespace"] == self.namespace
        ]

    def _put(self, kind: str, name: str, spec: dict[str, Any], **meta: Any) -> None:
        metadata = {"name": name, "namespace": self.namespace, **meta}
        self.cluster.apply(
            [{"apiVersion": "edge.fluidos.eu/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}]
        )

    def _say(self, plural: str, name: str, status: dict[str, Any]) -> None:
        path = f"{GROUP}/{self.namespace}/{plural}/{name}/status"
        self.cluster.api.request("PATCH", path, body={"status": status}, content_type="application/merge-patch+json")


def flashes(status: Status) -> dict[str, DeviceFlash]:
    """Devices by name."""
    return {each.name: each for each in status.devices}


def states(status: Status) -> dict[str, str]:
    """Their states by name; none has one before the rollout has begun."""
    return defaultdict(str, {each.name: each.state for each in status.devices})


def reason(status: Status, name: str) -> str:
    """Of one device."""
    return next((each.reason for each in status.devices if each.name == name), "")


def says(status: Status) -> dict[str, str]:
    """Conditions as `False/Complete` by type."""
    return {each.type: f"{each.status}/{each.reason}" for each in status.conditions}


async def until(holds: Callable[[], Any]) -> None:
    """Wait for anything; what it returns may have to be awaited."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            found = holds()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.05)  # between looks at an API server
