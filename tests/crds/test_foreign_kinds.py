"""Objects of FLUIDOS and KubeEdge as those write them: a real API server keeps all of them, the models read them."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from crds.errors import InvalidField
from crds.generate import MANIFESTS
from crds.models import kubeedge, kubeedge_v1alpha2
from crds.models.base import Resource
from crds.models.fluidos import Contract, Flavor, KnownCluster, Transaction
from crds.sensors_annotation import decode_annotation
from crds.typedata import sensor_from_flavor
from scripts.testbed.api import ApiError
from scripts.testbed.cluster import Cluster
from scripts.testbed.controlplane import ControlPlanes
from tests.crds.test_typedata import HTS221

pytestmark = pytest.mark.control_plane

Json = dict[str, Any]

OWNER: Json = {"domain": "fluidos.eu", "nodeID": "jlhfplohpf", "ip": "172.18.0.5:30000"}
BUYER: Json = {**OWNER, "nodeID": "buyer", "additionalInformation": {"liqoID": "liqo"}}
FLAVOR_SPEC: Json = {
    "providerID": "jlhfplohpf",
    "flavorType": {"typeIdentifier": "Sensor", "typeData": {"characteristics": HTS221}},
    "owner": OWNER,
    "price": {"amount": "", "currency": "", "period": ""},
    "availability": True,
    "networkPropertyType": "networkProperty",
    "location": {"latitude": "35.28", "longitude": "25.13", "country": "Greece", "city": "Heraklion"},
}
CONFIGURATION: Json = {"type": "Sensor", "data": {"endpoints": [{"name": "a", "url": "http://a"}], "any": {"n": 1.5}}}
CONTRACT_SPEC: Json = {
    "flavor": {
        "apiVersion": "nodecore.fluidos.eu/v1alpha1",
        "kind": "Flavor",
        "metadata": {"name": "fluidos.eu-sensor-1a2b", "namespace": "fluidos"},
        "spec": FLAVOR_SPEC,
        "status": {"creationTime": "", "expirationTime": "", "lastUpdateTime": ""},
    },
    "transactionID": "2738d980a2b1ff0b",
    "configuration": CONFIGURATION,
    "buyer": BUYER,
    "buyerClusterID": "cluster",
    "seller": OWNER,
    "peeringTargetCredentials": {"liqoID": "", "kubeconfig": ""},
    "expirationTime": "2026-11-22T00:00:00Z",
    "extraInformation": {"key": "value"},
    "networkRequests": "none",
    "ingressTelemetryEndpoint": {"endpoint": "http://a", "intents": ["x"]},
}
TRANSACTION_SPEC: Json = {
    "flavorID": "fluidos.eu-sensor-1a2b",
    "buyer": BUYER,
    "clusterID": "cluster",
    "configuration": CONFIGURATION,
    "expirationTime": "2026-11-22T00:00:00Z",
}
DEVICE_V1BETA1: Json = {
    "deviceModelRef": {"name": "stwinbx1-model"},
    "nodeName": "edge-1",
    "protocol": {"protocolName": "usb", "configData": {"serial": "00:11", "baud": 115200, "nested": {"a": [1, None]}}},
    "properties": [
        {
            "name": "temperature",
            "collectCycle": 1000,
            "reportCycle": 1000,
            "reportToCloud": True,
            "desired": {"value": ""},
            "visitors": {"protocolName": "usb", "configData": {"dataType": "float"}},
            "pushMethod": {
                "mqtt": {"address": "tcp://127.0.0.1:1883", "topic": "t", "qos": 1, "retained": False},
                "dbMethod": {
                    "influxdb2": {
                        "influxdb2ClientConfig": {"url": "http://a", "org": "o", "bucket": "b"},
                        "influxdb2DataConfig": {"measurement": "m", "tag": {"a": "b"}, "fieldKey": "f"},
                    },
                    "redis": {"redisClientConfig": {"addr": "a", "db": 1, "poolsize": 2, "minIdleConns": 3}},
                    "TDEngine": {"TDEngineClientConfig": {"addr": "a", "dbName": "d"}},
                    "mysql": {"mysqlClientConfig": {"addr": "a", "database": "d", "userName": "u"}},
                },
                "otel": {"endpointURL": "http://a"},
            },
        }
    ],
    "methods": [{"name": "setAll", "description": "d", "propertyNames": ["temperature"]}],
}
DEVICE_V1ALPHA2: Json = {
    "deviceModelRef": {"name": "bluenrg"},
    "nodeSelector": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "", "operator": "In", "values": ["edge-1"]}]}]
    },
    "protocol": {"bluetooth": {"macAddress": "00:11:22:33:FF:EE"}, "common": {"com": {"baudRate": 9600}}},
    "propertyVisitors": [
        {
            "propertyName": "Environmental",
            "collectCycle": 500000000,
            "bluetooth": {
                "characteristicUUID": "00140000000111e1ac360002a5d5c51b",
                "dataConverter": {
                    "startIndex": 4,
                    "endIndex": 5,
                    "orderOfOperations": [{"operationType": "Divide", "operationValue": 10}],
                },
            },
        }
    ],
}
MODEL_V1ALPHA2: Json = {
    "properties": [
        {
            "name": "temperature",
            "description": "d",
            "type": {"double": {"accessMode": "ReadOnly", "minimum": -40.5, "maximum": 120, "unit": "degC"}},
        }
    ]
}
MODEL_V1BETA1: Json = {
    "properties": [{"name": "temperature", "type": "FLOAT", "accessMode": "ReadOnly", "minimum": "-40", "unit": "°C"}],
    "protocolConfigData": {"any": {"thing": True}},
}
TWINS: Json = {
    "twins": [{"propertyName": "temperature", "reported": {"value": "21", "metadata": {"timestamp": "1", "type": ""}}}],
    "state": "online",
    "lastOnlineTime": "2026-11-21T11:00:00Z",
}


@pytest.fixture(scope="module")
def older_kubeedge(control_planes: ControlPlanes) -> Iterator[Cluster]:
    """A cluster with KubeEdge 1.14's kinds: the versions have no conversion, so it is an installation of its own."""
    cluster = control_planes.start_cluster("kubeedge-v1alpha2", controllers=False)
    cluster.apply(MANIFESTS / "kubeedge-v1alpha2")
    yield cluster
    cluster.stop()


