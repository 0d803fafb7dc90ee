"""Flavors, buyers and wishes that tests of the gateway start from."""

from typing import Any

NODE_ID = "provider1"
IDENTITY = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "fluidos-node-identity", "namespace": "fluidos"},
    "data": {"domain": "fluidos.eu", "nodeID": NODE_ID, "ip": "127.0.0.1", "port": "3004"},
}
OWNER = {"domain": "fluidos.eu", "nodeID": NODE_ID, "ip": "127.0.0.1:3004"}
TARGET = "http://192.0.2.7:4487/telegraf"
SECURE_TARGET = "https://192.0.2.7:4487/telegraf"


def characteristics(
    uid: str = "31bacf17", *, node: str = "edge-1", additional: dict[str, str] | None = None, **changed: Any
) -> dict[str, Any]:
    """The fork's sample sensor: an HTS221 of 100 ms, 1 Hz, 0.06 mW, 0.1 °C and 0.5 %."""
    units = {"measurement": ["°C", "%"], "consumption": "mW", "samplingRate": "Hz", "latency": "ms"}
    return {
        "uid": uid,
        "node": node,
        "name": "",
        "model": "hts221",
        "manufacturer": "STMicroelectronics",
        "market": "Commercial",
        "type": {"sensorCategory": "Environmental", "sensorType": ["Temperature", "Humidity"]},
        "samplingRate": "1",
        "accuracy": ["0.1", "0.5"],
        "consumption": "0.06",
        "latency": "100",
        "properties": {"unit": units, **({"additional": additional} if additional else {})},
        "access": {
            "type": "MQTT",
            "source": "eventbus-fluidos",
            "resource": {"topic": f"sensor/00112233FFEE/0014/{uid}", "node": node},
        },
        **changed,
    }


def named(name: str, namespace: str) -> str:
    """Flavors are asked for by name alone, and namespaces of earlier tests may still be there."""
    return f"{name}-{namespace}"


def flavor(
    name: str, *, namespace: str, kind: str = "Sensor", data: dict[str, Any] | None = None, available: bool = True
) -> dict[str, Any]:
    """A Flavor of any type, `named` so that it is unique; a sensor's node is called as its namespace."""
    if data is None:
        data = {"characteristics": characteristics(f"uid-{name}", node=namespace)}
    return {
        "apiVersion": "nodecore.fluidos.eu/v1alpha1",
        "kind": "Flavor",
        "metadata": {"name": named(name, namespace), "namespace": namespace},
        "spec": {
            "providerID": NODE_ID,
            "availability": available,
            "owner": OWNER,
            "price": {"amount": "", "currency": "", "period": ""},
            "location": {"country": "Greece", "city": "Heraklion"},
            "flavorType": {"typeIdentifier": kind, "typeData": data},
        },
    }


def sensor(name: str, *, namespace: str, available: bool = True, **changed: Any) -> dict[str, Any]:
    """A sensor's Flavor with some characteristics changed."""
    data = {"characteristics": characteristics(f"uid-{name}", node=namespace, **changed)}
    return flavor(name, namespace=namespace, data=data, available=available)


K8SLICE = {
    "characteristics": {"architecture": "amd64", "cpu": "4", "memory": "8Gi", "pods": "110", "storage": "20Gi"},
    "properties": {"carbon-footprint": {"embodied": 1, "operational": [1]}},
    "policies": {},
}
SERVICE = {
    "name": "db",
    "description": "a database",
    "category": "database",
    "tags": ["sql", "postgres"],
    "hostingPolicies": ["Provider"],
    "configurationTemplate": {},
}


def buyer(name: str = "consumer1") -> dict[str, Any]:
    """A buyer's identity, as it is sent."""
    return {"ID": name, "IP": "127.0.0.1:3005", "domain": "fluidos.eu"}


def configuration(*, claim: str = "uid-1", url: str = TARGET, **changed: Any) -> dict[str, Any]:
    """What a claim asks beyond the flavor, as it is sent."""
    return {
        "type": "sensor",
        "data": {
            "claim": {"name": "humidity", "namespace": "default", "uid": claim},
            "endpoints": [
                {"name": "telegraf", "url": url, "encoding": "JSONArray", "compression": "None", "envelope": False}
            ],
            "delivery": "AtLeastOnce",
            **changed,
        },
    }


def wish(flavor_id: str, *, buyer_id: str = "consumer1", **changed: Any) -> dict[str, Any]:
    """The body of RESERVE."""
    return {"flavorID": flavor_id, "buyerID": buyer(buyer_id), "configuration": configuration(**changed)}


def leaf(name: str, *, namespace: str) -> dict[str, Any]:
    """A LeafDevice with one sensor, on the node that is called as its namespace."""
    return {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "LeafDevice",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "nodeName": namespace,
            "source": {"kind": "KubeEdgeDevice", "apiVersion": "devices.kubeedge.io/v1beta1", "name": name},
            "sensors": [
                {
                    "uid": "s1",
                    "model": "hts221",
                    "category": "Environmental",
                    "measurements": [{"type": "Humidity", "unit": "%"}],
                    "latencyMicroseconds": 12000,
                    "declared": {"latency": "12", "latencyUnit": "ms", "measurementUnits": ["%"]},
                    "access": {"topic": "sensor/x"},
                }
            ],
        },
    }


def refused_status(last_seen: str, *, reason: str = "FlavorRefused") -> dict[str, Any]:
    """What discovery writes where the API server takes no Sensor flavor."""
    refused = {
        "type": "FlavorPublished",
        "status": "False",
        "reason": reason,
        "message": "admission webhook denied the request",
        "lastTransitionTime": last_seen,
    }
    return {"conditions": [refused], "lastSeenTime": last_seen}
