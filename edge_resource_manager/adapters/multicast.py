"""FLUIDOS' LAN discovery: announce this node by UDP multicast, keep KnownClusters of those that announce themselves.

Off unless asked for: whoever is on the LAN can announce anything, and claims will ask the clusters that are known.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

import structlog

from crds.errors import InvalidField, Retryable, Terminal
from crds.kube.client import Kube, Object
from crds.kube.watch import Change, Gone, Put
from crds.models.fluidos import FLUIDOS_NAMESPACE, KnownCluster, NodeIdentity
from edge_resource_manager.domain.announcement import (
    Create,
    Ignore,
    Move,
    Refresh,
    decode,
    encode,
    expired,
    hear,
)
from edge_resource_manager.metrics import ANNOUNCEMENTS

log = structlog.get_logger(__name__)

MANAGER = "edge-resource-manager-discovery"
BACKLOG = 64
HOUSEKEEPING_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MulticastSettings:
    """Where announcements are.

    Attributes:
        group: IPv4 multicast address.
        port: UDP.
        interface: IPv4 address of the interface to use; 0.0.0.0 is the kernel's choice.
        ttl: 1 stays on the LAN, 0 on this machine.
        period: seconds between two own announcements.
        announce: say who this node is; a cluster that only buys need not.
    """

    group: str = "239.11.11.1"
    port: int = 4000
    interface: str = "0.0.0.0"
    ttl: int = 1
    period: float = 5.0
    announce: bool = True


class LanDiscovery:
    """Announces and listens.

    Args:
        kube: where KnownClusters are kept.
        settings: see there.
        identity: who this node is.
        clock: now, in UTC.
    """

    def __init__(
        self, kube: Kube, settings: MulticastSettings, *, identity: NodeIdentity, clock: Callable[[], datetime]
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._identity = identity
        self._clock = clock
        self._known: dict[str, KnownCluster] = {}
        self._backlog: asyncio.Queue[bytes] = asyncio.Queue(BACKLOG)

    def known_cluster_seen(self, change: Change) -> None:
        """A KnownCluster appeared, changed or went; only those of FLUIDOS' namespace are of interest here."""
        namespace, name = change.key
        if namespace != FLUIDOS_NAMESPACE:
            return
        match change:
            case Put(_, obj):
                self._take(obj)
            case Gone():
                self._known.pop(name, None)

    async def run(self) -> None:
        """Announce and listen until cancelled.

        Raises:
            Terminal: the group, port or interface cannot be used.
        """
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Receiver(self._backlog), sock=self._socket())
        try:
            async with asyncio.TaskGroup() as group:
                if self._settings.announce:
                    group.create_task(self._announce(transport))
                group.create_task(self._listen())
                group.create_task(self._forget())
        finally:
            transport.close()

    def _socket(self) -> socket.socket:
        """One socket for both ways; several processes of a machine may share the port."""
        settings = self._settings
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            interface = socket.inet_aton(settings.interface)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, settings.ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            # Bound to the group, so that datagrams to this host alone are not heard.
            sock.bind((settings.group, settings.port))
            membership = socket.inet_aton(settings.group) + interface
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        except OSError as error:
            sock.close()
            where = f"{settings.group}:{settings.port} on {settings.interface}"
            raise Terminal(f"LAN discovery at {where}: {error}", reason="NoMulticast") from error
        return sock

    async def _announce(self, transport: asyncio.DatagramTransport) -> None:
        datagram = encode(self._identity)
        while True:
            transport.sendto(datagram, (self._settings.group, self._settings.port))
            await asyncio.sleep(self._settings.period * random.uniform(0.9, 1.0))  # noqa: S311 - jitter, not a secret

    async def _listen(self) -> None:
        while True:
            datagram = await self._backlog.get()
            try:
                identity = decode(datagram)
            except InvalidField as error:
                ANNOUNCEMENTS.labels("malformed").inc()
                log.debug("announcement not readable", error=str(error))
                continue
            try:
                await self._hear(identity)
            except (Retryable, Terminal) as error:
                # The node will announce itself again.
                ANNOUNCEMENTS.labels("failed").inc()
                log.warning("known cluster not written", node=identity.node_id, error=str(error))

    async def _hear(self, identity: NodeIdentity) -> None:
        heard = hear(identity, own=self._identity, known=self._known, now=self._clock())
        match heard:
            case Ignore(why):
                ANNOUNCEMENTS.labels(why).inc()
            case Create(cluster):
                ANNOUNCEMENTS.labels("new").inc()
                self._take(await self._kube.create(cluster, manager=MANAGER))
                await self._write_status(cluster)
                log.info("cluster discovered", cluster=cluster.metadata.name, address=cluster.spec.address)
            case Move(cluster):
                ANNOUNCEMENTS.labels("moved").inc()
                body = {"spec": cluster.spec.dump()}
                meta = cluster.metadata
                await self._kube.patch(KnownCluster, meta.name, namespace=meta.namespace, body=body, manager=MANAGER)
                await self._write_status(cluster)
                log.info("cluster moved", cluster=meta.name, address=cluster.spec.address)
            case Refresh(cluster):
                ANNOUNCEMENTS.labels("known").inc()
                await self._write_status(cluster)
            case _:
                assert_never(heard)

    async def _write_status(self, cluster: KnownCluster) -> None:
        if cluster.status is None:
            return
        meta = cluster.metadata
        answer = await self._kube.apply_status(
            KnownCluster, name=meta.name, namespace=meta.namespace, status=cluster.status.dump(), manager=MANAGER
        )
        self._take(answer)

    async def _forget(self) -> None:
        """Remove what was not heard of; the object's own uid, so that one made anew meanwhile stays."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            for cluster in expired(list(self._known.values()), now=self._clock()):
                meta = cluster.metadata
                try:
                    await self._kube.delete(KnownCluster, meta.name, namespace=meta.namespace, uid=meta.uid)
                except (Retryable, Terminal) as error:
                    log.warning("known cluster not removed", cluster=meta.name, error=str(error))
                    continue
                self._known.pop(meta.name, None)
                log.info("cluster no longer announced", cluster=meta.name)

    def _take(self, obj: Object) -> None:
        try:
            cluster = KnownCluster.parse(obj)
        except InvalidField as error:
            log.warning("known cluster not readable", error=str(error))
            return
        self._known[cluster.metadata.name] = cluster


class _Receiver(asyncio.DatagramProtocol):
    """Hands datagrams on, as many as there is room for."""

    def __init__(self, backlog: asyncio.Queue[bytes]) -> None:
        self._backlog = backlog

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:  # noqa: ARG002 - asyncio's names
        try:
            self._backlog.put_nowait(data)
        except asyncio.QueueFull:
            ANNOUNCEMENTS.labels("overflow").inc()

    def error_received(self, exc: Exception) -> None:
        log.warning("announcement not sent", error=str(exc))
