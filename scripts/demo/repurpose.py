"""A claim that no device satisfies: one is flashed until it does. And firmware that fails: one device finds out."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from crds.models.base import Condition, Resource
from crds.models.firmware import Firmware
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.leafdevice import LeafDevice
from scripts.demo.claims import Ask
from scripts.demo.crew import Crew
from scripts.demo.factory import Boards
from scripts.demo.idle import BROKEN, IDLE, PACKAGES, VISIBILITY, IdleBoard, Package
from scripts.demo.inventory import NAMESPACE, device_model
from scripts.demo.observe import SinkClient, claims
from scripts.demo.report import Halted, Repurposed
from scripts.demo.site import Consumer, Provider
from scripts.demo.workshop import Workshop

R = TypeVar("R", bound=Resource)
WAVE: Final = 50
"""Boards that are switched on at a time: as many as a crowd at the door of one node may be."""
ENDPOINT: Final = "archive"
ASK: Final = Ask(
    name="visibility",
    consumer=1,
    sentence="a visibility sensor, which no device has",
    spec={
        "sensor": {"type": "Visibility"},
        "limits": {"latencyMicroseconds": {"lessThan": 50_000}},
        "count": 1,
        "repurpose": {"mode": "Allow", "maxSeconds": 120},
    },
    endpoints={ENDPOINT: "NDJSON"},
    wanted=lambda _board, part: "Visibility" in part.accuracy,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """The act, in three scenes.

    Attributes:
        provider: has the boards.
        consumer: asks.
        crew: runs the simulator.
        boards: makes hardware.
        workshop: makes firmware.
        directory: for the boards' flash.
        limit: seconds for each wait.
        count: of boards; one becomes something else, the others are offered firmware that fails.
        traits: more about each of them, for the simulator.
    """

    provider: Provider
    consumer: Consumer
    crew: Crew
    boards: Boards
    workshop: Workshop
    directory: Path
    limit: float
    count: int = 4
    traits: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self) -> None:
        """Publish the catalog, and let boards appear that attest what they run, which measures nothing.

        Raises:
            NotReachedError: not all firmware is verified, or not all boards are believed.
        """
        self.workshop.start()
        idle = [
            IdleBoard(name=f"spare-{number}", ueid=self.boards.blank(f"spare-{number}"), update=f"127.0.0.1:{port}")
            for number, port in enumerate(_free_ports(self.count), 1)
        ]
        self.provider.cluster.apply([device_model("v1beta1"), *(it.device(node=self.provider.node) for it in idle)])
        self.crew.wait(
            lambda: sum(_is(it, "Ready") for it in self._list(Firmware)) == len(PACKAGES),
            what="all firmware to be verified",
            limit=self.limit,
            known=lambda: "\n".join(_says(it) for it in self._list(Firmware)),
        )
        for first in range(0, self.count, WAVE):
            self._switch_on(idle[first : first + WAVE], before=first)

    def repurpose(self) -> Repurposed:
        """Claim what nothing is, and wait until it arrives.

        Raises:
            NotReachedError: it does not.
        """
        began = time.time()
        self.consumer.cluster.apply([ASK.document(self.consumer.sink)])
        sink = SinkClient(self.consumer.sink_port)
        arrivals: list[float] = []

        def arrived() -> bool:
            received = sink.received(ASK.target(ENDPOINT)).arrivals.values()
            arrivals[:] = [each.at for each in received if each.sensor == VISIBILITY.model]
            return bool(arrivals)

        self.crew.wait(arrived, what="what no device was", limit=self.limit, known=self._known)
        (rollout,) = self._list(FirmwareRollout)
        assert rollout.status is not None  # noqa: S101 - it is what made the device
        (flash,) = rollout.status.devices
        leaf = self._leaf(flash.name)
        return Repurposed(
            device=leaf.spec.source.name,
            before=flash.before.application if flash.before else "",
            after=_application(leaf),
            digest=rollout.status.digest,
            seconds_to_first_message=round(min(arrivals) - began, 3),
        )

    def fail(self) -> Halted:
        """Roll firmware out that fails, and wait until that has stopped by itself.

        Raises:
            NotReachedError: it goes on, or the device does not come back.
        """
        spare = [leaf.metadata.name for leaf in self.running(IDLE)]
        self.provider.cluster.apply([_rollout(BROKEN, spare)])
        found: list[FirmwareRollout] = []

        def stopped() -> bool:
            found[:] = [it for it in self._list(FirmwareRollout) if it.metadata.name == BROKEN.name]
            return any(it.status and _is(it, "Progressing", status="False") for it in found)

        self.crew.wait(stopped, what="the canary to fail", limit=self.limit, known=self._known)
        status = found[0].status
        assert status is not None  # noqa: S101 - it was waited for
        canary, *others = sorted(status.devices, key=lambda each: each.batch)
        self.crew.wait(
            lambda: len(self.running(IDLE)) == len(spare), what=f"{canary.name} to be what it was", limit=self.limit
        )
        return Halted(
            rollout=BROKEN.name,
            device=self._leaf(canary.name).spec.source.name,
            state=canary.state,
            reason=canary.reason,
            message=canary.message,
            untouched=sum(each.attempts == 0 for each in others),
            others=len(others),
        )

    def _switch_on(self, idle: Sequence[IdleBoard], *, before: int) -> None:
        """Some boards; so many were switched on before."""
        name = f"{self.provider.name}-spare-devices" + (f"-{before}" if before else "")
        self.crew.start(name, "scripts.simulator", "--devices", self._entries(name, idle))
        self.crew.wait(
            lambda: len(self.running(IDLE)) == before + len(idle),
            what="the spare boards to prove what they run",
            limit=self.limit,
            known=lambda: self.crew.tail(name),
        )

    def _entries(self, name: str, idle: Sequence[IdleBoard]) -> Path:
        """The simulator's file."""
        file = self.directory / f"{name}.json"
        entries = [
            {
                "device": each.name,
                "broker": self.provider.broker.url,
                "slots": str(self.directory / each.name),
                "image": str(self.workshop.image(IDLE)),
                "update": f"udp://{each.update}",
                "identity": self.provider.hardware(each.name),
                **self.traits,
            }
            for each in idle
        ]
        file.write_bytes(orjson.dumps(entries))
        return file

    def _leaf(self, name: str) -> LeafDevice:
        return next(leaf for leaf in self._list(LeafDevice) if leaf.metadata.name == name)

    def running(self, package: Package) -> list[LeafDevice]:
        """The devices that have proven that they run it."""
        return [
            leaf
            for leaf in self._list(LeafDevice)
            if _application(leaf) == package.application.application and _version(leaf) == package.version
        ]

    def _list(self, kind: type[R]) -> list[R]:
        return [kind.parse(it) for it in self.provider.objects(f"/apis/edge.fluidos.eu/v1alpha1/{kind.crd.plural}")]

    def _known(self) -> str:
        """What is known of it when it is too late."""
        objects = [*claims(self.consumer).values(), *self._list(FirmwareRollout)]
        return "\n".join(map(_says, objects))


