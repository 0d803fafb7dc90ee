"""What the consumers ask for: the two scenarios of the FLUIDOS Edge demo. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from scripts.demo.inventory import NAMESPACE, LeafBoard, Part, boards, uid

Wanted = Callable[[LeafBoard, Part], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One claim, and what the demo knows that it has to get.

    Attributes:
        name: of the SensorClaim; unique over all clusters.
        consumer: whose cluster it is applied to, from 1.
        sentence: what it asks, for people.
        spec: of the SensorClaim, without endpoints.
        endpoints: encoding by name.
        wanted: which sensors fit.
    """

    name: str
    consumer: int
    sentence: str
    spec: dict[str, Any]
    endpoints: dict[str, str]
    wanted: Wanted

    def document(self, sink: str) -> dict[str, Any]:
        """The SensorClaim, with endpoints below the sink's URL."""
        endpoints = [
            {"name": name, "url": f"{sink}/{self.target(name)}", "encoding": encoding}
            for name, encoding in self.endpoints.items()
        ]
        return {
            "apiVersion": "edge.fluidos.eu/v1alpha1",
            "kind": "SensorClaim",
            "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": {**self.spec, "endpoints": endpoints},
        }

    def target(self, endpoint: str) -> str:
        """The name of one of its endpoints in the sink and in the report."""
        return f"{self.name}.{endpoint}"

    def satisfied(self, bound: frozenset[str], *, providers: int) -> bool:
        """Whether these sensors (by uid) are what it asked for: some that fit, or all that fit."""
        fitting = {
            uid(board, part)
            for provider in range(1, providers + 1)
            for board in boards(provider)
            for part in board.parts
            if self.wanted(board, part)
        }
        count = self.spec["count"]
        return bound == fitting if count == "All" else bound <= fitting and len(bound) == count


def asks(consumers: int, *, insecure: bool = False) -> Iterator[Ask]:
    """The claims of all consumers. With one consumer alone, it makes those of the second too.

    Args:
        consumers: how many there are.
        insecure: without identities, and so without anybody who could sign.
    """
    second = min(2, consumers)
    yield Ask(
        name="pressure-many-endpoints",
        consumer=1,
        sentence="every pressure sensor, to three endpoints at once",
        spec={"sensor": {"type": "Pressure"}, "count": "All"},
        endpoints={"dashboard": "JSONArray", "archive": "NDJSON", "influx": "InfluxLine"},
        wanted=_measures("Pressure"),
    )
    for consumer in range(second, consumers + 1):
        yield Ask(
            name="pressure-shared" if consumer == second else f"pressure-shared-{consumer}",
            consumer=consumer,
            sentence="the same sensors, shared",
            spec={"sensor": {"type": "Pressure"}, "count": "All"},
            endpoints={"archive": "NDJSON"},
            wanted=_measures("Pressure"),
        )
    yield Ask(
        name="wind",
        consumer=second,
        sentence="and every wind sensor, by a CEL selector",
        spec={"selector": 'device.attributes["sensor.fluidos.eu"].sensorType == "WindSpeed"', "count": "All"},
        endpoints={"archive": "JSONArray"},
        wanted=_measures("WindSpeed"),
    )
    yield _humidity(16, consumer=1, count=1)
    yield _humidity(25, consumer=second, count="All")
    if not insecure:
        yield Ask(
            name="humidity-signed",
            consumer=1,
            sentence="every humidity sensor whose device signs its readings",
            spec={"sensor": {"type": "Humidity"}, "integrity": "Signed", "count": "All"},
            endpoints={"archive": "NDJSON"},
            wanted=lambda _board, part: "Humidity" in part.accuracy and part.integrity == "Signed",
        )


def _humidity(milliseconds: int, *, consumer: int, count: int | Literal["All"]) -> Ask:
    def wanted(board: LeafBoard, part: Part) -> bool:
        fits = "Humidity" in part.accuracy and part.latency_milliseconds < milliseconds
        return fits and board.mcu_family == "STM32"

    return Ask(
        name=f"humidity-under-{milliseconds}ms",
        consumer=consumer,
        sentence=f"{'one' if count == 1 else 'every'} STM32 humidity sensor with latency < {milliseconds} ms",
        spec={
            "sensor": {"type": "Humidity", "mcuFamily": "STM32"},
            "limits": {"latencyMicroseconds": {"lessThan": milliseconds * 1000}},
            "count": count,
        },
        endpoints={"control": "JSONArray"},
        wanted=wanted,
    )


def _measures(sensor_type: str) -> Wanted:
    return lambda _board, part: sensor_type in part.accuracy