def kept(cluster: Cluster, model: type[Resource], body: Json, *, strict: bool = True) -> Json:
    """What the API server would store of an object."""
    crd = model.crd
    answer: Json = cluster.api.request(
        "POST",
        f"/apis/{crd.group}/{crd.version}/namespaces/default/{crd.plural}",
        body={"apiVersion": crd.api_version, "kind": crd.kind, "metadata": {"name": "sample"}, **body},
        query={"dryRun": "All", "fieldValidation": "Strict" if strict else "Ignore"},
    )
    return answer


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (Flavor, FLAVOR_SPEC),
        (Contract, CONTRACT_SPEC),
        (Transaction, TRANSACTION_SPEC),
        (KnownCluster, {"address": "172.18.0.5:30000"}),
        (kubeedge.Device, DEVICE_V1BETA1),
        (kubeedge.DeviceModel, MODEL_V1BETA1),
    ],
)
def test_their_objects_are_kept_whole_and_read_whole(cluster: Cluster, model: type[Resource], spec: Json) -> None:
    answer = kept(cluster, model, {"spec": spec})
    assert answer["spec"] == spec
    assert model.parse(answer).dump()["spec"] == spec


@pytest.mark.parametrize(
    ("model", "spec"),
    [(kubeedge_v1alpha2.Device, DEVICE_V1ALPHA2), (kubeedge_v1alpha2.DeviceModel, MODEL_V1ALPHA2)],
)
def test_objects_of_older_kubeedge_are_kept_and_read_whole(
    older_kubeedge: Cluster, model: type[Resource], spec: Json
) -> None:
    answer = kept(older_kubeedge, model, {"spec": spec})
    assert answer["spec"] == spec
    assert model.parse(answer).dump()["spec"] == spec


