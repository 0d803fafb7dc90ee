"""FlashJobs and firmwareJobSpecs on a real API server, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from crds.errors import InvalidField, Retryable
from crds.kube.client import Kind, Kube
from crds.models.akri import Configuration, Instance
from crds.models.base import Resource
from crds.models.firmware import Firmware
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.flashjob import FlashJob
from crds.models.leafdevice import LeafDevice
from flash_controller.adoption import Adoption
from flash_controller.domain.adoption import firmware_spec
from scripts.testbed.cluster import Cluster

pytestmark = pytest.mark.control_plane

JOBS = Kind("batch/v1", "jobs")
REFERENCE = "harbor.nbfc.io/cloud-iot/nubificus/fmnist-esp-ota:resnet-4.4.4-ESP32_KEY3"


@dataclass
class Yard:
    """A namespace with devices, and what is ordered there."""

    cluster: Cluster
    kube: Kube
    namespace: str

    async def put(self, kind: type[Resource], name: str, spec: dict[str, Any], **status: Any) -> str:
        """Apply an object; its UID."""
        meta = {"name": name, "namespace": self.namespace}
        body = {"apiVersion": kind.crd.api_version, "kind": kind.crd.kind, "metadata": meta}
        self.cluster.apply([{**body, "spec": spec}])
        if status:
            await self.kube.apply_status(kind, name=name, namespace=self.namespace, status=status, manager="test")
        stored = await self.kube.request("GET", Kind.of(kind.crd).path(namespace=self.namespace, name=name))
        return str(stored["metadata"]["uid"])

    async def leaf(self, name: str, host: str, **more: Any) -> str:
        source = {"kind": "KubeEdgeDevice", "apiVersion": "v1", "name": name}
        update = {"protocol": "NubificusOTA", "address": f"{host}:80"}
        return await self.put(LeafDevice, name, {"nodeName": "edge-1", "source": source, "update": update, **more})

    async def instance(self, name: str, host: str, *, version: str = "0.1.0") -> str:
        properties = {"HOST_ENDPOINT": host, "DEVICE": "esp32s3", "APPLICATION_TYPE": "thermo", "VERSION": version}
        nodes = ["edge-1"]
        spec = {"configurationName": "http", "brokerProperties": properties, "nodes": nodes, "shared": False}
        return await self.put(Instance, name, {**spec, "cdiName": f"akri.sh/http={name}", "capacity": 1})

    async def configuration(self, container: dict[str, Any], *, details: str = "") -> None:
        job = {"template": {"spec": {"containers": [{"name": "flash", **container}]}}}
        handler = {"name": "http", "discoveryDetails": details}
        await self.put(
            Configuration,
            "http",
            {"discoveryHandler": handler, "capacity": 1, "brokerSpec": None, "firmwareJobSpec": job},
        )

    async def until(self, look: Callable[[], Any]) -> Any:
        """What `look` gives as soon as it gives something."""
        for _ in range(400):
            if found := await look():
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"never came: {await self.rollouts()} {await self.job()}")

    async def job(self) -> FlashJob | None:
        return await self.kube.get(FlashJob, "flashjob", namespace=self.namespace)

    async def phase(self, phase: str) -> FlashJob:
        async def reached() -> FlashJob | None:
            job = await self.job()
            return job if job and job.status and job.status.phase == phase else None

        return await self.until(reached)  # type: ignore[no-any-return]  # what `reached` gives

    async def rollouts(self) -> list[FirmwareRollout]:
        found = await self.kube.list(FirmwareRollout, namespace=self.namespace)
        return sorted(found, key=lambda each: each.spec.devices.names or ())

    async def ordered(self, *devices: tuple[str, ...]) -> list[FirmwareRollout]:
        """The rollouts as soon as they are for these devices."""

        async def reached() -> list[FirmwareRollout]:
            rollouts = await self.rollouts()
            return rollouts if [each.spec.devices.names for each in rollouts] == sorted(devices) else []

        return await self.until(reached)  # type: ignore[no-any-return]  # what `reached` gives

    async def jobs(self) -> list[dict[str, Any]]:
        return (await self.kube.request("GET", JOBS.path(namespace=self.namespace)))["items"]  # type: ignore[no-any-return]  # JSON

    async def becomes(self, rollout: FirmwareRollout, **states: str) -> None:
        """The rollout's devices are in these states; finished when none is on its way."""
        devices = [
            {"name": name.replace("_", "-"), "state": state, "reason": "Any", "message": "as said"}
            for name, state in states.items()
        ]
        times = {"startedTime": "2026-11-21T12:00:00Z"}
        if not {"Pending", "Writing"} & set(states.values()):
            times["finishedTime"] = "2026-11-21T12:01:00Z"
        status = {"devices": devices, **times}
        name, manager = rollout.metadata.name, "test"
        await self.kube.apply_status(
            FirmwareRollout, name=name, namespace=self.namespace, status=status, manager=manager
        )


