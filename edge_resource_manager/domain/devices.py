"""A device as its source shows it: which node it is on, and the LeafDevice that it becomes.

Adapters make `ObservedDevice` of whatever the source's objects look like; from here on KubeEdge's versions are one.
Source: node selectors as k8s.io/component-helpers/scheduling/corev1/nodeaffinity means them; topics as
otto-tom/fluidos-node-edge, pkg/edge-resource-manager, makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

import orjson

from crds.errors import InvalidField
from crds.mcu import mcu_family
from crds.models.base import validate
from crds.models.leafdevice import Board, LeafDeviceSpec, Link, Sensor, Source, Update
from crds.sensors_annotation import ANNOTATION, decode_annotation
from crds.typedata import DeclaredSensor, parse_max_consumers
from edge_resource_manager.domain.liveness import NodeHealth, Report
from spire.domain.errors import Malformed
from spire.domain.ueid import Ueid

BLUETOOTH = "bluetooth"
BOARD_KEY = "edge.fluidos.eu/board"
MCU_KEY = "edge.fluidos.eu/mcu"
MCU_FAMILY_KEY = "edge.fluidos.eu/mcu-family"
MAX_CONSUMERS_KEY = "edge.fluidos.eu/max-consumers"
UEID_KEY = "edge.fluidos.eu/ueid"
TOPICS_KEY = "edge.fluidos.eu/topics"
UPDATE_KEY = "edge.fluidos.eu/update"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of a node selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def met_by(self, values: Mapping[str, str]) -> bool:
        """Whether labels (or fields) meet it. Kubernetes takes what it cannot read as not met."""
        value = values.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return self._compares(value)
            case _:
                return False

    def _compares(self, value: str | None) -> bool:
        try:
            actual, limit = int(value or ""), int(*self.values)
        except (TypeError, ValueError):  # not exactly one value, or no integers
            return False
        return actual > limit if self.operator == "Gt" else actual < limit


@dataclass(frozen=True, slots=True)
class Term:
    """Requirements on labels and fields, of which all must be met; an empty term matches nothing."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeNamed:
    """On the node of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class NodeSelected:
    """On a node that meets one of these terms."""

    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Unbound:
    """On no node: KubeEdge runs such a device nowhere."""


Binding = NodeNamed | NodeSelected | Unbound


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What counts of a Node. `offers` says whether it carries the label of nodes whose sensors are offered."""

    name: str
    labels: Mapping[str, str]
    offers: bool
    health: NodeHealth


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedDevice:
    """One device of a source.

    Attributes:
        address: where the device is in the terms of its protocol; the MAC of a Bluetooth device.
        characteristics: GATT characteristic by property name in lower case, of Bluetooth devices.
        sensors: the annotation that describes them, undecoded.
        hints: the device's labels and annotations under the `*_KEY`s of this module.
    """

    namespace: str
    name: str
    uid: str
    api_version: str
    binding: Binding
    protocol: str
    address: str
    characteristics: Mapping[str, str]
    sensors: str | None
    hints: Mapping[str, str]
    report: Report


@dataclass(frozen=True, slots=True)
class OnNode:
    """The device is on this node."""

    node: Node


@dataclass(frozen=True, slots=True)
class NodeMissing:
    """The device was offered on a node that no longer exists."""

    name: str


@dataclass(frozen=True, slots=True)
class NotOffered:
    """The device is on no node whose sensors are offered."""


Place = OnNode | NodeMissing | NotOffered


def admits(binding: Binding, node: Node) -> bool:
    """Whether a device so bound may be on this node."""
    match binding:
        case NodeNamed(name):
            return node.name == name
        case NodeSelected(terms):
            fields = {"metadata.name": node.name}
            return any(
                (term.labels or term.fields)
                and all(requirement.met_by(node.labels) for requirement in term.labels)
                and all(requirement.met_by(fields) for requirement in term.fields)
                for term in terms
            )
        case Unbound():
            return False
        case _:
            assert_never(binding)


def place(binding: Binding, *, nodes: Mapping[str, Node], current: str | None) -> Place:
    """Where the device is.

    Args:
        binding: what the device asks for.
        nodes: all there are, by name.
        current: the node that its LeafDevice names. A selector that several nodes meet keeps to it, and when it
            disappears the device is missed there rather than forgotten.
    """
    match binding:
        case NodeNamed(name):
            candidates = [nodes[name]] if name in nodes else []
            missing = name not in nodes and name == current
        case NodeSelected():
            candidates = [node for node in nodes.values() if admits(binding, node)]
            missing = current is not None and current not in nodes
        case Unbound():
            return NotOffered()
        case _:
            assert_never(binding)
    offering = [node for node in candidates if node.offers]
    if offering:
        return OnNode(min(offering, key=lambda node: (node.name != current, node.name)))
    return NodeMissing(current) if missing and current is not None else NotOffered()


@dataclass(frozen=True, slots=True)
class Description:
    """What a device is, and what of its description was refused.

    Attributes:
        spec: of the LeafDevice.
        errors: of all that was refused.
        bad_ueid: the one of them that says which device this is.
    """

    spec: LeafDeviceSpec
    errors: tuple[InvalidField, ...]
    bad_ueid: InvalidField | None = None


