"""What a target gets of each reading: fields, their names and units, and how line protocol is made of them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from crds.models.base import Distinct, Model, Rule, Word

JsonPointer = Annotated[str, Field(max_length=256, pattern=r"^(/[^/]*)+$")]
"""RFC 6901, of at least one member."""

DocumentPointer = Annotated[str, Field(max_length=256, pattern=r"^(/[^/]*)*$")]
"""RFC 6901; empty for a reading that is a number and nothing else."""

UnitSymbol = Annotated[str, Field(min_length=1, max_length=32)]

Tag = Literal["device", "flavor", "model", "node", "provider", "sensor", "unit"]

_SHAPES_SOMETHING = "must set keep, convert or rename"
_PAYLOAD_TIME = "must set field and unit where source is Payload, and neither where it is Arrival"


class UnitChange(Model):
    """A number in another unit."""

    field: DocumentPointer
    source: Annotated[UnitSymbol | None, Field(alias="from")] = None
    """Unit of the payload; when absent, the one unit of the sensor that can be converted."""
    to: UnitSymbol


class Rename(Model):
    """Another name for a member, which stays where it is."""

    field: JsonPointer
    to: Word


class Shape(Model):
    """What is sent instead of the payload. Pointers say where things are in the payload as it comes."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.keep) || has(self.convert) || has(self.rename)", _SHAPES_SOMETHING),
    )

    keep: Annotated[tuple[JsonPointer, ...], Field(min_length=1, max_length=32), Distinct()] | None = None
    """Send these fields and no others."""
    convert: Annotated[tuple[UnitChange, ...], Field(min_length=1, max_length=16), Distinct("field")] | None = None
    rename: Annotated[tuple[Rename, ...], Field(min_length=1, max_length=32), Distinct("field")] | None = None

    @model_validator(mode="after")
    def _shapes_something(self) -> Self:
        if self.keep is None and self.convert is None and self.rename is None:
            raise ValueError(_SHAPES_SOMETHING)
        return self


class LineTimestamp(Model):
    """When a reading was taken."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.source == 'Payload' ? has(self.field) && has(self.unit) : !has(self.field) && !has(self.unit)",
            _PAYLOAD_TIME,
        ),
    )

    source: Literal["Payload", "Arrival"]
    field: JsonPointer | None = None
    unit: Literal["s", "ms", "us", "ns", "RFC3339"] | None = None

    @model_validator(mode="after")
    def _field_and_unit(self) -> Self:
        if {self.field is not None, self.unit is not None} != {self.source == "Payload"}:
            raise ValueError(_PAYLOAD_TIME)
        return self


class LineProtocol(Model):
    """What stands around the fields of a line."""

    measurement: Word | None = None
    """The sensor's model when absent."""
    tags: Annotated[tuple[Tag, ...], Field(max_length=7), Distinct()] = ("device", "provider", "sensor", "unit")
    """What the flavor says; what it does not say is left out."""
    timestamp: LineTimestamp | None = None
    """When absent: `sentAt` of the payload, or the time of arrival."""
