"""LeafDevices on a real API server, and the accounts that write on them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crds.kube.client import APPLY_PATCH, Kind, Kube
from crds.models.leafdevice import LeafDevice
from scripts.testbed.api import ApiError
from scripts.testbed.cluster import Cluster

KIND = Kind.of(LeafDevice.crd)
_numbers = itertools.count()


def grant(cluster: Cluster) -> None:
    """The issuer may read its policy in namespaces of tests too; all its other rights are those of deploy/rbac."""
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "test:policy"}}
    subject = {"kind": "ServiceAccount", "name": "identity-issuer", "namespace": "fluidos"}
    cluster.apply(
        [
            {**role, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "watch"]}]},
            {
                **role,
                "kind": "ClusterRoleBinding",
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test:policy"},
                "subjects": [subject],
            },
        ]
    )


async def connect(cluster: Cluster, account: str, *, node: str | None = None) -> Kube:
    """The API server as one of our accounts, with a token bound to a node where one is given."""
    config = await asyncio.to_thread(cluster.service_account_kubeconfig, "fluidos", account, node=node)
    return await Kube.connect(kubeconfig=config)


@dataclass
class Leaves:
    """The LeafDevices of one test."""

    cluster: Cluster
    namespace: str

    def add(self, ueid: str | None = None, *, node: str = "edge-1", name: str | None = None) -> str:
        """A new one, or an old one with another name for its device."""
        name = name or f"leaf-{next(_numbers)}"
        spec = {"nodeName": node, "source": {"kind": "KubeEdgeDevice", "apiVersion": "v1", "name": name}}
        body = {
            "apiVersion": "edge.fluidos.eu/v1alpha1",
            "kind": "LeafDevice",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {**spec, "ueid": ueid} if ueid else spec,
        }
        self.cluster.apply([body])
        return name

    def delete(self, name: str) -> None:
        self.cluster.api.request("DELETE", KIND.path(namespace=self.namespace, name=name))

    def status(self, name: str) -> dict[str, Any]:
        obj = self.cluster.api.request("GET", KIND.path(namespace=self.namespace, name=name))
        status: dict[str, Any] = obj.get("status", {})
        return status

    def stands(self, name: str) -> tuple[str | None, str | None]:
        """Tier, and reason of the condition Attested."""
        status = self.status(name)
        reasons = [each["reason"] for each in status.get("conditions", ()) if each["type"] == "Attested"]
        return status.get("trust", {}).get("tier"), reasons[0] if reasons else None

    def events(self, name: str) -> list[str]:
        """Reasons of the Events about it, oldest first."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        items = self.cluster.api.request("GET", path)["items"]
        about = [each for each in items if each["regarding"]["name"] == name]
        return [each["reason"] for each in sorted(about, key=lambda each: each["eventTime"])]

    async def eventually(self, name: str, tier: str | None, reason: str | None, *, seconds: float = 60) -> None:
        await until(
            lambda: self.stands(name) == (tier, reason), lambda: f"{name} stands as {self.stands(name)}", seconds
        )

    async def write(self, kube: Kube, name: str, status: dict[str, Any], *, manager: str = "test") -> None:
        """Apply a status as the account of `kube`."""
        await kube.request(
            "PATCH",
            KIND.path(namespace=self.namespace, name=name, subresource="status"),
            query={"fieldManager": manager, "force": "true"},
            body={
                "apiVersion": "edge.fluidos.eu/v1alpha1",
                "kind": "LeafDevice",
                "metadata": {"name": name, "namespace": self.namespace},
                "status": status,
            },
            content_type=APPLY_PATCH,
        )


async def until(holds: Callable[[], bool], what: Callable[[], str], seconds: float = 60) -> None:
    """Wait for something that comes by itself."""
    for _ in range(int(seconds / 0.02)):
        try:
            if await asyncio.to_thread(holds):
                return
        except ApiError as error:
            if error.status != 404:
                raise
        await asyncio.sleep(0.02)
    raise AssertionError(what())
