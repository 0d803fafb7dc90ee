"""Discovery: KubeEdge's Devices on labelled Nodes become LeafDevices, and each of their sensors a Flavor.

Level-triggered: what watches say is kept, and every look at a device compares all of it with what the API server holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import assert_never

import structlog

from crds.errors import InvalidField
from crds.kube.client import NAMESPACES, NODES, Kind, Kube, NotFound, Unavailable
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.queue import WorkQueue, backoff
from crds.kube.watch import Change, Gone, Key, Put, key_of
from crds.models.base import validate
from crds.models.firmware import Firmware
from crds.models.kubeedge import Device
from crds.models.leafdevice import LeafDevice, LeafDeviceSpec, LeafDeviceStatus
from crds.models.trust import Tier
from edge_resource_manager.adapters.kubeedge import parse_device, parse_node, parse_report
from edge_resource_manager.adapters.mirror import Held
from edge_resource_manager.catalog import Catalog
from edge_resource_manager.domain.devices import (
    Description,
    Node,
    NodeMissing,
    NodeNamed,
    NodeSelected,
    NotOffered,
    ObservedDevice,
    OnNode,
    Unbound,
    describe,
    place,
)
from edge_resource_manager.domain.flavors import Terms
from edge_resource_manager.domain.following import following
from edge_resource_manager.domain.liveness import Graces, NodeGone, NodeHealth, Report, outlook
from edge_resource_manager.domain.publication import (
    NOTHING,
    Grounds,
    Open,
    Paused,
    Publication,
    grounds,
    is_flashed,
    may_publish,
    minimum_tier,
    misidentified,
)
from edge_resource_manager.offering import CROWD, Offering, device_key, leaf_key, own_status, whole_status
from edge_resource_manager.reasons import DiscoveryReason

log = structlog.get_logger(__name__)

_FIRMWARE = Kind.of(Firmware.crd)
LONG_AGO = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySettings:
    """What can be set about discovery.

    Attributes:
        terms: what is said with every flavor.
        label: of nodes whose sensors are offered, with `value`.
        value: of that label.
        graces: how patiently nodes and devices are waited for.
        insecure: devices are offered whatever is proven of them.
        workers: devices that are worked on at a time.
    """

    terms: Terms
    label: str = "node-role.fluidos.eu/sensors"
    value: str = "true"
    graces: Graces = field(default_factory=Graces)
    insecure: bool = False
    workers: int = 16


class DiscoveryReconciler:
    """Keeps LeafDevices and Flavors of KubeEdge's Devices. Keys are (namespace, Device).

    Watches call the `*_seen` methods; `run` does the work.

    Args:
        kube: the API server.
        settings: what is offered, and how patiently.
        clock: the time in UTC.
    """

    def __init__(self, kube: Kube, settings: DiscoverySettings, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._settings = settings
        self._clock = clock
        self._offering = Offering(
            kube, terms=settings.terms, insecure=settings.insecure, crowded=lambda: len(self.queue) > CROWD
        )
        self._devices: dict[Key, ObservedDevice] = {}
        self._reports: dict[Key, Report] = {}
        self._nodes: dict[str, Node] = {}
        self._gone: dict[str, datetime] = {}
        self._device_of: dict[Key, Key] = {}  # by LeafDevice
        self._catalog = Catalog()
        self._minimums: dict[str, Tier | InvalidField] = {}  # by namespace
        self._judged: dict[Key, Grounds] = {}  # by LeafDevice
        self._reporting: set[Key] = set()
        self._doubted: set[Key] = set()
        self.queue = WorkQueue("discovery", self.reconcile, workers=settings.workers)

    async def run(self) -> None:
        """Work until cancelled."""
        failures = 0
        while True:
            try:
                await self.load()
                break
            except Unavailable as error:
                failures += 1
                log.warning("not loaded yet", error=str(error))
                await asyncio.sleep(backoff(failures) if error.after is None else error.after)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run())
            group.create_task(self._offering.statuses.run())

    async def load(self) -> None:
        """Read what there is of nodes, firmware and our own objects, so that what is not there may be called absent.

        Raises:
            Unavailable: the API server is away.
        """
        reads = ((NODES, self.node_seen), (NAMESPACES, self.namespace_seen), (_FIRMWARE, self.firmware_seen))
        for kind, seen in reads:
            answer = await self._kube.request("GET", kind.path())
            for item in answer["items"]:
                seen(Put(key_of(item), item))
        await self._offering.flavors.load()
        for leaf in await self._offering.leaves.load():
            if device := device_key(leaf):
                self._device_of[key_of(leaf)] = device
                self.queue.add(device)

    def node_seen(self, change: Change) -> None:
        """A Node came, changed or went. Heartbeats change nothing that counts."""
        name = change.key[1]
        match change:
            case Put(_, obj):
                node = parse_node(obj, label=self._settings.label, value=self._settings.value)
                if node == self._nodes.get(name):
                    return
                self._nodes[name] = node
                self._gone.pop(name, None)
            case Gone():
                gone = self._nodes.pop(name, None)
                if gone is not None and gone.offers:
                    self._gone[name] = self._clock()
            case _:
                assert_never(change)
        for key, device in self._devices.items():
            match device.binding:
                case NodeNamed(bound):
                    if bound == name:
                        self.queue.add(key)
                case NodeSelected():
                    self.queue.add(key)
                case Unbound():
                    pass
                case _:
                    assert_never(device.binding)

    def namespace_seen(self, change: Change) -> None:
        """A Namespace came, changed or went: what it asks of its devices."""
        name = change.key[1]
        before = self._minimums.pop(name, None)
        if isinstance(change, Gone):
            return
        try:
            after: Tier | InvalidField = minimum_tier(change.obj["metadata"].get("labels", {}))
        except InvalidField as error:
            after = error
        self._minimums[name] = after
        if str(after) != str(before):
            self._look_at_all(name)

    def firmware_seen(self, change: Change) -> None:
        """A Firmware came, changed or went: devices that run it have its sensors."""
        if self._catalog.seen(change):
            self._look_at_all(change.key[0])

    def device_seen(self, change: Change) -> None:
        """A Device came, changed or went. The next report of a device that reports anyway needs no look."""
        key = change.key
        before = self._devices.get(key)
        try:
            device = self._take(change)
        except InvalidField as error:
            REFUSED_OBJECTS.labels(Device.crd.kind).inc()
            log.warning("Device not readable, its last readable form counts", key=key, error=str(error))
            return
        if device is None or before is None or replace(before, report=device.report) != device:
            self.queue.add(key)
        elif key not in self._reports:
            self._reported(key, before=before.report, report=device.report)

    def device_status_seen(self, change: Change) -> None:
        """A DeviceStatus came, changed or went; where there is one, Device.status says nothing."""
        key = change.key
        before = self._reports.get(key)
        match change:
            case Gone():
                self._reports.pop(key, None)
                self.queue.add(key)
            case Put(_, obj):
                try:
                    report = parse_report(obj)
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("DeviceStatus").inc()
                    log.warning("DeviceStatus not readable, its last readable form counts", key=key, error=str(error))
                    return
                self._reports[key] = report
                self._reported(key, before=before, report=report)

    def leaf_seen(self, change: Change) -> None:
        """A LeafDevice came, changed or went; what others did to ours is undone."""
        if isinstance(change, Put) and (source := device_key(change.obj)):
            self._device_of[change.key] = source
        device = self._device_of.get(change.key)
        told = self._offering.leaves.seen(change)
        if device is None:
            return
        if isinstance(change, Gone) and device in self._devices:
            # Perhaps because its Device went, of which the watch of Devices may have missed to tell. It counts even
            # where a write of ours found out first.
            self._doubted.add(device)
        if told or self._is_news(change.key):
            self.queue.add(device)

    def flavor_seen(self, change: Change) -> None:
        """A Flavor came, changed or went; what others did to ours is undone."""
        flavors = self._offering.flavors
        before = flavors.get(change.key)
        if not flavors.seen(change):
            return
        after = flavors.get(change.key)
        for kind, name in {*(before.owners if before else ()), *(after.owners if after else ())}:
            device = self._device_of.get((change.key[0], name))
            if kind == LeafDevice.crd.kind and device is not None:
                self.queue.add(device)

    async def reconcile(self, key: Key) -> float | None:
        """Make LeafDevice and Flavors of one Device what they should be.

        Returns:
            Seconds after which time alone may change something.

        Raises:
            Refused: the API server does not want the LeafDevice.
            Unavailable: it is away, or somebody else was faster.
        """
        held = self._offering.leaves.get(leaf_key(key))
        device = await self._confirmed(key, held)
        if device is None:
            await self._withdraw(key)
            return None
        where = place(device.binding, nodes=self._nodes, current=held.spec["nodeName"] if held else None)
        match where:
            case OnNode(node):
                return await self._offer(device, node_name=node.name, health=node.health)
            case NodeMissing(name):
                return await self._offer(device, node_name=name, health=self._missing(name, held))
            case NotOffered():
                await self._withdraw(key)
                return None
            case _:
                assert_never(where)

    async def _offer(self, device: ObservedDevice, *, node_name: str, health: NodeHealth) -> float | None:
        key, now = (device.namespace, device.name), self._clock()
        report = self._reports.get(key, device.report)
        view = outlook(node=health, report=report, now=now, graces=self._settings.graces)
        if view.online.status == "True":
            self._reporting.add(key)
        else:
            self._reporting.discard(key)
        held = self._offering.leaves.get(leaf_key(key))
        status = whole_status(held) if held else LeafDeviceStatus()
        description = following(
            describe(device, node_name=node_name),
            before=validate(LeafDeviceSpec, held.spec, field="spec") if held and is_flashed(status) else None,
            status=status,
            catalog=self._catalog.of(key[0]),
        )
        publication = self._publication(key, description, status=status, now=now)
        refused_again = await self._offering.offer(
            device, description, view, publication=publication, seen=report.seen, now=now
        )
        over = publication.look_again if isinstance(publication, Open) else None
        return min((each for each in (view.look_again, refused_again, over) if each is not None), default=None)

    def _publication(
        self, key: Key, description: Description, *, status: LeafDeviceStatus, now: datetime
    ) -> Publication:
        """Whether the device may be offered, by what is known at this moment."""
        self._judged[leaf_key(key)] = grounds(status)
        if self._settings.insecure:
            return Paused() if is_flashed(status) else Open(NOTHING)
        if description.bad_ueid:
            return misidentified(description.bad_ueid)
        return may_publish(status, ueid=description.spec.ueid, minimum=self._minimums.get(key[0]), now=now)

    def _is_news(self, leaf: Key) -> bool:
        """Whether what is said of a device is not what was judged.

        It is asked beside `Mirror.seen`, which passes over what is told while we write ourselves: that is the status,
        and the trust in it is not ours.
        """
        held = self._offering.leaves.get(leaf)
        return held is not None and leaf in self._judged and self._judged[leaf] != grounds(whole_status(held))

    def _look_at_all(self, namespace: str) -> None:
        for key in self._devices:
            if key[0] == namespace:
                self.queue.add(key)

    async def _withdraw(self, key: Key) -> None:
        self._reporting.discard(key)
        self._doubted.discard(key)
        self._judged.pop(leaf_key(key), None)
        await self._offering.withdraw(leaf_key(key))

    async def _confirmed(self, key: Key, held: Held | None) -> ObservedDevice | None:
        """The Device; asked for again where its absence, or its watch, would decide over a LeafDevice."""
        device = self._devices.get(key)
        if device is not None and key not in self._doubted:
            return device
        if device is not None:
            api_version = device.api_version
        elif held is not None:
            api_version = held.spec["source"]["apiVersion"]
        else:
            return None
        path = Kind(api_version, Device.crd.plural).path(namespace=key[0], name=key[1])
        change: Change
        try:
            change = Put(key, await self._kube.request("GET", path))
        except NotFound:
            change = Gone(key)
        self._doubted.discard(key)
        if self._devices.get(key) is not device:  # the watch told more while we asked
            return self._devices.get(key)
        return self._take(change)

    def _missing(self, name: str, held: Held | None) -> NodeHealth:
        """A node that is gone; an earlier life of this process may have waited for it already."""
        if name not in self._gone:
            waited = held is not None and any(
                condition.reason == DiscoveryReason.NODE_GONE for condition in own_status(held).conditions
            )
            self._gone[name] = LONG_AGO if waited else self._clock()
        return NodeGone(self._gone[name])

    def _take(self, change: Change) -> ObservedDevice | None:
        """Keep what a Device says. One that is being deleted is gone, whoever's finalizer it still waits for."""
        if isinstance(change, Gone) or change.obj["metadata"].get("deletionTimestamp"):
            self._devices.pop(change.key, None)
            return None
        device = self._devices[change.key] = parse_device(change.obj)
        self._device_of[leaf_key(change.key)] = change.key
        return device

    def _reported(self, key: Key, *, before: Report | None, report: Report) -> None:
        """Look only at reports that can change something; a timer looks at the silence after the others."""
        if before is None or before.state != report.state or report.seen is None or key not in self._reporting:
            self.queue.add(key)