def _free_ports(count: int) -> list[int]:
    """Several UDP ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _rollout(package: Package, devices: Sequence[str]) -> dict[str, Any]:
    """One device first, and no further where that fails."""
    return {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "FirmwareRollout",
        "metadata": {"name": package.name, "namespace": NAMESPACE},
        "spec": {
            "firmwareRef": {"name": package.name},
            "devices": {"names": list(devices)},
            "strategy": {"canary": {"count": 1}, "maxFailurePercent": 0},
            "deviceTimeoutSeconds": 120,
            "retries": 0,
        },
    }


def _conditions(resource: Resource) -> tuple[Condition, ...]:
    status = getattr(resource, "status", None)
    return () if status is None else status.conditions


def _is(resource: Resource, kind: str, *, status: str = "True") -> bool:
    return any((each.type, each.status) == (kind, status) for each in _conditions(resource))


def _says(resource: Resource) -> str:
    said = "; ".join(f"{it.type}={it.status} {it.reason}: {it.message}" for it in _conditions(resource))
    return f"{resource.crd.kind} {resource.metadata.name}: {said or 'nothing yet'}"


def _application(leaf: LeafDevice) -> str:
    """What a device has proven that it runs; empty while it has not."""
    trust = leaf.status.trust if leaf.status else None
    return trust.application if trust and trust.tier == "Attested" else ""


def _version(leaf: LeafDevice) -> str:
    trust = leaf.status.trust if leaf.status else None
    return trust.firmware.version if trust and trust.firmware else ""
