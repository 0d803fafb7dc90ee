"""KubeEdge's objects, of either version, become one neutral value; what the fork panics on is read."""

from datetime import UTC, datetime
from typing import Any

import pytest

from crds.errors import InvalidField
from edge_resource_manager.adapters.kubeedge import parse_device, parse_node, parse_report
from edge_resource_manager.domain.devices import NodeNamed, NodeSelected, Requirement, Term, Unbound
from edge_resource_manager.domain.liveness import NodeNotReady, NodeReady, Report
from tests.edge_resource_manager.discovery import samples

SEEN = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
MILLISECONDS = str(int(SEEN.timestamp() * 1000))


def twin(timestamp: str | None) -> dict[str, Any]:
    return {
        "propertyName": "t",
        "reported": {"value": "1", **({} if timestamp is None else {"metadata": {"timestamp": timestamp}})},
    }


def test_both_versions_of_a_bluetooth_device_read_the_same() -> None:
    new, old = parse_device(samples.device("b")), parse_device(samples.old_device("b"))
    assert (new.protocol, new.address, new.characteristics, new.sensors) == (
        old.protocol,
        old.address,
        old.characteristics,
        old.sensors,
    )
    assert new.characteristics == {"environmental": samples.CHARACTERISTIC}
    assert new.binding == NodeNamed("edge-1")
    assert old.binding == NodeSelected((Term((Requirement("kubernetes.io/hostname", "In", ("edge-1",)),)),))


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha2"])
def test_the_shape_decides_where_the_version_says_otherwise(version: str) -> None:
    api_version = f"devices.kubeedge.io/{version}"
    assert isinstance(parse_device({**samples.old_device("b"), "apiVersion": api_version}).binding, NodeSelected)
    assert isinstance(parse_device({**samples.device("b"), "apiVersion": api_version}).binding, NodeNamed)


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha2"])
def test_a_device_that_says_nothing_is_bound_nowhere(version: str) -> None:
    api_version = f"devices.kubeedge.io/{version}"
    device = parse_device({"apiVersion": api_version, "metadata": {"name": "d", "namespace": "n"}, "spec": {}})
    assert device.binding == Unbound()
    assert (device.protocol, device.address, device.sensors, device.report) == ("", "", None, Report())


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (
            {"modbus": {"slaveID": 3}, "common": {"tcp": {"ip": "192.0.2.1", "port": 502}}},
            ("modbus", "192.0.2.1:502#3"),
        ),
        ({"modbus": {"slaveID": 3}, "common": {"com": {"serialPort": "/dev/ttyS0"}}}, ("modbus", "/dev/ttyS0#3")),
        ({"modbus": {"slaveID": 0}}, ("modbus", "0")),
        ({"opcua": {"url": "opc.tcp://user:secret@192.0.2.1:4840"}}, ("opcua", "opc.tcp://192.0.2.1:4840")),
        ({"customizedProtocol": {"protocolName": "lora", "configData": {"serial": 17}}}, ("lora", "17")),
        ({}, ("", "")),
    ],
)
def test_typed_protocols_have_a_name_and_an_address(protocol: dict[str, Any], expected: tuple[str, str]) -> None:
    device = parse_device(samples.old_device("d", spec={"protocol": protocol}))
    assert (device.protocol, device.address) == expected


@pytest.mark.parametrize("free", [{}, {"macAddress": None}, {"macAddress": ["x"]}, {"macAddress": {"a": 1}}])
def test_whatever_stands_in_free_configuration_is_survived(free: dict[str, Any]) -> None:
    protocol = {"protocolName": "Bluetooth", "configData": free}
    properties = [{"name": "x", "visitors": {"protocolName": "bluetooth", "configData": {"characteristicUUID": free}}}]
    device = parse_device(samples.device("d", spec={"protocol": protocol, "properties": properties}))
    assert (device.protocol, device.address, device.characteristics) == ("bluetooth", "", {})


def test_a_shape_that_the_crd_forbids_is_named() -> None:
    with pytest.raises(InvalidField, match=r"spec\.nodeName"):
        parse_device(samples.device("d", spec={"nodeName": 7}))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"state": "online", "lastOnlineTime": "2026-11-21T12:00:00Z"}, Report("online", SEEN)),
        ({"state": "offline", "lastOnlineTime": "", "twins": [twin(MILLISECONDS)]}, Report("offline", SEEN)),
        ({"lastOnlineTime": "2026-11-21T11:00:00Z", "twins": [twin("1"), twin(MILLISECONDS)]}, Report("", SEEN)),
        ({"lastOnlineTime": "yesterday", "twins": [twin("soon"), twin("-5"), twin("0"), twin(None), {}]}, Report()),
        ({"lastOnlineTime": "9999-12-31T23:59:59Z", "twins": [twin("9" * 30)]}, Report()),
        ({}, Report()),
    ],
)
def test_the_newest_time_that_can_be_read_counts(status: dict[str, Any], expected: Report) -> None:
    body = {"apiVersion": "devices.kubeedge.io/v1beta1", "metadata": {"name": "d"}, "status": status}
    assert parse_report(body) == expected
    assert parse_device({**samples.device("d"), "status": status}).report == expected


def test_twins_of_the_old_version_count_too() -> None:
    assert parse_device({**samples.old_device("d"), "status": {"twins": [twin(MILLISECONDS)]}}).report.seen == SEEN


@pytest.mark.parametrize(
    ("condition", "health"),
    [
        ({"status": "True"}, NodeReady()),
        ({"status": "Unknown", "lastTransitionTime": "2026-11-21T12:00:00Z"}, NodeNotReady(SEEN)),
        ({"status": "False", "lastTransitionTime": "2026-11-21T12:00:00Z"}, NodeNotReady(SEEN)),
        (None, NodeNotReady(datetime(2026, 11, 1, tzinfo=UTC))),
    ],
)
def test_a_node_is_ready_when_it_says_so(condition: dict[str, Any] | None, health: object) -> None:
    meta = {"name": "n", "labels": {"a": "b"}, "creationTimestamp": "2026-11-01T00:00:00Z"}
    conditions = [
        {"type": "MemoryPressure", "status": "True"},
        *([{"type": "Ready", **condition}] if condition else []),
    ]
    node = parse_node({"metadata": meta, "status": {"conditions": conditions}}, label="a", value="b")
    assert node.health == health
    assert node.offers
    assert not parse_node({"metadata": meta}, label="a", value="c").offers
