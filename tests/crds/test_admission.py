"""The API server and pydantic accept and refuse the same objects, and fill in the same defaults."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.errors import InvalidField
from crds.generate import manifest
from crds.models.base import Resource
from crds.models.dataroute import DataRoute
from crds.models.firmware import Firmware
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.leafdevice import LeafDevice
from crds.models.sensorclaim import SensorClaim
from scripts.testbed.api import ApiError
from scripts.testbed.cluster import Cluster
from tests.crds.structural import nearly

pytestmark = pytest.mark.control_plane

EXAMPLES = settings(max_examples=300, deadline=None, derandomize=True)


BOUNDS = [{"lessThan": 16000}, {"atMost": 16000}, {"greaterThan": 1}, {"atLeast": 5, "atMost": 5}]
LIKELY: dict[str, Any] = {
    "latencyMicroseconds": [*BOUNDS, {"greaterThan": 4, "lessThan": 6}, {"greaterThan": 5, "lessThan": 6}],
    "samplingRateMillihertz": [*BOUNDS, {"atLeast": 6, "atMost": 5}, {"lessThan": 1}, {"lessThan": 0}],
    "consumptionMicrowatts": BOUNDS,
    "accuracyMicrounits": BOUNDS,
    "count": [1, 2, 256, "All"],
    "url": ["http://10.0.2.70:4487/telegraf", "https://[::1]/a?b=c", "http://a", "https://a.b?c", "http://u@h/"],
    "spiffeID": ["spiffe://b.test/endpoint/default/telegraf", "spiffe://b.test/a/...", "spiffe://b.test/a/.."],
    "caBundle": ["-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"],
    "change": ["0.5", "10", "0.000000001", "0", "-1"],
    "threshold": [{"field": "/a", "above": "1"}, {"field": "/a/b", "below": "-0.5"}, {"field": "/", "above": "1e3"}],
    "source": [{"flavors": ["a", "b.c"]}, {"selector": "true"}, {"flavors": ["a"], "selector": "true"}],
    "selector": ["device.driver == 'x'"],
    "encoding": ["InfluxLine"],
    "shape": [{"keep": ["/a"]}, {"convert": [{"field": "", "from": "°C", "to": "K"}]}, {}],
    "line": [{"tags": ["node", "device"]}, {}],
    "timestamp": [{"source": "Arrival"}, {"source": "Payload", "field": "/t", "unit": "ms"}, {"source": "Payload"}],
    "expression": ["payload.a > 1"],
    "engine": ["KubeEdge"],
    "delivery": ["BestEffort"],
    "sequence": ["/n", "n"],
    "repository": ["ghcr.io/site/thermo", "registry:5000/a/b-c__d", "[::1]:5000/a", "site/thermo", "ghcr.io/A", "a.b"],
    "tag": ["1.4.2", "latest"],
    "devices": [{"names": ["a", "b"]}, {"count": 2}, {"selector": {"matchLabels": {"a": "b"}}, "count": 1}, {}],
    "canary": [{"count": 1}, {"percent": 10}, {"count": 1, "percent": 10}],
    "start": ["22:00", "24:00", "9:00"],
    "timezone": ["Europe/Athens", "UTC", "/"],
}
UPDATES: dict[str, Any] = {
    "update": [
        {"protocol": "MCUmgrUDP", "address": "10.0.0.7:1337"},
        {"protocol": "MCUmgrUDP", "address": "/dev/ttyACM0"},
        {"protocol": "MCUmgrSerial", "address": "/dev/ttyACM0", "baudRate": 115200},
        {"protocol": "MCUmgrSerial", "address": "socket://[::1]:4001"},
        {"protocol": "MCUmgrBLE", "address": "c0:ff:ee:00:11:22"},
        {"protocol": "BlueST", "address": "c0:ff:ee:00:11:22", "baudRate": 115200},
        {"protocol": "NubificusOTA", "address": "tile.plant.example:80"},
        {"protocol": "FluidosOTA", "address": "[::1]:80"},
    ],
}


def specs(model: type[Resource]) -> st.SearchStrategy[Any]:
    schema = manifest((model,))["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    likely = LIKELY if model is not LeafDevice else UPDATES
    return nearly(schema["properties"]["spec"], likely)


def stored(cluster: Cluster, model: type[Resource], spec: object) -> dict[str, Any] | str:
    """What the API server would store, or why it refuses."""
    crd = model.crd
    body = {"apiVersion": crd.api_version, "kind": crd.kind, "metadata": {"name": "dry"}, "spec": spec}
    path = f"/apis/{crd.group}/{crd.version}/namespaces/default/{crd.plural}"
    try:
        answer: dict[str, Any] = cluster.api.request("POST", path, body=body, query={"dryRun": "All"})
    except ApiError as error:
        if error.status != 422:
            raise
        return str(error)
    return answer


def parsed(model: type[Resource], spec: object) -> Resource | str:
    try:
        return model.parse({"metadata": {"name": "dry"}, "spec": spec})
    except InvalidField as error:
        return str(error)


def assert_same(cluster: Cluster, model: type[Resource], spec: object) -> None:
    ours, theirs = parsed(model, spec), stored(cluster, model, spec)
    if isinstance(ours, str) or isinstance(theirs, str):
        assert isinstance(ours, str), f"refused by the API server alone: {theirs}"
        assert isinstance(theirs, str), f"refused by pydantic alone: {ours}"
        return
    completed = parsed(model, theirs["spec"])
    assert not isinstance(completed, str), completed
    assert completed.model_dump(exclude={"metadata"}) == ours.model_dump(exclude={"metadata"})


@EXAMPLES
@given(spec=specs(LeafDevice))
def test_leaf_devices_are_judged_alike(cluster: Cluster, spec: object) -> None:
    assert_same(cluster, LeafDevice, spec)


@EXAMPLES
@given(spec=specs(SensorClaim))
def test_sensor_claims_are_judged_alike(cluster: Cluster, spec: object) -> None:
    assert_same(cluster, SensorClaim, spec)


@EXAMPLES
@given(spec=specs(DataRoute))
def test_data_routes_are_judged_alike(cluster: Cluster, spec: object) -> None:
    assert_same(cluster, DataRoute, spec)


@EXAMPLES
@given(spec=specs(Firmware))
def test_firmwares_are_judged_alike(cluster: Cluster, spec: object) -> None:
    assert_same(cluster, Firmware, spec)


@EXAMPLES
@given(spec=specs(FirmwareRollout))
def test_firmware_rollouts_are_judged_alike(cluster: Cluster, spec: object) -> None:
    assert_same(cluster, FirmwareRollout, spec)


ROUTE = {"source": {"selector": "true"}, "targets": [{"name": "a", "url": "http://a"}]}


@pytest.mark.parametrize(
    ("untidy", "tidy"),
    [
        ({"filter": {"everyNth": 2.0}}, {"filter": {"everyNth": 2}}),
        ({"filter": None}, {}),
        ({"suspend": None}, {}),
        ({"unknown": 1}, {}),
    ],
    ids=str,
)
def test_what_the_api_server_tidies_up_is_read(
    cluster: Cluster, untidy: dict[str, object], tidy: dict[str, object]
) -> None:
    answer = stored(cluster, DataRoute, ROUTE | untidy)
    assert isinstance(answer, dict), answer
    assert parsed(DataRoute, answer["spec"]) == parsed(DataRoute, ROUTE | tidy)


@pytest.mark.parametrize(
    ("url", "valid"),
    [
        ("http://10.0.2.70:4487/telegraf", True),
        ("https://[2001:db8::1]:8443/in?bucket=a%20b", True),
        ("http://sink.example", True),
        ("http://user:secret@sink.example/", False),
        ("http://sink.example/#fragment", False),
        ("http://sink.example/a\u00a0b", False),
        ("http://sink.example/\n", False),
        ("http://", False),
        ("ftp://sink.example/", False),
        ("HTTP://sink.example/", False),
    ],
)
def test_a_target_has_an_absolute_url_without_credentials(cluster: Cluster, url: str, *, valid: bool) -> None:
    spec = ROUTE | {"targets": [{"name": "a", "url": url}]}
    assert_same(cluster, DataRoute, spec)
    assert isinstance(parsed(DataRoute, spec), DataRoute) is valid


@pytest.mark.parametrize(
    ("target", "valid"),
    [
        ({"shape": {"keep": ["/a", "/b/c"]}}, True),
        ({"shape": {"convert": [{"field": "", "to": "°F"}]}}, True),
        ({"shape": {"rename": [{"field": "/a", "to": "b"}]}}, True),
        ({"shape": {}}, False),
        ({"shape": {"keep": ["/a", "/a"]}}, False),
        ({"shape": {"keep": [""]}}, False),
        ({"shape": {"rename": [{"field": "", "to": "b"}]}}, False),
        ({"shape": {"rename": [{"field": "/a", "to": ""}]}}, False),
        ({"shape": {"rename": [{"field": "/a", "to": "b"}, {"field": "/a", "to": "c"}]}}, False),
        ({"line": {}}, False),
        ({"line": {}, "encoding": "InfluxLine"}, True),
        ({"line": {"tags": []}, "encoding": "InfluxLine"}, True),
        ({"line": {"tags": ["colour"]}, "encoding": "InfluxLine"}, False),
        ({"line": {"timestamp": {"source": "Payload", "field": "/t", "unit": "ns"}}, "encoding": "InfluxLine"}, True),
        ({"line": {"timestamp": {"source": "Payload", "field": "/t"}}, "encoding": "InfluxLine"}, False),
        ({"line": {"timestamp": {"source": "Arrival", "unit": "s"}}, "encoding": "InfluxLine"}, False),
    ],
    ids=str,
)
def test_shapes_and_lines_are_judged_alike(cluster: Cluster, target: dict[str, object], *, valid: bool) -> None:
    spec = ROUTE | {"targets": [{"name": "a", "url": "http://a", **target}]}
    assert_same(cluster, DataRoute, spec)
    assert isinstance(parsed(DataRoute, spec), DataRoute) is valid


INFLUX = {"url": "https://a:8086", "version": "V1", "database": "plant"}
INFLUX_2 = {"url": "https://a", "version": "V2", "organization": "o", "bucket": "b"}
KAFKA = {"bootstrapServers": ["kafka-0.plant.example:9092", "[2001:db8::1]:9092"], "topic": "readings"}
MQTT = {"url": "mqtts://a", "topic": "plant/{device}/{topic}"}
CA = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("target", "valid"),
    [
        ({}, False),
        ({"url": "https://a", "mqtt": MQTT}, False),
        ({"url": "https://a", "compression": "Zstd", "credential": "mine", "encoding": "NDJSON"}, True),
        ({"url": "https://a", "compression": "Brotli"}, False),
        ({"url": "https://a", "credential": "../mine"}, False),
        ({"influxDB": INFLUX, "line": {}, "compression": "Gzip", "caBundle": CA}, True),
        ({"influxDB": INFLUX, "compression": "Zstd"}, False),
        ({"influxDB": INFLUX, "encoding": "NDJSON"}, False),
        ({"influxDB": {**INFLUX, "retentionPolicy": "a week"}}, True),
        ({"influxDB": {**INFLUX, "bucket": "b"}}, False),
        ({"influxDB": {**INFLUX, "url": "https://a?b"}}, False),
        ({"influxDB": {**INFLUX, "url": "http://a"}, "caBundle": CA}, False),
        ({"influxDB": INFLUX_2}, True),
        ({"influxDB": {**INFLUX_2, "database": "d"}}, False),
        ({"influxDB": {**INFLUX_2, "retentionPolicy": "r"}}, False),
        ({"influxDB": {"url": "https://a", "version": "V2", "bucket": "b"}}, False),
        ({"kafka": KAFKA, "compression": "Zstd", "caBundle": CA}, True),
        ({"kafka": {**KAFKA, "commandsFrom": "commands"}}, True),
        ({"kafka": {**KAFKA, "topic": "."}}, False),
        ({"kafka": {**KAFKA, "bootstrapServers": []}}, False),
        ({"kafka": {**KAFKA, "bootstrapServers": ["kafka"]}}, False),
        ({"kafka": KAFKA, "spiffeID": "spiffe://b.test/endpoint/a"}, False),
        ({"mqtt": MQTT, "spiffeID": "spiffe://b.test/endpoint/a"}, True),
        ({"mqtt": {**MQTT, "version": "3.1.1"}}, True),
        ({"mqtt": {**MQTT, "url": "mqtt://a"}, "caBundle": CA}, False),
        ({"mqtt": {**MQTT, "url": "mqtts://u@a"}}, False),
        ({"mqtt": {**MQTT, "topic": "plant/+"}}, False),
        ({"mqtt": {**MQTT, "topic": "plant/#"}}, False),
        ({"mqtt": {**MQTT, "topic": "$SYS/x"}}, False),
        ({"mqtt": {**MQTT, "topic": "plant/{node}"}}, False),
        ({"mqtt": MQTT, "compression": "Gzip"}, False),
        ({"mqtt": MQTT, "line": {}}, False),
    ],
    ids=str,
)
def test_addresses_are_judged_alike(cluster: Cluster, target: dict[str, object], *, valid: bool) -> None:
    spec = ROUTE | {"targets": [{"name": "a", **target}]}
    assert_same(cluster, DataRoute, spec)
    assert isinstance(parsed(DataRoute, spec), DataRoute) is valid


def test_signed_readings_are_not_claimed_in_another_shape(cluster: Cluster) -> None:
    shaped = {"name": "a", "url": "http://a", "shape": {"keep": ["/a"]}}
    for integrity, refused in (("None", False), ("Signed", True)):
        spec = {"sensor": {"type": "Humidity"}, "integrity": integrity, "endpoints": [shaped]}
        assert_same(cluster, SensorClaim, spec)
        assert isinstance(parsed(SensorClaim, spec), str) is refused


@pytest.mark.parametrize(
    "limits",
    [
        {"latencyMicroseconds": {}},
        {"latencyMicroseconds": {"lessThan": 16000, "atMost": 16000}},
        {"latencyMicroseconds": {"atLeast": 16001, "atMost": 16000}},
        {"latencyMicroseconds": {"greaterThan": 15999, "lessThan": 16000}},
        {"latencyMicroseconds": {"lessThan": 0}},
        {"latencyMicroseconds": {"atMost": -1}},
        {"latencyMicroseconds": {"atMost": 2**53}},
        {"latencyMicroseconds": {"atMost": "16 ms"}},
        {"accuracyMicrounits": {"atMost": 1}},
    ],
    ids=str,
)
def test_limits_that_nothing_satisfies_are_refused_at_admission(cluster: Cluster, limits: dict[str, object]) -> None:
    spec = {"limits": limits, "endpoints": ROUTE["targets"]}
    assert isinstance(stored(cluster, SensorClaim, spec), str)
    assert isinstance(parsed(SensorClaim, spec), str)


@pytest.mark.parametrize(
    "bound",
    [
        {"atLeast": 16000, "atMost": 16000},
        {"greaterThan": 15999, "atMost": 16000},
        {"atLeast": 15999, "lessThan": 16000},
        {"greaterThan": 15998, "lessThan": 16000},
        {"lessThan": 1},
        {"atMost": 0},
        {"greaterThan": 0},
    ],
    ids=str,
)
def test_limits_that_one_value_satisfies_are_accepted(cluster: Cluster, bound: dict[str, int]) -> None:
    spec = {"limits": {"latencyMicroseconds": bound}, "endpoints": ROUTE["targets"]}
    assert_same(cluster, SensorClaim, spec)
    assert isinstance(parsed(SensorClaim, spec), SensorClaim)
