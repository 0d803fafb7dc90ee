"""KubeEdge Devices' annotation `sensors`, as the fork defined it: base64 of a JSON array, one entry a sensor."""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass

import orjson

from crds.errors import InvalidField
from crds.models.leafdevice import MAX_SENSORS
from crds.typedata import DeclaredSensor, parse_sensor

ANNOTATION = "sensors"
MAX_ANNOTATION_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an annotation holds. One bad entry is one error and hides none of the others."""

    sensors: tuple[DeclaredSensor, ...] = ()
    errors: tuple[InvalidField, ...] = ()


def decode_annotation(text: str | None) -> Decoded:
    """Read a Device's `sensors` annotation: base64 of a JSON array of sensors. Never raises.

    Args:
        text: the annotation, or None where there is none, which means no sensors.
    """
    if text is None:
        return Decoded()
    try:
        entries = _entries(text)
    except InvalidField as error:
        return Decoded(errors=(error,))
    sensors: dict[str, DeclaredSensor] = {}
    errors: list[InvalidField] = []
    for index, entry in enumerate(entries[:MAX_SENSORS]):
        field = f"{ANNOTATION}[{index}]"
        try:
            sensor = parse_sensor(entry, field=field)
        except InvalidField as error:
            errors.append(error)
            continue
        uid = sensor.traits.uid
        if uid in sensors:
            errors.append(InvalidField(field=f"{field}.uid", value=uid, expected="a uid that no earlier entry has"))
        sensors.setdefault(uid, sensor)
    if len(entries) > MAX_SENSORS:
        errors.append(InvalidField(field=ANNOTATION, value=len(entries), expected=f"at most {MAX_SENSORS} entries"))
    return Decoded(tuple(sensors.values()), tuple(errors))


def _entries(text: str) -> list[object]:
    field = f"metadata.annotations.{ANNOTATION}"
    limit = f"at most {MAX_ANNOTATION_BYTES} bytes"
    # Go's decoder, which defined the format, passes over line ends: `base64` without -w0 writes them.
    packed = text.replace("\n", "").replace("\r", "")
    if len(packed) > (MAX_ANNOTATION_BYTES + 2) // 3 * 4:
        raise InvalidField(field=field, value=f"{len(packed)} characters", expected=f"base64 of {limit}")
    try:
        data = b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidField(field=field, value=text, expected=f"standard base64 ({error})") from error
    if len(data) > MAX_ANNOTATION_BYTES:
        raise InvalidField(field=field, value=f"{len(data)} bytes", expected=limit)
    try:
        entries = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidField(field=field, value=data, expected=f"JSON ({error})") from error
    if not isinstance(entries, list):
        raise InvalidField(field=field, value=entries, expected="a JSON array of sensors")
    return entries