def test_a_cluster_that_stores_v1beta1_loses_what_only_v1alpha2_can_say(cluster: Cluster) -> None:
    """Why a version that is merely served must not be used."""
    answer = kept(cluster, kubeedge_v1alpha2.Device, {"spec": DEVICE_V1ALPHA2}, strict=False)
    assert "nodeSelector" not in answer["spec"]


@pytest.mark.parametrize("model", [kubeedge.Device, kubeedge.DeviceStatus])
def test_a_device_reports_in_either_place(
    cluster: Cluster, model: type[kubeedge.Device | kubeedge.DeviceStatus]
) -> None:
    answer = kept(cluster, model, {"spec": {}, "status": TWINS})
    assert answer["status"] == TWINS
    read = model.parse(answer)
    assert read.status is not None
    assert read.status.state == "online"


def test_later_releases_may_add_to_a_device(cluster: Cluster) -> None:
    answer = kept(cluster, kubeedge.Device, {"spec": DEVICE_V1BETA1, "status": {**TWINS, "extensions": {"a": 1}}})
    assert answer["status"]["extensions"] == {"a": 1}
    assert kubeedge.Device.parse({**answer, "spec": {**answer["spec"], "later": {"a": 1}}}).spec.node_name == "edge-1"


def test_the_sensors_of_a_device_are_read_from_its_annotation(cluster: Cluster) -> None:
    annotation = base64.b64encode(json.dumps([HTS221]).encode()).decode()
    metadata = {"name": "sample", "annotations": {"sensors": annotation}}
    answer = kept(cluster, kubeedge.Device, {"metadata": metadata, "spec": DEVICE_V1BETA1})
    device = kubeedge.Device.parse(answer)
    (sensor,) = decode_annotation(device.metadata.annotations.get("sensors")).sensors
    assert sensor.traits.model == "hts221"


def test_the_type_data_of_a_flavor_survives_the_api_server(cluster: Cluster) -> None:
    flavor = Flavor.parse(kept(cluster, Flavor, {"spec": FLAVOR_SPEC}))
    assert json.dumps(flavor.spec.flavor_type.type_data, sort_keys=True) == json.dumps(
        {"characteristics": HTS221}, sort_keys=True
    )
    assert sensor_from_flavor(flavor.spec).sensor.latency_microseconds == 100_000


def test_a_contract_keeps_no_uid_of_its_flavor(cluster: Cluster) -> None:
    flavor = {**CONTRACT_SPEC["flavor"], "metadata": {"name": "f", "uid": "1"}}
    with pytest.raises(ApiError, match=r"spec\.flavor\.metadata\.uid"):
        kept(cluster, Contract, {"spec": {**CONTRACT_SPEC, "flavor": flavor}})


@pytest.mark.parametrize(
    ("model", "spec", "missing"),
    [
        (Flavor, FLAVOR_SPEC, "owner"),
        (Contract, CONTRACT_SPEC, "peeringTargetCredentials"),
        (Transaction, TRANSACTION_SPEC, "buyer"),
        (KnownCluster, {"address": "a"}, "address"),
    ],
)
def test_what_fluidos_requires_is_required(cluster: Cluster, model: type[Resource], spec: Json, missing: str) -> None:
    rest = {key: value for key, value in spec.items() if key != missing}
    with pytest.raises(ApiError, match=missing):
        kept(cluster, model, {"spec": rest})


def test_an_object_without_a_spec_is_no_object_of_use(cluster: Cluster) -> None:
    answer = kept(cluster, KnownCluster, {})
    with pytest.raises(InvalidField) as refused:
        KnownCluster.parse(answer)
    assert refused.value.field == "spec"
