"""What the manager of devices, flavors and claims watches."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog

from crds.errors import InvalidField, Retryable, Terminal
from crds.kube.client import CONFIG_MAPS, Kube, NotFound, Object
from crds.kube.manager import Followed, Manager, Seen, Watched, Work
from crds.kube.queue import backoff
from crds.kube.watch import Change, Gone, Put, follow, key_of
from crds.models.firmware import Firmware
from crds.models.fluidos import IDENTITY_CONFIG_MAP, Flavor, KnownCluster, NodeIdentity
from crds.models.kubeedge import Device, DeviceStatus
from crds.models.leafdevice import LeafDevice
from crds.models.sensorclaim import SensorClaim
from edge_resource_manager.adapters.multicast import LanDiscovery
from edge_resource_manager.claiming import ClaimReconciler
from edge_resource_manager.discovery import DiscoveryReconciler
from edge_resource_manager.domain.identity import parse_identity
from edge_resource_manager.settings import EdgeSettings
from spire.identity import IdentitySource

log = structlog.get_logger(__name__)


async def build(kube: Kube, settings: EdgeSettings, identity: IdentitySource | None) -> Manager:
    """Kinds and queues of this manager, for the FLUIDOS node that this cluster is.

    Args:
        kube: the API server.
        settings: flags.
        identity: who this process proves to be to other clusters; None where nobody proves anything.
    """
    config_map = await read_node_identity(kube, namespace=settings.namespace)
    node = parse_identity(config_map)
    discovery = DiscoveryReconciler(kube, settings.discovery(node), clock)
    claims = ClaimReconciler(kube, settings.claims, clock, identity=identity)
    claims.identity_seen(Put(key_of(config_map), config_map))
    clusters_seen: tuple[Seen, ...] = (claims.known_cluster_seen,)
    work: tuple[Work, ...] = (
        discovery.run,
        claims.run,
        lambda: until_renamed(kube, namespace=settings.namespace, identity=node),
    )
    if settings.auto_discovery:
        lan = LanDiscovery(kube, settings.multicast, identity=node, clock=clock)
        clusters_seen, work = (*clusters_seen, lan.known_cluster_seen), (*work, lan.run)
    return Manager(
        watched=(
            Watched("", "nodes", discovery.node_seen, version="v1"),
            Watched("", "namespaces", discovery.namespace_seen, version="v1"),
            Watched(Device.crd.group, Device.crd.plural, discovery.device_seen),
            Watched(DeviceStatus.crd.group, DeviceStatus.crd.plural, discovery.device_status_seen),
            Watched(Firmware.crd.group, Firmware.crd.plural, discovery.firmware_seen),
            Watched(SensorClaim.crd.group, SensorClaim.crd.plural, claims.claim_seen),
            *(Watched(KnownCluster.crd.group, KnownCluster.crd.plural, seen) for seen in clusters_seen),
        ),
        followed=(Followed(LeafDevice.crd, discovery.leaf_seen), Followed(Flavor.crd, discovery.flavor_seen)),
        work=work,
    )


def clock() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


async def read_node_identity(kube: Kube, *, namespace: str) -> Object:
    """The ConfigMap that says who this node is; waits until it is there and complete."""
    path, failures = CONFIG_MAPS.path(namespace=namespace, name=IDENTITY_CONFIG_MAP), 0
    while True:
        try:
            config_map = await kube.request("GET", path)
            parse_identity(config_map)
        except (NotFound, Retryable, InvalidField) as error:
            failures += 1
            log.warning("no node identity yet", error=str(error))
            await asyncio.sleep(backoff(failures))
        else:
            return config_map


async def until_renamed(kube: Kube, *, namespace: str, identity: NodeIdentity) -> None:
    """Watch who this node is.

    Raises:
        Terminal: it is another now; everything that was offered says the old one, so the process starts anew.
    """
    renamed = asyncio.get_running_loop().create_future()

    def seen(change: Change) -> None:
        match change:
            case Put(_, obj):
                try:
                    now = parse_identity(obj)
                except InvalidField as error:
                    log.warning("node identity not readable, the earlier one counts", error=str(error))
                    return
                if now != identity and not renamed.done():
                    renamed.set_exception(Terminal(f"this node is {now.node_id} now", reason="Renamed"))
            case Gone():
                log.warning("node identity deleted, the earlier one counts")

    watching = asyncio.create_task(
        follow(
            kube,
            CONFIG_MAPS,
            changed=seen,
            synced=asyncio.Event(),
            namespace=namespace,
            query={"fieldSelector": f"metadata.name={IDENTITY_CONFIG_MAP}"},
        )
    )
    try:
        await renamed
    finally:
        watching.cancel()
