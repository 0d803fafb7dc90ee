"""KubeEdge's Devices, of both versions, as `ObservedDevice`; Nodes as `Node`.

v1beta1 names its node and describes protocol and properties freely; v1alpha2 selects nodes and has a member for each
protocol. Where the CRD serves both, the API server hands out either under the other's name, so the shape decides and
`apiVersion` only where the shape says nothing. The CRDs leave much free: what cannot be used is passed over here, and a
sensor that needs it says so later; nothing raises but a shape that the CRD itself forbids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from crds.conditions import parse_timestamp
from crds.kube.client import Object
from crds.models import kubeedge as v1beta1
from crds.models import kubeedge_v1alpha2 as v1alpha2
from crds.models.base import ObjectMeta, validate
from crds.sensors_annotation import ANNOTATION
from edge_resource_manager.domain.devices import (
    BLUETOOTH,
    BOARD_KEY,
    MAX_CONSUMERS_KEY,
    MCU_FAMILY_KEY,
    MCU_KEY,
    TOPICS_KEY,
    UEID_KEY,
    UPDATE_KEY,
    Binding,
    Node,
    NodeNamed,
    NodeSelected,
    ObservedDevice,
    Requirement,
    Term,
    Unbound,
)
from edge_resource_manager.domain.liveness import NodeHealth, NodeNotReady, NodeReady, Report

HINTS = (BOARD_KEY, MCU_KEY, MCU_FAMILY_KEY, MAX_CONSUMERS_KEY, UEID_KEY, TOPICS_KEY, UPDATE_KEY)

# Protocols of v1beta1 are free: the keys under which mappers keep an address, the surest first.
_ADDRESS_KEYS = ("macAddress", "address", "url", "ip", "serialPort", "serial", "slaveID")
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)

_Twin = v1beta1.Twin | v1alpha2.Twin


def parse_device(obj: Object) -> ObservedDevice:
    """Read a Device of either version.

    Raises:
        InvalidField: a shape that KubeEdge's CRD does not allow.
    """
    if _is_v1alpha2(obj):
        old = v1alpha2.Device.parse(obj)
        protocol, address = _typed_protocol(old.spec.protocol)
        return _observed(
            obj,
            old.metadata,
            binding=_selector(old.spec.node_selector),
            protocol=protocol,
            address=address,
            characteristics={
                (each.property_name or "").lower(): each.bluetooth.characteristic_uuid
                for each in old.spec.property_visitors or ()
                if each.bluetooth and each.bluetooth.characteristic_uuid
            },
            report=_report(old.status.twins if old.status else None),
        )
    device = v1beta1.Device.parse(obj)
    spec, state = device.spec, device.status
    free = (spec.protocol and spec.protocol.config_data) or {}
    return _observed(
        obj,
        device.metadata,
        binding=NodeNamed(spec.node_name) if spec.node_name else Unbound(),
        protocol=(spec.protocol and spec.protocol.protocol_name) or "",
        address=_address(free),
        characteristics={
            (each.name or "").lower(): uuid
            for each in spec.properties or ()
            if (uuid := _text((each.visitors and each.visitors.config_data) or {}, "characteristicUUID"))
        },
        report=_report(state.twins, state.state, state.last_online_time) if state else Report(),
    )


def parse_report(obj: Object) -> Report:
    """Read a DeviceStatus, where KubeEdge 1.23 and later keep what the device last said.

    Raises:
        InvalidField: a shape that KubeEdge's CRD does not allow.
    """
    status = v1beta1.DeviceStatus.parse(obj).status
    return _report(status.twins, status.state, status.last_online_time) if status else Report()


def parse_node(obj: Object, *, label: str, value: str) -> Node:
    """Read a core/v1 Node.

    Args:
        obj: the object.
        label: of nodes whose sensors are offered, with `value`.
        value: of that label.

    Raises:
        InvalidField: no metadata as Kubernetes has it.
    """
    meta = validate(ObjectMeta, obj.get("metadata"), field="metadata")
    return Node(name=meta.name, labels=meta.labels, offers=meta.labels.get(label) == value, health=_health(obj, meta))


def _is_v1alpha2(obj: Object) -> bool:
    spec = obj.get("spec") or {}
    if spec.keys() & {"nodeSelector", "propertyVisitors"}:
        return True
    if spec.keys() & {"nodeName", "properties"}:
        return False
    return str(obj.get("apiVersion")).endswith("/v1alpha2")


def _observed(
    obj: Object,
    meta: ObjectMeta,
    *,
    binding: Binding,
    protocol: str,
    address: str,
    characteristics: Mapping[str, str],
    report: Report,
) -> ObservedDevice:
    said = {**meta.labels, **meta.annotations}
    return ObservedDevice(
        namespace=meta.namespace or "",
        name=meta.name,
        uid=meta.uid or "",
        api_version=str(obj.get("apiVersion")),
        binding=binding,
        protocol=BLUETOOTH if protocol.lower() == BLUETOOTH else protocol,
        # A LeafDevice is read by more people than a Device: a password in a URL stays behind.
        address=re.sub("//[^/@]*@", "//", address),
        characteristics=characteristics,
        sensors=meta.annotations.get(ANNOTATION),
        hints={key: said[key] for key in HINTS if key in said},
        report=report,
    )


def _selector(selector: v1alpha2.NodeSelector | None) -> Binding:
    if selector is None:
        return Unbound()
    return NodeSelected(
        tuple(
            Term(labels=_requirements(term.match_expressions), fields=_requirements(term.match_fields))
            for term in selector.node_selector_terms
        )
    )


def _requirements(lines: Iterable[v1alpha2.NodeRequirement] | None) -> tuple[Requirement, ...]:
    return tuple(Requirement(line.key, line.operator, line.values or ()) for line in lines or ())


def _typed_protocol(protocol: v1alpha2.Protocol | None) -> tuple[str, str]:
    """Name and address; of Modbus the address of the bus, behind which the slave's number stands."""
    if protocol is None:
        return "", ""
    bus = _bus(protocol.common)
    if protocol.bluetooth:
        return BLUETOOTH, protocol.bluetooth.mac_address or ""
    if protocol.modbus:
        slave = protocol.modbus.slave_id
        return "modbus", "#".join(filter(None, (bus, "" if slave is None else str(slave))))
    if protocol.opcua:
        return "opcua", protocol.opcua.url or ""
    if protocol.customized_protocol:
        own = protocol.customized_protocol
        return own.protocol_name or "", _address(own.config_data or {}) or bus
    return "", bus


