"""The leaf devices of each provider, as KubeEdge describes them: real parts, in both of KubeEdge's versions. Pure."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import NAMESPACE_DNS, uuid5

import orjson

from crds.models.trust import Integrity
from edge_resource_manager.domain.devices import UEID_KEY

Document = dict[str, Any]
DeviceVersion = Literal["v1beta1", "v1alpha2"]

NAMESPACE: Final = "default"
MODEL: Final = "leaf"
EVENT_BUS: Final = "eventbus-fluidos"
CHARACTERISTIC: Final = "00140000000111e1ac360002a5d5c51b"
UNITS: Final = {"Temperature": "°C", "Humidity": "%", "Pressure": "hPa", "WindSpeed": "m/s"}
STATIONS: Final = ("EWR", "JFK", "LGA")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One sensor, as its data sheet has it; the latency is that of this board."""

    model: str
    manufacturer: str
    category: str = "Environmental"
    accuracy: dict[str, str]
    """By type, in the unit of the type."""
    latency_milliseconds: int
    sampling_hertz: str = "1"
    consumption_milliwatts: str = "0.06"
    integrity: Integrity = "None"
    """Signed: its board signs the readings, if it can prove what it is."""
    dated: bool = False
    """Its readings are believed when they say when they were taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafBoard:
    """One device."""

    name: str
    board: str = ""
    mcu: str = ""
    bluetooth: bool = True
    parts: tuple[Part, ...]

    @property
    def mcu_family(self) -> str:
        """What a claim may ask for."""
        return "STM32" if self.mcu.startswith("STM32") else ""


def hts221(latency_milliseconds: int) -> Part:
    """ST's humidity and temperature sensor, which several boards carry."""
    return Part(
        model="hts221",
        manufacturer="STMicroelectronics",
        accuracy={"Humidity": "3.5", "Temperature": "0.5"},
        latency_milliseconds=latency_milliseconds,
    )


def boards(provider: int) -> tuple[LeafBoard, ...]:
    """What the n-th provider (from 1) has. Odd ones have more, and their STWIN.box is faster."""
    odd = provider % 2 == 1
    barometer = Part(
        model="ilps22qs",
        manufacturer="STMicroelectronics",
        accuracy={"Pressure": "0.5"},
        latency_milliseconds=20,
        consumption_milliwatts="0.05",
    )
    anemometer = Part(
        model="windsonic",
        manufacturer="Gill Instruments",
        category="Meteorological",
        accuracy={"WindSpeed": "0.1"},
        latency_milliseconds=250,
        sampling_hertz="4",
        consumption_milliwatts="45",
    )
    hygrometer = Part(
        model="sht40ad1b",
        manufacturer="Sensirion",
        accuracy={"Humidity": "1.8", "Temperature": "0.2"},
        latency_milliseconds=20,
        integrity="Signed",
    )
    common = (
        # 16 ms is the trap: it is not less than 16 ms.
        LeafBoard(
            name=f"stwin-box-{provider}",
            board="STWIN.box",
            mcu="STM32U585AI",
            parts=(hts221(12 if odd else 16), barometer),
        ),
        LeafBoard(name=f"anemometer-{provider}", bluetooth=False, parts=(anemometer,)),
    )
    if not odd:
        return common
    return (
        *common,
        LeafBoard(name=f"nucleo-{provider}", board="NUCLEO-L476RG", mcu="STM32L476RG", parts=(hygrometer,)),
        # Faster than all others, and no STM32.
        LeafBoard(name=f"thingy-{provider}", board="Thingy:52", mcu="nRF52832", parts=(hts221(9),)),
    )


def uid(board: LeafBoard, part: Part) -> str:
    """The same in every run."""
    return str(uuid5(NAMESPACE_DNS, f"{part.model}.{board.name}.demo.fluidos.eu"))


def device_model(version: DeviceVersion) -> Document:
    """The DeviceModel that all devices refer to."""
    return {
        "apiVersion": f"devices.kubeedge.io/{version}",
        "kind": "DeviceModel",
        "metadata": {"name": MODEL, "namespace": NAMESPACE},
        "spec": {},
    }


def device(board: LeafBoard, *, number: int, node: str, version: DeviceVersion, ueid: str | None = None) -> Document:
    """The Device of a board, the `number`-th of all, bound to a node; `ueid` is the name that it has to prove."""
    mac = f"00:80:E1:00:{number >> 8:02X}:{number & 0xFF:02X}"  # 00:80:E1 is ST's
    spec = _v1beta1(board, node=node, mac=mac) if version == "v1beta1" else _v1alpha2(board, node=node, mac=mac)
    described = [_characteristics(board, part, proves=ueid is not None) for part in board.parts]
    sensors = b64encode(orjson.dumps(described)).decode()
    annotations = {"sensors": sensors} | ({UEID_KEY: ueid} if ueid else {})
    return {
        "apiVersion": f"devices.kubeedge.io/{version}",
        "kind": "Device",
        "metadata": {"name": board.name, "namespace": NAMESPACE, "annotations": annotations},
        "spec": {"deviceModelRef": {"name": MODEL}, **spec},
    }


def _v1beta1(board: LeafBoard, *, node: str, mac: str) -> Document:
    if not board.bluetooth:
        return {"nodeName": node, "protocol": {"protocolName": "modbus", "configData": {"slaveID": 1}}}
    visitor = {"protocolName": "bluetooth", "configData": {"characteristicUUID": CHARACTERISTIC}}
    return {
        "nodeName": node,
        "protocol": {"protocolName": "bluetooth", "configData": {"macAddress": mac}},
        "properties": [{"name": board.parts[0].category.lower(), "visitors": visitor}],
    }


def _v1alpha2(board: LeafBoard, *, node: str, mac: str) -> Document:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    selector = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    if not board.bluetooth:
        return {"nodeSelector": selector, "protocol": {"modbus": {"slaveID": 1}}}
    visitor = {"propertyName": board.parts[0].category.lower(), "bluetooth": {"characteristicUUID": CHARACTERISTIC}}
    return {
        "nodeSelector": selector,
        "protocol": {"bluetooth": {"macAddress": mac}},
        "propertyVisitors": [visitor],
    }


def _characteristics(board: LeafBoard, part: Part, *, proves: bool) -> Document:
    """One entry of the `sensors` annotation, in the fork's shape: every number is a string."""
    additional = {"board": board.board, "mcu": board.mcu, "mcuFamily": board.mcu_family}
    if proves and part.integrity == "Signed":
        additional["integrity"] = part.integrity
    if part.dated:
        additional["timestampPointer"] = "/sentAt"
    return {
        "uid": uid(board, part),
        "node": "",
        "name": "",
        "model": part.model,
        "manufacturer": part.manufacturer,
        "market": "Industrial",
        "type": {"sensorCategory": part.category, "sensorType": list(part.accuracy)},
        "samplingRate": part.sampling_hertz,
        "accuracy": list(part.accuracy.values()),
        "consumption": part.consumption_milliwatts,
        "latency": str(part.latency_milliseconds),
        "properties": {
            "unit": {
                "measurement": [UNITS[each] for each in part.accuracy],
                "consumption": "mW",
                "samplingRate": "Hz",
                "latency": "ms",
            },
            "additional": {key: value for key, value in additional.items() if value},
        },
        "access": {"type": "MQTT", "source": EVENT_BUS, "resource": {"topic": "", "node": ""}},
    }