def describe(device: ObservedDevice, *, node_name: str) -> Description:
    """The LeafDevice that a device on a node becomes: with every sensor that can be read, whatever the others are."""
    decoded = decode_annotation(device.sensors)
    errors = list(decoded.errors)
    ueid = _ueid(device.hints.get(UEID_KEY))
    if isinstance(ueid, InvalidField):
        errors.append(ueid)
    max_consumers = _max_consumers(device, errors)
    sensors = []
    for declared in decoded.sensors:
        try:
            sensor = _sensor(declared, device=device, first=decoded.sensors[0])
        except InvalidField as error:
            where = f"{ANNOTATION}[uid {declared.traits.uid}].{error.field}"
            errors.append(InvalidField(field=where, value=error.value, expected=error.expected))
        else:
            shared = sensor.max_consumers or max_consumers
            sensors.append(sensor.model_copy(update={"max_consumers": shared}))
    spec = LeafDeviceSpec(
        node_name=node_name,
        source=Source(kind="KubeEdgeDevice", api_version=device.api_version, name=device.name),
        ueid=ueid if isinstance(ueid, str) else None,
        link=_link(device, errors),
        board=_board(device, decoded.sensors, errors),
        update=_update(device.hints.get(UPDATE_KEY), errors),
        sensors=tuple(sensors),
    )
    return Description(spec, tuple(errors), bad_ueid=ueid if isinstance(ueid, InvalidField) else None)


def _sensor(declared: DeclaredSensor, *, device: ObservedDevice, first: DeclaredSensor) -> Sensor:
    if declared.traits.integrity == "Signed" and UEID_KEY not in device.hints:
        expected = f"None, or the annotation {UEID_KEY} on the device: who proves nothing has no key to sign with"
        raise InvalidField(field="properties.additional.integrity", value="Signed", expected=expected)
    return declared.at(topic_of(declared, device=device, first=first))


def topic_of(sensor: DeclaredSensor, *, device: ObservedDevice, first: DeclaredSensor) -> str:
    """Where the sensor's readings are published.

    On Bluetooth the fork builds the topic, whatever the annotation says, of the MAC, the characteristic of the
    property named like the *first* sensor's category, and the model. Here the sensor's own category comes first, so
    that sensors of one model under two categories have topics of their own.

    Raises:
        InvalidField: the device says of its topics what nobody understands.
    """
    hint = device.hints.get(TOPICS_KEY, "Plain")
    if hint not in {"Plain", "Namespaced"}:
        raise InvalidField(field=f"metadata[{TOPICS_KEY}]", value=hint, expected="Plain or Namespaced")
    topic = _plain_topic(sensor, device=device, first=first)
    return topic if hint == "Plain" else f"{device.namespace}/{topic}"


def _plain_topic(sensor: DeclaredSensor, *, device: ObservedDevice, first: DeclaredSensor) -> str:
    traits = sensor.traits
    if device.protocol == BLUETOOTH and device.address:
        own, fallback = traits.category.lower(), first.traits.category.lower()
        characteristic = device.characteristics.get(own) or device.characteristics.get(fallback, "")
        return f"sensor/{device.address.replace(':', '')}/{characteristic}/{traits.model}"
    return sensor.topic or f"sensor/{device.name}/{traits.uid}/{traits.model}"


def _ueid(text: str | None) -> str | InvalidField | None:
    """Written exactly as SPIFFE IDs and topics have it: none of these compare without regard to case."""
    try:
        if text is None or str(Ueid(bytes.fromhex(text))) == text:
            return text
    except (ValueError, Malformed):
        pass
    expected = "lower-case hex of a type byte (01, 02 or 03) and an identifier of its length (RFC 9711)"
    return InvalidField(field=f"metadata[{UEID_KEY}]", value=text, expected=expected)


def _board(device: ObservedDevice, sensors: Iterable[DeclaredSensor], errors: list[InvalidField]) -> Board:
    """Of the first sensor that says something, else of the device's own annotations and labels."""
    hints = {"name": BOARD_KEY, "mcu": MCU_KEY, "mcuFamily": MCU_FAMILY_KEY}
    try:
        hinted = validate(Board, {field: device.hints.get(key, "") for field, key in hints.items()}, field="metadata")
    except InvalidField as error:
        errors.append(error)
        hinted = Board()
    boards = [*(sensor.board for sensor in sensors), hinted]
    mcu = _first(board.mcu for board in boards)
    family = mcu_family(mcu) or _first(board.mcu_family for board in boards)
    return Board(name=_first(board.name for board in boards), mcu=mcu, mcu_family=family)


def _first(values: Iterable[str]) -> str:
    return next(filter(None, values), "")


def _link(device: ObservedDevice, errors: list[InvalidField]) -> Link:
    try:
        return validate(Link, {"protocol": device.protocol, "address": device.address}, field="spec.protocol")
    except InvalidField as error:
        errors.append(error)
        return Link()


def _update(text: str | None, errors: list[InvalidField]) -> Update | None:
    if text is None:
        return None
    field = f"metadata[{UPDATE_KEY}]"
    try:
        return validate(Update, orjson.loads(text), field=field)
    except InvalidField as error:
        errors.append(error)
    except orjson.JSONDecodeError as error:
        errors.append(InvalidField(field=field, value=text, expected=f"JSON ({error})"))
    return None


def _max_consumers(device: ObservedDevice, errors: list[InvalidField]) -> int | None:
    try:
        return parse_max_consumers(device.hints.get(MAX_CONSUMERS_KEY), field=f"metadata[{MAX_CONSUMERS_KEY}]")
    except InvalidField as error:
        errors.append(error)
        return None
