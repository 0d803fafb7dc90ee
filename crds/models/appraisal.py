"""What a site accepts as a device: the content of ConfigMap `fluidos-edge-appraisal`, key `policy.yaml`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from crds.models.base import MAX_COUNT, Distinct
from crds.models.trust import Hex, UeidText
from crds.models.written import Written

CONFIG_MAP: Final = "fluidos-edge-appraisal"
KEY: Final = "policy.yaml"

Named = Annotated[str, Field(min_length=1, max_length=128)]
Pem = Annotated[str, Field(max_length=16384, pattern=r"-----BEGIN CERTIFICATE-----")]
Measurement = Annotated[Hex, Field(min_length=64)]
Mac = Annotated[str, Field(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]
MAX_ENTRIES: Final = 4096


class TrustedManufacturer(Written):
    """Somebody who is believed about hardware."""

    name: Named
    """As devices' status shows it. Another root of the same manufacturer gets another name, so that each can be
    withdrawn with all that was trusted by it."""
    root: Pem
    """Certificate of the key that certifies devices, in PEM; one."""
    names_devices: bool = False
    """Believed when it certifies a UEID; one that is not cannot take the name of another's device."""


class BootCode(Written):
    """Code that starts other code and measures it honestly."""

    measurement: Measurement


class KnownFirmware(Written):
    """An application's code as the layer below measures it."""

    measurement: Measurement
    application: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9._-]+$")]
    """The name that its certificate must say; it becomes part of the SPIFFE ID."""
    version: Named | None = None
    """The version that its certificate must say; any, where absent."""


class LegacyDevice(Written):
    """A device with a certificate of Nubificus' older dialect, which proves nothing but is what it has."""

    mac: Mac
    root: Pem


class AppraisalPolicy(Written):
    """Everything that must hold of a device. What is not said accepts nothing."""

    manufacturers: Annotated[tuple[TrustedManufacturer, ...], Field(max_length=256), Distinct("name")] = ()
    boot: Annotated[tuple[BootCode, ...], Field(max_length=MAX_ENTRIES)] = ()
    firmware: Annotated[tuple[KnownFirmware, ...], Field(max_length=MAX_ENTRIES)] = ()
    modes: Annotated[tuple[Literal["Normal", "Debug", "Recovery", "NotConfigured"], ...], Field(min_length=1)] = (
        "Normal",
    )
    """In which every layer may have started."""
    security_counters: dict[str, Annotated[int, Field(ge=0, le=MAX_COUNT)]] = Field(default_factory=dict)
    """By application, the floor of its counter."""
    revoked: Annotated[tuple[UeidText, ...], Field(max_length=MAX_ENTRIES * 16)] = ()
    """Devices that are refused whatever they prove."""
    legacy: Annotated[tuple[LegacyDevice, ...], Field(max_length=MAX_ENTRIES), Distinct("mac")] = ()
