"""A board that can be made into something else, and who does that: as discovery, issuer and flash controller do it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Self

import yaml

from crds.conditions import timestamp
from crds.kube.client import Kind, Kube, NotFound
from crds.models.firmware import Release
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.flash_report import FLASHING
from crds.models.fluidos import Flavor, NodeIdentity
from crds.models.leafdevice import LeafDevice
from crds.models.repurposing import REPURPOSING_CONFIG_MAP, REPURPOSING_KEY
from edge_resource_manager.domain.flavors import Terms, flavor_of
from edge_resource_manager.domain.following import provided
from edge_resource_manager.domain.publication import proven
from scripts.testbed.cluster import Cluster
from tests.edge_resource_manager import firmwares
from tests.edge_resource_manager.firmwares import BOARD, THERMOMETER, WIND

UEID = "01" + "ab" * 16
TERMS = Terms(identity=NodeIdentity(domain="fluidos.eu", node_id="provider1", ip="127.0.0.1:3004"))
MEASUREMENTS = {"thermometer": THERMOMETER, "wind": WIND}
STATUS = {
    "thermometer": firmwares.status("thermometer", THERMOMETER, firmwares.sensor("Temperature", "°C")),
    "wind": firmwares.status("wind", WIND, firmwares.sensor("WindSpeed", "m/s")),
}
CONFIG_MAP = f"/api/v1/namespaces/fluidos/configmaps/{REPURPOSING_CONFIG_MAP}"


def release(application: str) -> Release:
    status = firmwares.firmware(application, STATUS[application]).status
    assert status is not None
    assert status.current is not None
    return status.current


def policy(namespace: str, **rule: Any) -> dict[str, Any]:
    """The provider opts in to everything, in one namespace."""
    granted = {"trustDomains": ["*"], "devices": {"namespaces": [namespace]}, "cooldownSeconds": 0, **rule}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": REPURPOSING_CONFIG_MAP, "namespace": "fluidos"},
        "data": {REPURPOSING_KEY: yaml.safe_dump({"rules": [granted]})},
    }


def spec(application: str, *, node: str, name: str = "board", **changed: Any) -> dict[str, Any]:
    """Of the LeafDevice of a board that runs an application."""
    return {
        "nodeName": node,
        "source": {"kind": "KubeEdgeDevice", "apiVersion": "devices.kubeedge.io/v1beta1", "name": name},
        "ueid": UEID,
        "board": {"name": BOARD},
        "update": {"protocol": "MCUmgrUDP", "address": "192.0.2.1:1337"},
        "sensors": [each.dump() for each in provided(release(application), ueid=UEID).sensors],
        **changed,
    }


def status(application: str, *, flashing: str | None = None, since: str = firmwares.NOW) -> dict[str, Any]:
    """Of it, as those who write it leave it."""
    told = {"status": "True", "reason": "Told", "message": "", "lastTransitionTime": since}
    flash = [{**told, "type": FLASHING, "status": flashing}] if flashing else []
    return {
        "conditions": [{**told, "type": "Attested"}, *flash],
        "trust": {
            "tier": "Attested",
            "spiffeID": f"spiffe://provider/device/{UEID}/app/{application}",
            "application": application,
            "firmware": {"measurement": MEASUREMENTS[application]},
        },
    }


def leaf(application: str = "thermometer", *, namespace: str = "edge", **changed: Any) -> LeafDevice:
    """As it is stored."""
    return LeafDevice.parse(
        {
            "metadata": {"name": "board", "namespace": namespace, "uid": "u-1"},
            "spec": spec(application, node="edge-1"),
            "status": status(application),
            **changed,
        }
    )


class Workshop:
    """One board on a cluster, in a namespace of its own."""

    def __init__(self, kube: Kube, issuer: Kube, namespace: str) -> None:
        self.kube = kube
        self._issuer = issuer
        self.namespace = namespace

    @classmethod
    @asynccontextmanager
    async def opened(cls, cluster: Cluster, namespace: str, *, application: str = "thermometer") -> AsyncIterator[Self]:
        """The board runs an application, and the catalog has both; in the end the provider opts in to nothing."""
        account = cluster.service_account_kubeconfig("fluidos", "identity-issuer")
        async with (
            await Kube.connect(kubeconfig=cluster.kubeconfig) as kube,
            await Kube.connect(kubeconfig=account) as issuer,
        ):
            shop = cls(kube, issuer, namespace)
            for name, found in STATUS.items():
                await firmwares.publish(kube, name, found, namespace=namespace)
            await shop.become(application)
            try:
                yield shop
            finally:
                with suppress(NotFound):
                    await kube.request("DELETE", CONFIG_MAP)

    async def allow(self, **rule: Any) -> None:
        await self._apply(CONFIG_MAP, policy(self.namespace, **rule))

    async def become(self, application: str, *, flashing: str | None = None) -> Flavor:
        """The board attests an application, and has its sensor and no other."""
        body = {"apiVersion": "edge.fluidos.eu/v1alpha1", "kind": "LeafDevice"}
        path = Kind.of(LeafDevice.crd).path(namespace=self.namespace, name="board")
        await self._apply(path, {**body, "metadata": {"name": "board"}, "spec": spec(application, node=self.namespace)})
        await self.say(application, flashing=flashing)
        found = await self.kube.get(LeafDevice, "board", namespace=self.namespace)
        assert found is not None
        assert found.status is not None
        trust = proven(found.status.trust, ueid=UEID, now=datetime.now(UTC))
        flavor = flavor_of(found, found.spec.sensors[0], terms=TERMS, available=flashing != "True", trust=trust)
        for old in await self.kube.list(Flavor, namespace=self.namespace):
            if old.metadata.name != flavor.metadata.name:
                await self.kube.delete(Flavor, old.metadata.name, namespace=self.namespace)
        await self._apply(
            Kind.of(Flavor.crd).path(namespace=self.namespace, name=flavor.metadata.name), flavor.manifest()
        )
        return flavor

    async def say(self, application: str, *, flashing: str | None = None) -> None:
        """Issuer and flash controller say how the board stands."""
        said = status(application, flashing=flashing, since=timestamp(datetime.now(UTC)))
        attested, *flash = said["conditions"]
        for kube, what in ((self._issuer, {**said, "conditions": [attested]}), (self.kube, {"conditions": flash})):
            await kube.apply_status(
                LeafDevice,
                name="board",
                namespace=self.namespace,
                status=what,
                manager="issuer" if kube is self._issuer else "flash-controller",
            )

    async def rollouts(self) -> dict[str, FirmwareRollout]:
        found = await self.kube.list(FirmwareRollout, namespace=self.namespace)
        return {each.spec.firmware_ref.name: each for each in found}

    async def rollout(self, application: str) -> FirmwareRollout:
        """The rollout of an application, as soon as there is one."""
        for _ in range(600):
            if (found := (await self.rollouts()).get(application)) is not None:
                return found
            await asyncio.sleep(0.03)
        raise AssertionError(f"no rollout of {application}: {await self.rollouts()}")

    async def flash(self, application: str) -> Flavor:
        """Carry out the rollout of an application."""
        made = await self.rollout(application)
        await self.say("thermometer" if application == "wind" else "wind", flashing="True")
        await self.finish(made, "Confirmed")
        return await self.become(application, flashing="False")

    async def finish(self, made: FirmwareRollout, state: str, *, reason: str = "", message: str = "") -> None:
        device = {"name": "board", "state": state, "reason": reason, "message": message}
        ended = {"finishedTime": timestamp(datetime.now(UTC)), "devices": [device]}
        await self.kube.apply_status(
            FirmwareRollout, name=made.metadata.name, namespace=self.namespace, status=ended, manager="flash-controller"
        )

    async def _apply(self, path: str, body: dict[str, Any]) -> None:
        query = {"fieldManager": "test", "force": "true"}
        await self.kube.request("PATCH", path, query=query, body=body, content_type="application/apply-patch+yaml")
