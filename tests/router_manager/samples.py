"""Objects that tests of routes start from."""

from typing import Any


def flavor(
    name: str,
    *,
    namespace: str,
    model: str = "hts221",
    latency: str = "12",
    node: str = "edge-1",
    topic: str | None = None,
) -> dict[str, Any]:
    """A Sensor flavor in the fork's shape."""
    return {
        "apiVersion": "nodecore.fluidos.eu/v1alpha1",
        "kind": "Flavor",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "providerID": "provider1",
            "availability": True,
            "owner": {"domain": "fluidos.eu", "nodeID": "provider1", "ip": "127.0.0.1:3004"},
            "price": {"amount": "", "currency": "", "period": ""},
            "flavorType": {
                "typeIdentifier": "Sensor",
                "typeData": {
                    "characteristics": {
                        "uid": f"uid-{name}",
                        "node": node,
                        "name": "",
                        "model": model,
                        "manufacturer": "STMicroelectronics",
                        "type": {"sensorCategory": "Environmental", "sensorType": ["Humidity"]},
                        "samplingRate": "1",
                        "accuracy": ["0.5"],
                        "latency": latency,
                        "properties": {"unit": {"measurement": ["%"], "samplingRate": "Hz", "latency": "ms"}},
                        "access": {
                            "type": "MQTT",
                            "source": "eventbus-fluidos",
                            "resource": {"topic": topic or f"sensor/{name}", "node": node},
                        },
                    }
                },
            },
        },
    }


def contract(
    name: str, *, namespace: str, flavor: dict[str, Any], url: str = "http://192.0.2.7:4487/t", **asked: Any
) -> dict[str, Any]:
    """A Contract about that flavor, as the gateway writes it."""
    buyer = {"domain": "fluidos.eu", "nodeID": "consumer1", "ip": "127.0.0.1:3005"}
    return {
        "apiVersion": "reservation.fluidos.eu/v1alpha1",
        "kind": "Contract",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "flavor": {"metadata": {"name": flavor["metadata"]["name"]}, "spec": flavor["spec"]},
            "transactionID": "0" * 32,
            "buyer": buyer,
            "buyerClusterID": "consumer1",
            "seller": flavor["spec"]["owner"],
            "peeringTargetCredentials": {"liqoID": "", "kubeconfig": ""},
            "configuration": {
                "type": "Sensor",
                "data": {
                    "claim": {"name": "humidity", "namespace": "default", "uid": "c-1"},
                    "endpoints": [{"name": "telegraf", "url": url}],
                    **asked,
                },
            },
        },
    }


def route(
    name: str, *, namespace: str, source: dict[str, Any], url: str = "http://192.0.2.7:4487/t", **spec: Any
) -> dict[str, Any]:
    """A DataRoute as a person writes it."""
    return {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "DataRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": source, "targets": [{"name": "telegraf", "url": url}], **spec},
    }
