"""The selector language: CEL over `device`, in the vocabulary of Kubernetes' Dynamic Resource Allocation.

`device.attributes["sensor.fluidos.eu"].latencyMicros < 16000` means here what it means in a ResourceClaim, so that one
string works in a SensorClaim, in a DataRoute and in the Kubernetes scheduler.
Source: k8s.io/dynamic-resource-allocation/cel; attribute names are C identifiers of at most 32 characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cel_expr_python import cel

from crds.errors import InvalidField
from crds.models.leafdevice import Board, Sensor
from crds.typedata import FlavorTrust

DRIVER = "sensor.fluidos.eu"
MAX_EXPRESSION = 4096

Attribute = str | int | bool
Device = Mapping[str, object]

_ENVIRONMENT = cel.NewEnv(
    # Kubernetes enables the same two extensions: `a.?b.orValue(c)` and `cel.bind(x, ..., ...)`.
    config=cel.NewEnvConfigFromYaml("extensions:\n- name: optional\n- name: bindings\n- name: strings\n"),
    variables={"device": cel.Type.Map(cel.Type.STRING, cel.Type.DYN)},
)


def attributes(
    *,
    sensor: Sensor,
    board: Board,
    node: str,
    cluster: str,
    trust: FlavorTrust | None = None,
    observed_latency_microseconds: int | None = None,
) -> dict[str, Attribute]:
    """What a selector can ask of a flavor. What the device did not declare is absent, not guessed."""
    first = sensor.measurements[0]
    found: dict[str, Attribute | None] = {
        "uid": sensor.uid,
        "model": sensor.model,
        "manufacturer": sensor.manufacturer,
        "market": sensor.market or "",
        "category": sensor.category,
        "sensorType": ",".join(measurement.type for measurement in sensor.measurements),
        "unit": first.unit,
        "board": board.name,
        "mcu": board.mcu,
        "mcuFamily": board.mcu_family,
        "protocol": sensor.access.type,
        "integrity": sensor.integrity,
        "node": node,
        "cluster": cluster,
        "trustTier": trust.tier if trust else "None",
        "spiffeID": trust.spiffe_id if trust else None,
        "application": (trust.application or None) if trust else None,
        "latencyMicros": sensor.latency_microseconds,
        "observedLatencyMicros": observed_latency_microseconds,
        "samplingMillihertz": sensor.sampling_rate_millihertz,
        "consumptionMicrowatts": sensor.consumption_microwatts,
        "accuracyMicros": first.accuracy_microunits,
    }
    for measurement in sensor.measurements:
        name = re.sub(r"[^A-Za-z0-9_]", "", measurement.type)
        # A flavor may measure several things and DRA has no lists: one boolean each instead.
        found[f"measures{name}"[:32]] = True
        found[f"accuracyMicros{name}"[:32]] = measurement.accuracy_microunits
    return {key: value for key, value in found.items() if value is not None}


def device(found: Mapping[str, Attribute]) -> Device:
    """The `device` variable of DRA for a set of attributes."""
    return {"driver": DRIVER, "attributes": {DRIVER: dict(found)}, "capacity": {}}


@dataclass(frozen=True, slots=True)
class Matched:
    """The expression is true."""


@dataclass(frozen=True, slots=True)
class NotMatched:
    """The expression is false, or could not be evaluated for this device."""

    why: str


class Selector:
    """A compiled expression. Build it with `compile_selector`."""

    def __init__(self, expression: str, compiled: cel.Expression) -> None:
        self.expression = expression
        self._compiled = compiled

    def match(self, candidate: Device) -> Matched | NotMatched:
        """Evaluate for one device; an error is a refusal of this device alone, as in the scheduler."""
        try:
            value = self._compiled.eval(data={"device": candidate})
        except RuntimeError as error:
            # The library stops runaway comprehensions by itself ("Iteration budget exceeded"): that is our cost limit.
            return NotMatched(f"cannot be evaluated: {_first_line(str(error))}")
        if value.type() == cel.Type.ERROR:
            return NotMatched(f"cannot be evaluated: {_first_line(str(value.value()))}")
        answer = value.plain_value()
        if answer is True:
            return Matched()
        if answer is False:
            return NotMatched("is false")
        return NotMatched(f"must be a boolean, is {answer!r:.60}")


@lru_cache(maxsize=1024)
def compile_selector(expression: str, *, field: str = "selector") -> Selector:
    """Check and compile.

    Raises:
        InvalidField: syntax error, unknown name, or a type that is not boolean.
    """
    if len(expression) > MAX_EXPRESSION:
        raise InvalidField(field=field, value=expression, expected=f"at most {MAX_EXPRESSION} characters")
    try:
        compiled = _ENVIRONMENT.compile(expression)
    except RuntimeError as error:
        expected = f"a CEL expression over `device` ({_first_line(str(error))})"
        raise InvalidField(field=field, value=expression, expected=expected) from error
    if compiled.return_type() not in (cel.Type.BOOL, cel.Type.DYN):
        expected = f"a boolean CEL expression, not {compiled.return_type().name()}"
        raise InvalidField(field=field, value=expression, expected=expected)
    return Selector(expression, compiled)


def _first_line(text: str) -> str:
    line = text.partition("\n")[0]
    return line.removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: ")[:200]
