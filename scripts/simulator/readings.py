"""Simulated sensors, and the payloads that they send. Pure: the time of sending is an argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import cycle
from typing import Annotated, Self

import orjson
from pydantic import Field, model_validator

from crds.models.base import Model, Word
from crds.models.leafdevice import Topic
from crds.models.trust import Integrity
from scripts.simulator.identity import SimulatedIdentity
from scripts.simulator.recordings import Recording, Row

Broker = Annotated[str, Field(max_length=261, pattern=r"^mqtts?://[^/:@\s]+:[0-9]{1,5}$")]


class SimulatedSensor(Model):
    """One sensor of one device: where it publishes and what it measures (`types` as its flavor writes them)."""

    device: Word
    sensor: Word
    broker: Broker
    topic: Topic
    types: Annotated[tuple[Word, ...], Field(min_length=1, max_length=16)]
    station: str = "EWR"
    identity: SimulatedIdentity | None = None
    svid: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Folder with the files of who publishes for a device that has no identity."""
    integrity: Integrity = "None"
    """Signed: each reading carries its device's own signature, for receivers that trust nobody between."""
    late_milliseconds: Annotated[int, Field(ge=0, le=86_400_000)] = 0
    """Its link is slow: readings are as old when they are published."""

    @model_validator(mode="after")
    def _can_sign(self) -> Self:
        if self.integrity == "Signed" and self.identity is None:
            msg = "must have an identity where integrity is Signed"
            raise ValueError(msg)
        return self

    @property
    def connection(self) -> tuple[str, str]:
        """Which connection it publishes on: its device's, or the one of all that have no identity."""
        return (self.broker, self.device if self.identity else "")


@dataclass(frozen=True, slots=True)
class Message:
    """One reading, ready to be sent."""

    id: str
    sensor: SimulatedSensor
    payload: bytes


class Source:
    """The endless readings of one sensor: its recording, again and again."""

    def __init__(self, sensor: SimulatedSensor, recording: Recording) -> None:
        members = tuple(member_name(each) for each in sensor.types)
        self.sensor = sensor
        self._members = members if recording.selective else None
        self._rows = _rows(recording, members)
        self._late = timedelta(milliseconds=sensor.late_milliseconds)

    def message(self, number: int, *, now: datetime) -> Message:
        """The next reading as number `number` of its device, sent at `now` (aware)."""
        row, value = next(self._rows)
        members = (
            row.values
            if self._members is None
            else {name: row.values[name] for name in self._members if name in row.values}
        )
        reading_id = f"{self.sensor.device}-{number}"
        reading = {
            **members,
            "value": value,
            "id": reading_id,
            "device": self.sensor.device,
            "sensor": self.sensor.sensor,
            "sentAt": (now - self._late).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        }
        if row.recorded_at is not None:
            reading["recordedAt"] = row.recorded_at
        return Message(reading_id, self.sensor, orjson.dumps(reading))


def member_name(sensor_type: str) -> str:
    """`WindSpeed` and `Wind speed` are `windSpeed`."""
    words = sensor_type.split()
    joined = "".join(word[:1].upper() + word[1:] for word in words)
    return joined[:1].lower() + joined[1:]


def _rows(recording: Recording, members: Sequence[str]) -> Iterator[tuple[Row, float]]:
    """Each row with the number that is the sensor's value: of its first type, else of the first column."""
    known = {name.lower(): name for row in recording.rows for name in row.values}
    column = next((known[name.lower()] for name in (*members, "value") if name.lower() in known), None)
    if column is None:
        column = next(iter(recording.rows[0].values))
    return cycle([(row, row.values[column]) for row in recording.rows if column in row.values])
