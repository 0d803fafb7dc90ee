"""What a site can look like to those who wait for it."""

from collections.abc import Callable
from typing import Any

from crds.kube.client import EVENTS
from crds.kube.watch import Key
from crds.models.fluidos import Flavor
from crds.models.leafdevice import LeafDevice
from edge_resource_manager.discovery import DiscoveryReconciler
from tests.edge_resource_manager.discovery.conftest import Site, condition, eventually

Leaves = dict[str, LeafDevice]
Flavors = list[Flavor]


def ready(leaves: Leaves, *names: str) -> bool:
    return all(condition(leaves.get(name), "Ready")[0] == "True" for name in names)


def offered(leaves: Leaves, flavors: Flavors) -> bool:
    """Both sensors of the one device, and all of it told."""
    return ready(leaves, "board") and len(flavors) == 2 and all(flavor.spec.availability for flavor in flavors)


def withdrawn(reason: str) -> Callable[[Leaves, Flavors], bool]:
    def holds(leaves: Leaves, flavors: Flavors) -> bool:
        available = [flavor for flavor in flavors if flavor.spec.availability]
        return len(flavors) == 2 and not available and condition(leaves["board"], "Online") == ("False", reason)

    return holds


def nothing(leaves: Leaves, flavors: Flavors) -> bool:
    return not leaves and not flavors


def label(site: Site, node: str, value: str) -> None:
    patch_node(site, node, {"metadata": {"labels": {"node-role.fluidos.eu/sensors": value}}})


def patch_node(site: Site, node: str, body: dict[str, Any]) -> None:
    path, content_type = f"/api/v1/nodes/{node}", "application/merge-patch+json"
    site.cluster.api.request("PATCH", path, body=body, content_type=content_type)


async def looks_again(discovery: DiscoveryReconciler, key: Key) -> None:
    """Until the watch has told of the lost node, and its grace has begun."""

    async def waits() -> bool:
        return 0 < (await discovery.reconcile(key) or 0) <= 30

    await eventually(waits)


async def idle(discovery: DiscoveryReconciler) -> None:
    async def is_idle() -> bool:
        return not len(discovery.queue) and not len(discovery._offering.statuses)

    await eventually(is_idle)


async def events(site: Site) -> list[str]:
    found = await site.kube.request("GET", EVENTS.path(namespace=site.namespace))
    return sorted(each["reason"] for each in found["items"])