@pytest.fixture
async def yard(cluster: Cluster, namespace: str) -> AsyncIterator[Yard]:
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        for kind in (FlashJob, Configuration, Instance, Firmware, FirmwareRollout, LeafDevice):
            await served(kube, kind)
        yield Yard(cluster, kube, namespace)


async def served(kube: Kube, kind: type[Resource]) -> None:
    """A kind that was just installed is not served for a moment."""
    for _ in range(400):
        try:
            await kube.list(kind, namespace="default")
        except Retryable:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError(f"{kind.crd.kind} is not served")


@contextlib.asynccontextmanager
async def adopting(yard: Yard) -> AsyncIterator[None]:
    adoption = Adoption(yard.kube, clock=lambda: datetime.now(UTC), plain_http=lambda: ("registry:5000",))
    task = asyncio.create_task(adoption.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_flash_job_is_carried_out_unmodified_and_kept(yard: Yard) -> None:
    await yard.leaf("tile-1", "10.0.0.7")
    second = await yard.leaf("tile-2", "10.0.0.8")
    first = await yard.instance("http-a1", "10.0.0.7")
    # As Nubificus' sample has it: with fields that nobody reads, and nulls.
    unread = {
        "hostEndpoint": None,
        "device": None,
        "applicationType": "thermo",
        "flashjobPodImage": "esp32-flashjob:local",
    }
    spec = {"uuid": [first, second], "firmware": REFERENCE, "version": "0.2.0", **unread}
    async with adopting(yard):
        await yard.put(FlashJob, "flashjob", spec)
        (rollout,) = await yard.ordered(("tile-1", "tile-2"))
        firmware = await yard.kube.get(Firmware, rollout.spec.firmware_ref.name, namespace=yard.namespace)
        assert firmware is not None
        assert firmware.spec.repository == "harbor.nbfc.io/cloud-iot/nubificus/fmnist-esp-ota"
        assert firmware.spec.tag == "resnet-4.4.4-ESP32_KEY3"
        assert (rollout.spec.policy, rollout.spec.attestation) == ("Always", "Optional")
        await yard.phase("Running")
        await yard.becomes(rollout, tile_1="Confirmed", tile_2="Writing")
        status = (await yard.phase("InProgress")).status
        assert status is not None
        assert status.completed_uuids == (first,)
        # The device is found again after its restart, under another UID.
        await yard.kube.delete(Instance, "http-a1", namespace=yard.namespace)
        assert await yard.instance("http-a1", "10.0.0.7") != first
        await yard.becomes(rollout, tile_1="Confirmed", tile_2="Confirmed")
        status = (await yard.phase("Completed")).status
        assert status is not None
        assert status.completed_uuids == (first, second)
    # Its rollout goes from the history while nobody looks: nothing is flashed again.
    await yard.kube.delete(FirmwareRollout, rollout.metadata.name, namespace=yard.namespace)
    async with adopting(yard):
        await yard.leaf("tile-3", "10.0.0.9", ueid="01" + "ab" * 16)
        third = await yard.instance("http-c3", "10.0.0.9")
        await yard.put(FlashJob, "flashjob", {**spec, "uuid": [third]})
        (rollout,) = await yard.ordered(("tile-3",))
        assert rollout.spec.attestation == "Required"


async def test_a_flash_job_that_wants_other_firmware_now_calls_the_earlier_off(yard: Yard) -> None:
    uids = [await yard.leaf(f"tile-{number}", f"10.0.0.{number}") for number in (1, 2)]
    async with adopting(yard):
        await yard.put(FlashJob, "flashjob", {"uuid": uids[:1], "firmware": f"{REFERENCE}.1", "version": "1"})
        (one,) = await yard.ordered(("tile-1",))
        # The next devices, as a script may do it: the devices before them get theirs all the same.
        await yard.put(FlashJob, "flashjob", {"uuid": uids[1:], "firmware": f"{REFERENCE}.1", "version": "1"})
        _, two = await yard.ordered(("tile-1",), ("tile-2",))
        await yard.put(FlashJob, "flashjob", {"uuid": uids[1:], "firmware": f"{REFERENCE}.2", "version": "2"})
        found = {each.metadata.name: each for each in await yard.ordered(("tile-1",), ("tile-2",), ("tile-2",))}
        assert found.pop(one.metadata.name).spec.desired == "Run"
        assert found.pop(two.metadata.name).spec.desired == "Cancel"
        (now,) = found.values()
        assert now.spec.desired == "Run"


async def test_a_flash_job_says_what_it_waits_for(yard: Yard) -> None:
    uid = await yard.leaf("tile-1", "10.0.0.1")
    async with adopting(yard):
        await yard.put(FlashJob, "flashjob", {"uuid": [uid], "firmware": REFERENCE, "version": "1"})
        (rollout,) = await yard.ordered(("tile-1",))
        waits = {
            "type": "Progressing",
            "status": "False",
            "reason": "FirmwareNotReady",
            "message": "waits for the Firmware x",
            "lastTransitionTime": "2026-11-21T12:00:00Z",
        }
        name = rollout.metadata.name
        await yard.kube.apply_status(
            FirmwareRollout, name=name, namespace=yard.namespace, status={"conditions": [waits]}, manager="test"
        )

        async def told() -> bool:
            job = await yard.job()
            wanted = "0 of 1 devices run the firmware; waits for the Firmware x"
            return bool(job and job.status and (job.status.phase, job.status.message) == ("Running", wanted))

        await yard.until(told)


async def test_a_flash_job_with_a_device_that_did_not_make_it_has_failed_and_says_which(yard: Yard) -> None:
    uids = [await yard.leaf(f"tile-{number}", f"10.0.0.{number}") for number in (1, 2)]
    async with adopting(yard):
        await yard.put(FlashJob, "flashjob", {"uuid": uids, "firmware": REFERENCE, "version": "1"})
        (rollout,) = await yard.ordered(("tile-1", "tile-2"))
        await yard.becomes(rollout, tile_1="Confirmed", tile_2="RolledBack")
        status = (await yard.phase("Failed")).status
        assert status is not None
        assert status.completed_uuids == (uids[0],)
        assert status.message == "1 of 2 devices run the firmware; tile-2: Any as said"


async def test_a_flash_job_waits_for_its_devices_and_names_the_one_that_is_missing(yard: Yard) -> None:
    here = await yard.leaf("tile-1", "10.0.0.1")
    away = await yard.instance("http-a1", "10.0.0.2")
    async with adopting(yard):
        await yard.put(FlashJob, "flashjob", {"uuid": [here, away], "firmware": REFERENCE, "version": "1"})
        status = (await yard.phase("Failed")).status
        assert status is not None
        assert status.message is not None
        assert status.message.startswith(f"spec.uuid[1]: '{away}' is not valid")
        assert await yard.rollouts() == []
        await yard.leaf("tile-2", "10.0.0.2")
        await yard.ordered(("tile-1", "tile-2"))


async def test_devices_of_a_configuration_are_flashed_when_it_is_applied_changed_or_finds_a_new_one(yard: Yard) -> None:
    for number in (1, 2, 3):
        await yard.leaf(f"tile-{number}", f"10.0.0.{number}")
    await yard.instance("http-a1", "10.0.0.1")
    await yard.instance("http-b2", "10.0.0.2", version="0.2.0")
    container = {"env": [{"name": "FIRMWARE", "value": REFERENCE}, {"name": "VERSION", "value": "0.2.0"}]}
    async with adopting(yard):
        await yard.configuration(container)
        (first,) = await yard.ordered(("tile-1",))
        assert first.spec.policy == "OnlyNewer"
        # Found again after its restart: it had its turn.
        await yard.kube.delete(Instance, "http-a1", namespace=yard.namespace)
        await yard.instance("http-a1", "10.0.0.1")
        await yard.instance("http-c3", "10.0.0.3")
        await yard.ordered(("tile-1",), ("tile-3",))
    async with adopting(yard):
        await yard.configuration(container, details="other")
        await yard.ordered(("tile-1",), ("tile-1", "tile-3"), ("tile-3",))


async def test_a_job_that_names_an_image_runs_as_it_is_once_for_each_device(yard: Yard) -> None:
    await yard.instance("http-a1", "10.0.0.1")
    container = {"image": "site/flasher:1", "resources": {"limits": {"{{PLACEHOLDER}}": "1"}}}
    async with adopting(yard):
        await yard.configuration(container)
        (job,) = await yard.until(yard.jobs)
        pod = job["spec"]["template"]["spec"]
        (flasher,) = pod["containers"]
        assert (flasher["image"], pod["restartPolicy"], pod["nodeName"]) == ("site/flasher:1", "Never", "edge-1")
        assert flasher["resources"]["limits"] == {"akri.sh/http-a1": "1"}
        told = {each["name"]: each["value"] for each in flasher["env"]}
        assert told["HOST_ENDPOINT"] == "10.0.0.1"
        assert told["DEVICE"] == "esp32s3"
    async with adopting(yard):
        await yard.instance("http-b2", "10.0.0.2")

        async def both() -> list[dict[str, Any]]:
            jobs = await yard.jobs()
            return jobs if len(jobs) > 1 else []

        assert {each["metadata"]["annotations"]["akri.sh/instance"] for each in await yard.until(both)} == {
            "http-a1",
            "http-b2",
        }


async def test_a_configuration_that_names_nothing_is_complained_of(yard: Yard) -> None:
    path = f"/apis/events.k8s.io/v1/namespaces/{yard.namespace}/events"
    async with adopting(yard):
        await yard.configuration({})

        async def complaints() -> list[str]:
            return [each["note"] for each in (await yard.kube.request("GET", path))["items"]]

        (note,) = await yard.until(complaints)
    assert "expected an image, or FIRMWARE in env" in note


@pytest.mark.parametrize(
    ("reference", "spec"),
    [
        ("ghcr.io/site/thermo:1.2", {"repository": "ghcr.io/site/thermo", "tag": "1.2"}),
        ("registry:5000/a", {"repository": "registry:5000/a", "tag": "latest", "plain_http": True}),
        ("nubificus/app:v1", {"repository": "docker.io/nubificus/app", "tag": "v1"}),
        ("app", {"repository": "docker.io/library/app", "tag": "latest"}),
        (f"localhost/a:1@sha256:{'a' * 64}", {"repository": "localhost/a", "digest": f"sha256:{'a' * 64}"}),
    ],
)
def test_a_reference_means_what_docker_takes_it_for(reference: str, spec: dict[str, Any]) -> None:
    read = firmware_spec(reference, plain_http=["registry:5000"])
    assert read.model_dump(include={"repository", "tag", "digest", "plain_http"}, exclude_defaults=True) == spec


@pytest.mark.parametrize("reference", ["", "a b", "ghcr.io/UPPER:1", "ghcr.io/a@sha256:12", "https://ghcr.io/a"])
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(InvalidField, match="firmware"):
        firmware_spec(reference, plain_http=[])
