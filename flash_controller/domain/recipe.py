"""What people write to have firmware packaged: `firmware.yaml` beside its source."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from crds.models.firmware import MAX_BOARDS, FirmwareSensor
from crds.models.leafdevice import MAX_SENSORS
from crds.models.written import Written

Application = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Version = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
Board = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Path = Annotated[str, Field(min_length=1, max_length=4096)]
Command = Annotated[str, Field(min_length=1, max_length=65536)]
Annotation = Annotated[str, Field(max_length=4096)]
Counter = Annotated[int, Field(ge=0, lt=2**32)]


class BoardRecipe(Written):
    """One board's image. Paths are those of the recipe's folder."""

    image: Path
    """As the board's boot layer takes it: built, and signed for that where it verifies signatures."""
    build: Command | None = None
    """A shell's command that makes it; the recipe's own where absent."""
    sbom: Path | None = None
    """What is in it, as CycloneDX or SPDX in JSON."""


class Recipe(Written):
    """Firmware for one or more boards."""

    application: Application
    version: Version | None = None
    """Of all images; may be left out where their headers say it."""
    security_counter: Counter | None = None
    """Raised where older firmware must not run any more; may be left out where the images' headers say it."""
    build: Command | None = None
    """A shell's command that is run once for each board, told by FIRMWARE_BOARD; none where all is built."""
    boards: Annotated[dict[Board, BoardRecipe], Field(min_length=1, max_length=MAX_BOARDS)]
    sensors: Annotated[tuple[FirmwareSensor, ...], Field(max_length=MAX_SENSORS)] = ()
    """What a device measures while it runs this."""
    annotations: Annotated[dict[str, Annotation], Field(max_length=64)] = {}  # noqa: RUF012 - pydantic copies it
    """More for the index, such as org.opencontainers.image.source."""
