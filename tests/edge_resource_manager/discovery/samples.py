"""Objects that tests of discovery start from: the fork's sample board, in both of KubeEdge's versions."""

import base64
import json
from typing import Any

MAC = "00:11:22:33:FF:EE"
CHARACTERISTIC = "00140000000111e1ac360002a5d5c51b"
TOPIC = f"sensor/00112233FFEE/{CHARACTERISTIC}/hts221"
LABEL = {"node-role.fluidos.eu/sensors": "true"}

HUMIDITY: dict[str, Any] = {
    "uid": "31bacf17-f217-a6dd-4f1d-41387c40ddb9",
    "node": "",
    "name": "",
    "model": "hts221",
    "manufacturer": "STMicroelecronics",
    "market": "Commercial",
    "type": {"sensorCategory": "Environmental", "sensorType": ["Temperature", "Humidity"]},
    "samplingRate": "1",
    "accuracy": ["0.1", "0.5"],
    "consumption": "0.06",
    "latency": "100",
    "properties": {"unit": {"measurement": ["°C", "%"], "consumption": "mW", "samplingRate": "Hz", "latency": "ms"}},
    "access": {
        "type": "MQTT",
        "source": "eventbus-fluidos",
        "resource": {"topic": "sensors/CBB8C21519EF/0014/hts221", "node": ""},
    },
}
PRESSURE: dict[str, Any] = {
    **HUMIDITY,
    "uid": "9f8c1a52-0e3f-4f6e-8a8f-6f2d1f3f0b11",
    "model": "ilps22qs",
    "market": "Industrial",
    "type": {"sensorCategory": "Environmental", "sensorType": ["Pressure"]},
    "accuracy": ["0.1"],
    "consumption": "0.05",
    "properties": {"unit": {"measurement": ["hPa"], "consumption": "mW", "samplingRate": "Hz", "latency": "ms"}},
}
BOTH = (HUMIDITY, PRESSURE)


def packed(*sensors: dict[str, Any]) -> str:
    """The annotation's text."""
    return base64.b64encode(json.dumps(sensors, ensure_ascii=False).encode()).decode()


def device(
    name: str,
    *,
    namespace: str = "edge",
    node: str | None = "edge-1",
    sensors: str | None = packed(*BOTH),
    annotations: dict[str, str] | None = None,
    spec: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A Bluetooth device of v1beta1."""
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {**({} if sensors is None else {"sensors": sensors}), **(annotations or {})},
        },
        "spec": {
            "deviceModelRef": {"name": "bluenrg"},
            **({} if node is None else {"nodeName": node}),
            "protocol": {"protocolName": "bluetooth", "configData": {"macAddress": MAC}},
            "properties": [
                {
                    "name": "environmental",
                    "visitors": {
                        "protocolName": "bluetooth",
                        "configData": {"characteristicUUID": CHARACTERISTIC},
                    },
                }
            ],
            **(spec or {}),
        },
    }


def old_device(
    name: str,
    *,
    namespace: str = "edge",
    node: str = "edge-1",
    sensors: str | None = packed(*BOTH),
    spec: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The same device in v1alpha2, as the fork has it."""
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "devices.kubeedge.io/v1alpha2",
        "kind": "Device",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {} if sensors is None else {"sensors": sensors},
        },
        "spec": {
            "deviceModelRef": {"name": "bluenrg"},
            "nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]},
            "protocol": {"bluetooth": {"macAddress": MAC}},
            "propertyVisitors": [
                {"propertyName": "Environmental", "bluetooth": {"characteristicUUID": CHARACTERISTIC}}
            ],
            **(spec or {}),
        },
    }


def device_status(name: str, *, namespace: str, state: str, last_online: str | None) -> dict[str, Any]:
    """What a device last said, as KubeEdge 1.23 keeps it."""
    online = {} if last_online is None else {"lastOnlineTime": last_online}
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceStatus",
        "metadata": {"name": name, "namespace": namespace},
        "status": {"state": state, **online},
    }
