"""All that a runner meets: an API server, a registry, an edge agent's links and a board."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crds.conditions import timestamp
from crds.errors import EdgeError
from crds.kube.client import LEASES, MERGE_PATCH, Kube, NotFound
from crds.kube.watch import Change, follow
from crds.models.base import ObjectMeta, validate
from crds.models.firmware import Firmware, FirmwareSpec
from crds.models.flash_report import FlashReport
from crds.models.leafdevice import Board as BoardSpec
from crds.models.leafdevice import LeafDevice, LeafDeviceSpec, Source, Update
from crds.naming import flash_lease_name
from flash_controller.adapters.device_lease import report_of
from flash_controller.domain.catalog import release_of
from flash_controller.domain.composition import Built, compose
from flash_controller.domain.recipe import Recipe
from flash_controller.oci.catalog import read_package
from flash_controller.oci.registry import Registry
from flash_controller.packaging.layout import save
from flash_controller.packaging.publish import push
from flash_controller.runner.service import Runner
from flash_controller.runner.settings import RunnerSettings
from scripts.simulator.firmware import Application, build
from scripts.testbed.cluster import Cluster
from tests.flash_controller.links.station import Station
from tests.flash_controller.runner.board import Board

BOARD = "nucleo-l4"
UEID = "01" + "a1" * 16
LIMIT_SECONDS = 60.0


@functools.cache
def image(version: str, *, application: str = "environment", counter: int = 1, board: str = BOARD) -> bytes:
    return build(
        Application(application=application), version=version, security_counter=counter, board=board, size=60_000
    )


@dataclass
class Bench:
    """One device and what is offered to it."""

    kube: Kube
    issuer: Kube
    runner: Kube
    namespace: str
    station: Station
    registry: str
    directory: Path
    device: str = "board-1"
    attempts: int = 0
    flags: dict[str, Any] = field(default_factory=dict)

    async def attest(self, trust: dict[str, Any]) -> None:
        """What the issuer writes."""
        status = {"trust": trust, "conditions": [_true("Attested")]}
        await self.issuer.apply_status(
            LeafDevice, name=self.device, namespace=self.namespace, status=status, manager="issuer"
        )

    async def create_leaf(self, update: Update, *, ueid: str | None = UEID) -> None:
        leaf = LeafDevice(
            metadata=ObjectMeta(name=self.device, namespace=self.namespace),
            spec=LeafDeviceSpec(
                node_name="edge-1",
                source=Source(kind="KubeEdgeDevice", api_version="devices.kubeedge.io/v1beta1", name=self.device),
                ueid=ueid,
                board=BoardSpec(name=BOARD),
                update=update,
            ),
        )
        await self.kube.create(leaf, manager="test")
        self.station.leaves[self.device] = leaf

    async def offer(
        self,
        data: bytes,
        *,
        application: str = "environment",
        board: str = BOARD,
        repository: str = "",
        host: str = "",
        **status: Any,
    ) -> None:
        """Put an image into the registry and the catalog."""
        recipe = validate(Recipe, {"application": application, "boards": {board: {"image": "image.bin"}}})
        layout = compose(recipe, {board: Built("image.bin", data)})
        folder, place = self.directory / "layout", f"{self.registry}/{self.namespace}"
        save(layout, folder)
        told = f"{host or self.registry}/{repository or self.namespace}"
        async with Registry(place, plain_http=True) as registry:
            digest = await push(registry, folder, tags=())
            release = release_of(await read_package(registry, digest), signed_by="maker")
        self.flags |= {"digest": digest, "firmware": "offered"}
        firmware = Firmware(
            metadata=ObjectMeta(name="offered", namespace=self.namespace),
            spec=FirmwareSpec(repository=told, digest=digest, plain_http=True),
        )
        await self.kube.create(firmware, manager="test")
        said = release.dump() | {"observedGeneration": 1, "conditions": [_true("Ready")]} | status
        await self.kube.apply_status(Firmware, name="offered", namespace=self.namespace, status=said, manager="catalog")

    def settings(self, **flags: Any) -> RunnerSettings:
        said: dict[str, Any] = {
            "namespace": self.namespace,
            "rollout": "rollout",
            "rollout_uid": "uid-1",
            "device": self.device,
            "attempt": self.attempts,
            "agent": self.station.url,
            "cache": self.directory / "cache",
            "evidence_seconds": 20,
            "return_seconds": 20,
        }
        return RunnerSettings(**(said | self.flags | flags | {"_cli_parse_args": False}))

    async def flash(
        self, *, stop: asyncio.Event | None = None, within: float = LIMIT_SECONDS, **flags: Any
    ) -> FlashReport:
        """One attempt; what it reported."""
        self.attempts += 1
        runner = Runner(self.runner, self.station.identity("/runner/edge-1"), self.settings(**flags))
        try:
            async with asyncio.timeout(within):
                await runner.run(stop or asyncio.Event())
        except EdgeError:
            pass
        return await self.report()

    async def report(self) -> FlashReport:
        report = await self.report_if_any()
        assert report is not None
        return report

    async def reported(self, state: str) -> None:
        """Wait until a runner says so."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while True:
                report = await self.report_if_any()
                if report is not None and report.state == state:
                    return
                await asyncio.sleep(0.05)

    async def report_if_any(self) -> FlashReport | None:
        try:
            return report_of(await self.kube.request("GET", self._lease))
        except NotFound:
            return None

    async def change_lease(self, **spec: Any) -> None:
        """What another holder does, or time."""
        await self.kube.request("PATCH", self._lease, body={"spec": spec}, content_type=MERGE_PATCH)

    @asynccontextmanager
    async def lease_writes(self) -> AsyncIterator[list[Change]]:
        """All writes to Leases of the namespace."""
        writes: list[Change] = []
        synced = asyncio.Event()
        following = asyncio.create_task(
            follow(self.kube, LEASES, changed=writes.append, synced=synced, namespace=self.namespace)
        )
        try:
            await synced.wait()
            yield writes
        finally:
            following.cancel()
            await asyncio.wait([following])

    @property
    def _lease(self) -> str:
        return LEASES.path(namespace=self.namespace, name=flash_lease_name(self.device))


def _true(kind: str) -> dict[str, str]:
    now = timestamp(datetime.now(UTC))
    return {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": now}


@asynccontextmanager
async def bench(cluster: Cluster, namespace: str, registry: str, directory: Path) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        accounts = [cluster.service_account_kubeconfig("fluidos", name) for name in ("identity-issuer", "flash-runner")]
        kube, issuer, runner = [
            await stack.enter_async_context(await Kube.connect(kubeconfig=path))
            for path in (cluster.kubeconfig, *accounts)
        ]
        station = await stack.enter_async_context(Station(namespace=namespace).serve())
        yield Bench(kube, issuer, runner, namespace, station, registry, directory)


@asynccontextmanager
async def powered(own: Bench, *, runs: bytes, ueid: str | None = UEID) -> AsyncIterator[Board]:
    """A board that is on, and its LeafDevice."""
    board = Board(own.directory / "flash", runs=runs, attest=own.attest)
    board.mute = True
    await board.power_on()
    try:
        await own.create_leaf(Update(protocol="MCUmgrUDP", address=f"127.0.0.1:{board.port}"), ueid=ueid)
        board.mute = ueid is None
        if not board.mute:
            await board.prove()
        yield board
    finally:
        await board.power_off()
