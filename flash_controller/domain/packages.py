"""Firmware as an index says it: facts in annotations, and a part for each board.

Annotations stand under the digest that is signed. What an index of somebody else does not say is None here: Nubificus'
images say nothing but their boards.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Self

import orjson
from pydantic import Field, RootModel

from crds.errors import InvalidField, Terminal
from crds.models.base import validate
from crds.models.firmware import FirmwareSensor
from crds.models.leafdevice import MAX_SENSORS
from flash_controller.domain.images import Format, Image
from flash_controller.domain.manifests import Annotations, Descriptor, Index, Manifest
from flash_controller.reasons import PackageReason

PREFIX: Final = "eu.fluidos.edge.firmware."
APPLICATION: Final = PREFIX + "application"
VERSION: Final = PREFIX + "version"
SECURITY_COUNTER: Final = PREFIX + "security-counter"
FORMAT: Final = PREFIX + "format"
MEASUREMENT: Final = PREFIX + "measurement"
SENSORS: Final = PREFIX + "sensors"
TITLE: Final = "org.opencontainers.image.title"
STANDARD_VERSION: Final = "org.opencontainers.image.version"

_PATTERNS: Final = {
    APPLICATION: (re.compile(r"[A-Za-z0-9._-]{1,128}"), "letters, digits, dots, underscores and hyphens"),
    VERSION: (re.compile(r"[!-~]{1,128}"), "1 to 128 characters without blanks"),
    SECURITY_COUNTER: (re.compile(r"0|[1-9][0-9]{0,9}"), "a number below 2^32"),
    FORMAT: (re.compile("|".join(Format)), f"one of {', '.join(Format)}"),
    MEASUREMENT: (re.compile(r"([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})"), "32, 48 or 64 bytes in lower-case hex"),
}


class Sensors(RootModel[Annotated[tuple[FirmwareSensor, ...], Field(max_length=MAX_SENSORS)]]):
    """The sensors that a device has with a firmware: the JSON of an index's annotation."""

    def text(self) -> str:
        """As the annotation has it."""
        return orjson.dumps([sensor.dump() for sensor in self.root], option=orjson.OPT_SORT_KEYS).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What annotations say of an image; None is what they do not say.

    Attributes:
        application: as the device's certificate names it.
        version: of the firmware.
        security_counter: that never goes back.
        format: whose header it has.
        measurement: lower-case hex of what the board's boot layer makes of it.
    """

    application: str | None = None
    version: str | None = None
    security_counter: int | None = None
    format: Format | None = None
    measurement: str | None = None

    @classmethod
    def read(cls, annotations: Mapping[str, str]) -> Self:
        """From annotations.

        Raises:
            InvalidField: names the annotation that is wrong.
        """
        said = {key: annotations[key] for key in _PATTERNS if key in annotations}
        if VERSION not in said and STANDARD_VERSION in annotations:
            said[VERSION] = annotations[STANDARD_VERSION]
        for key, value in said.items():
            pattern, expected = _PATTERNS[key]
            if not pattern.fullmatch(value):
                raise _invalid(key, value, expected)
        return cls(
            application=said.get(APPLICATION),
            version=said.get(VERSION),
            security_counter=int(said[SECURITY_COUNTER]) if SECURITY_COUNTER in said else None,
            format=Format(said[FORMAT]) if FORMAT in said else None,
            measurement=said.get(MEASUREMENT),
        )

    def annotations(self) -> Annotations:
        """As an index has them."""
        said = {
            APPLICATION: self.application,
            VERSION: self.version,
            SECURITY_COUNTER: self.security_counter,
            FORMAT: self.format,
            MEASUREMENT: self.measurement,
        }
        return {key: str(value) for key, value in said.items() if value is not None}

    def check(self, image: Image) -> None:
        """Holds an image to what is said of it.

        Raises:
            Terminal: it is not laid out, not measured or not counted as said.
        """
        for word, said, found in (
            ("format", self.format, image.format),
            ("measurement", self.measurement, image.measurement),
            ("security counter", self.security_counter, image.security_counter),
        ):
            if said is not None and found is not None and said != found:
                text = f"the {word} of the image is {found}, the index says {said}"
                raise Terminal(text, reason=PackageReason.MEASUREMENT_MISMATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one board gets.

    Attributes:
        board: as the index spells it.
        manifest_digest: of the board's manifest.
        blob: the layer with the image.
        facts: what the index says of the image.
    """

    board: str
    manifest_digest: str
    blob: Descriptor
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """All that an index says.

    Attributes:
        digest: of the index; of the manifest, where there is no index.
        facts: of all parts; format and measurement differ a board.
        sensors: that a device has with it.
        parts: one for each board.
    """

    digest: str
    facts: Facts
    sensors: tuple[FirmwareSensor, ...]
    parts: tuple[Part, ...]


def part_of(*, board: str, entry: Descriptor, manifest: Manifest, index: Index | None = None) -> Part:
    """What is said of one board's image; of what is said twice, what is said of the board in particular counts.

    Raises:
        InvalidField: an annotation is wrong, or the manifest has not one layer.
        Terminal: the image is said to be of another application than the index.
    """
    whole = (index and index.annotations) or {}
    said = ChainMap(*(each.annotations or {} for each in (entry, manifest)), whole)
    if APPLICATION in whole and said[APPLICATION] != whole[APPLICATION]:
        text = f"board {board} has application {said[APPLICATION]}, the index {whole[APPLICATION]}"
        raise Terminal(text, reason=PackageReason.INVALID_MANIFEST)
    return Part(board=board, manifest_digest=entry.digest, blob=manifest.image(), facts=Facts.read(said))


def sensors_of(annotations: Mapping[str, str]) -> tuple[FirmwareSensor, ...]:
    """The sensors that annotations name.

    Raises:
        InvalidField: names the annotation, or the sensor's field that is wrong.
    """
    text = annotations.get(SENSORS, "[]")
    try:
        return validate(Sensors, orjson.loads(text), field=SENSORS).root
    except orjson.JSONDecodeError as error:
        raise _invalid(SENSORS, text, f"JSON ({error})") from error


def _invalid(field: str, value: object, expected: str) -> InvalidField:
    return InvalidField(field=field, value=value, expected=expected, reason=PackageReason.INVALID_MANIFEST)