def _bus(common: v1alpha2.CommonProtocol | None) -> str:
    if common and common.tcp and common.tcp.ip:
        return f"{common.tcp.ip}:{common.tcp.port}" if common.tcp.port else common.tcp.ip
    return (common and common.com and common.com.serial_port) or ""


def _address(free: Mapping[str, Any]) -> str:
    return next(filter(None, (_text(free, key) for key in _ADDRESS_KEYS)), "")


def _text(free: Mapping[str, Any], key: str) -> str:
    """A member of a free object, where mappers may have put anything."""
    value = free.get(key)
    return str(value) if isinstance(value, str | int) else ""


def _report(twins: Iterable[_Twin] | None, state: str | None = None, last_online: str | None = None) -> Report:
    """Of the times that can be read, the newest: KubeEdge empties `lastOnlineTime` when a device goes offline."""
    online = parse_timestamp(last_online) if last_online else None
    times = [time for time in (online, *map(_reported_at, twins or ())) if time is not None and time < _LATEST]
    return Report(state=state or "", seen=max(times, default=None))


def _reported_at(twin: _Twin) -> datetime | None:
    """Mappers stamp what they report in milliseconds since 1970, as a string; an empty twin has 0 or nothing."""
    metadata = (twin.reported and twin.reported.metadata) or {}
    try:
        milliseconds = int(metadata.get("timestamp", "0"))
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return None


def _health(obj: Object, meta: ObjectMeta) -> NodeHealth:
    """A node that never said that it is ready is not, from its first day on."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    ready: Object = next((each for each in conditions if each.get("type") == "Ready"), {})
    if ready.get("status") == "True":
        return NodeReady()
    since = ready.get("lastTransitionTime") or meta.creation_timestamp or ""
    return NodeNotReady(parse_timestamp(since) or datetime.fromtimestamp(0, UTC))
