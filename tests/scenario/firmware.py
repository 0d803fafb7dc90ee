"""Firmware in the world of the scenarios, for a while: a registry, spare boards, and all that is flashed onto them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import yaml

from crds.kube.client import MERGE_PATCH
from crds.models.firmware_policy import CONFIG_MAP
from crds.models.fluidos import FLUIDOS_NAMESPACE
from crds.models.repurposing import REPURPOSING_CONFIG_MAP, REPURPOSING_KEY
from scripts.demo.idle import BROKEN, IDLE, WATCHFUL
from scripts.demo.inventory import NAMESPACE
from scripts.demo.repurpose import ASK, Act
from scripts.demo.workshop import Workshop
from tests.scenario.audit import Right
from tests.scenario.world import LIMIT, World

OURS = f"edge.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}"
ROLLOUTS = f"{OURS}/firmwarerollouts"
FLASH_JOBS = f"application.flashjob.nbfc.io/v1alpha1/namespaces/{NAMESPACE}/flashjobs"
AKRI = f"akri.sh/v0/namespaces/{NAMESPACE}"
JOBS = f"batch/v1/namespaces/{NAMESPACE}/jobs"
CONTROLLER = "provider flash-controller"


@contextmanager
def workshop(world: World) -> Iterator[Act]:
    """Spare boards that run signed firmware; at the end nothing is left of them."""
    directory = world.directory / "firmware"
    directory.mkdir()
    with ExitStack() as stack:
        act = Act(
            provider=world.provider,
            consumer=world.consumer,
            crew=world.crew,
            boards=world.boards,
            workshop=Workshop(world.provider, directory / "workshop", stack=stack),
            directory=directory,
            limit=LIMIT,
        )
        stack.callback(_clear, world)
        act.prepare()
        yield act


def spare(world: World, application: str) -> list[dict[str, Any]]:
    """LeafDevices that have proven that they run an application."""
    return [
        leaf
        for leaf in world.leaves()
        if _is_spare(leaf) and leaf.get("status", {}).get("trust", {}).get("application") == application
    ]


def roll_out(world: World, name: str, firmware: str, *devices: str, **more: Any) -> None:
    """Apply a FirmwareRollout."""
    spec = {"firmwareRef": {"name": firmware}, "devices": {"names": list(devices)}, **more}
    kind = {"apiVersion": "edge.fluidos.eu/v1alpha1", "kind": "FirmwareRollout"}
    world.provider.cluster.apply([{**kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}])


def give_up(world: World) -> None:
    """The rollout that failed holds its devices until somebody says what shall become of it."""
    body = {"spec": {"desired": "Cancel"}}
    path = f"/apis/{ROLLOUTS}/{BROKEN.name}"
    world.provider.cluster.api.request("PATCH", path, body=body, content_type=MERGE_PATCH)
    world.wait(lambda: not any(_unfinished(world)), "the failed rollout to be given up")


def keep_no_history(world: World) -> None:
    """A rollout that has nothing to do, and is gone when that is done."""
    device, *_ = (leaf["metadata"]["name"] for leaf in spare(world, "idle"))
    roll_out(world, "brief", IDLE.name, device, historyLimit=0)
    world.wait(lambda: _names(world, ROLLOUTS).isdisjoint({"brief"}), "the finished rollout to be gone")


def cancel(world: World) -> None:
    """A rollout that is called off when its Job has been made."""
    device, *_ = (leaf["metadata"]["name"] for leaf in spare(world, "idle"))
    with _nobody_runs_jobs(world):
        roll_out(world, "hasty", WATCHFUL.name, device)
        world.wait(lambda: _active(world, "hasty"), "the Job of the rollout")
        roll_out(world, "hasty", WATCHFUL.name, device, desired="Cancel")
    world.wait(lambda: not any(_unfinished(world)), "the rollout to be called off")


def change_ones_mind(world: World) -> None:
    """A claim that is withdrawn before the device that shall be made for it is."""
    path = f"/api/v1/namespaces/{FLUIDOS_NAMESPACE}/configmaps/{REPURPOSING_CONFIG_MAP}"
    policy = yaml.safe_load(world.provider.cluster.api.request("GET", path)["data"][REPURPOSING_KEY])
    policy["rules"][0]["cooldownSeconds"] = 0  # all that are idle have just been tried
    data = {"data": {REPURPOSING_KEY: yaml.safe_dump(policy)}}
    world.provider.cluster.api.request("PATCH", path, body=data, content_type=MERGE_PATCH)
    claim = ASK.document(world.consumer.sink)
    claim["spec"]["count"] = len(spare(world, "visibility")) + 1
    with _nobody_runs_jobs(world):
        world.consumer.cluster.apply([claim])
        world.wait(lambda: any(_unfinished(world)), "the rollout for the claim to begin")
        world.delete(world.consumer, f"{OURS}/sensorclaims/{ASK.name}")
        world.wait(
            lambda: all(
                each["spec"].get("desired") == "Cancel"
                for each in world.provider.objects(f"/apis/{ROLLOUTS}")
                if each["metadata"]["name"] in _unfinished(world)
            ),
            "the rollout to be called off",
        )
    world.wait(lambda: not any(_unfinished(world)), "the rollout to end")


@contextmanager
def _nobody_runs_jobs(world: World) -> Iterator[None]:
    """What is begun in the meantime goes on afterwards."""
    kubelet = f"{world.provider.name}-kubelet"
    world.crew.kill(kubelet)
    try:
        yield
    finally:
        world.crew.start_again(kubelet)


def adopt(world: World) -> None:
    """A FlashJob of Nubificus, and a Configuration of enhanced Akri, whose Job is its own."""
    world.crew.kill(world.process(CONTROLLER))
    world.crew.start_again(world.process(CONTROLLER), "--adopt")
    leaf, *_ = spare(world, "idle")
    firmware = next(
        each for each in world.provider.objects(f"/apis/{OURS}/firmwares") if each["metadata"]["name"] == IDLE.name
    )
    spec = firmware["spec"]
    job = {"uuid": [leaf["metadata"]["uid"]], "firmware": f"{spec['repository']}:{spec['tag']}", "version": "1.0.0"}
    # A slip that its owner corrects: what it led to waits for firmware that is not there, and is called off.
    slip = {**job, "firmware": f"{spec['repository']}:not-there"}
    known = _names(world, ROLLOUTS)
    world.provider.cluster.apply([_object("application.flashjob.nbfc.io/v1alpha1", "FlashJob", "theirs", slip)])
    world.wait(lambda: len(_names(world, ROLLOUTS)) > len(known), "the rollout of the FlashJob")
    container = {"name": "flash", "image": "site/flasher:1"}
    handler = {"name": "http", "discoveryDetails": ""}
    configuration = {
        "discoveryHandler": handler,
        "firmwareJobSpec": {"template": {"spec": {"containers": [container], "restartPolicy": "Never"}}},
    }
    instance = {"configurationName": "http", "nodes": [world.provider.node], "brokerProperties": {}}
    world.provider.cluster.apply(
        [
            _object("application.flashjob.nbfc.io/v1alpha1", "FlashJob", "theirs", job),
            _object("akri.sh/v0", "Configuration", "http", configuration),
            _object("akri.sh/v0", "Instance", "http-1", {**instance, "cdiName": "akri.sh/http=1", "capacity": 1}),
        ]
    )

    def over() -> bool:
        (found,) = world.provider.objects(f"/apis/{FLASH_JOBS}")
        return found.get("status", {}).get("phase") == "Completed" and bool(_names(world, JOBS))

    world.wait(
        over,
        "the FlashJob and the Job of the Configuration",
        known=lambda: str(world.provider.objects(f"/apis/{FLASH_JOBS}")),
    )
    world.crew.kill(world.process(CONTROLLER))
    world.crew.start_again(world.process(CONTROLLER))


def _clear(world: World) -> None:
    for path in (FLASH_JOBS, f"{AKRI}/configurations", f"{AKRI}/instances", ROLLOUTS):
        _delete_all(world, path)
    world.delete(world.consumer, f"{OURS}/sensorclaims/{ASK.name}")
    world.wait(lambda: not world.sold(ASK.name), "the contract about a repurposed device to end")
    _delete_all(world, ROLLOUTS)
    for device in _names(world, f"devices.kubeedge.io/{world.provider.version}/namespaces/{NAMESPACE}/devices"):
        if device.startswith("spare-"):
            world.delete(
                world.provider, f"devices.kubeedge.io/{world.provider.version}/namespaces/{NAMESPACE}/devices/{device}"
            )
    world.wait(lambda: not any(_is_spare(leaf) for leaf in world.leaves()), "the spare boards to be forgotten")
    world.crew.dismiss(f"{world.provider.name}-spare-devices")
    _delete_all(world, f"{OURS}/firmwares")
    for name in (CONFIG_MAP, REPURPOSING_CONFIG_MAP):
        world.provider.cluster.api.request("DELETE", f"/api/v1/namespaces/{FLUIDOS_NAMESPACE}/configmaps/{name}")


def of_firmware(right: Right) -> bool:
    """Whether it is for those alone who flash devices, or have them flashed."""
    return right.account.startswith("flash-") or right.resource in {"firmwares", "firmwarerollouts"}


def _unfinished(world: World) -> list[str]:
    """Rollouts that go on."""
    rollouts = world.provider.objects(f"/apis/{ROLLOUTS}")
    return [each["metadata"]["name"] for each in rollouts if "finishedTime" not in each.get("status", {})]


def _active(world: World, rollout: str) -> bool:
    """Whether one of its Jobs runs."""
    jobs = world.provider.objects(f"/apis/batch/v1/namespaces/{FLUIDOS_NAMESPACE}/jobs")
    ours = [job for job in jobs if rollout in job["metadata"]["annotations"].values()]
    return any(job.get("status", {}).get("active") for job in ours)


def _is_spare(leaf: dict[str, Any]) -> bool:
    return str(leaf["spec"]["source"]["name"]).startswith("spare-")


def _names(world: World, path: str) -> set[str]:
    return {each["metadata"]["name"] for each in world.provider.objects(f"/apis/{path}")}


def _delete_all(world: World, path: str) -> None:
    for name in _names(world, path):
        world.delete(world.provider, f"{path}/{name}")


def _object(version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
