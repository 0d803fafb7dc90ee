"""What one runner says of one device: in an annotation of the Lease that makes the device its own."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from crds.models.base import Count, Distinct, Model, Name, Timestamp
from crds.models.firmware import Digest, Version
from crds.models.trust import Hex

REPORT: Final = "edge.fluidos.eu/flash-report"
"""Annotation of the Lease: a `FlashReport` as JSON."""

FLASHING: Final = "Flashing"
"""Condition of a LeafDevice: True while a job holds it."""

FlashState = Literal["Pending", "Downloading", "Writing", "TestBoot", "Attesting", "Confirmed", "RolledBack", "Failed"]
FINAL_STATES: Final[frozenset[FlashState]] = frozenset({"Confirmed", "RolledBack", "Failed"})

Lack = Literal["Signature", "Revert", "Resume", "Confirmation", "Attestation"]
"""Something that a device, or the protocol it is reached by, cannot do."""

Reason = Annotated[str, Field(max_length=128, pattern=r"^([A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?)?$")]


Goal = Literal["Update", "RollBack"]


class Running(Model):
    """What a device ran."""

    application: Annotated[str, Field(max_length=128)] = ""
    version: Version = ""
    measurement: Hex | None = None
    digest: Digest | None = None
    """Of the index that it came from, where the catalog knows it."""
    firmware: Name | None = None
    """The Firmware of the catalog that had it."""


class Flash(Model):
    """How far the flash of one device has come."""

    goal: Goal = "Update"
    state: FlashState = "Pending"
    reason: Reason = ""
    message: Annotated[str, Field(max_length=1024)] = ""
    before: Annotated[Running | None, Field(alias="from")] = None
    """What ran before."""
    bytes: Count = 0
    """What the device has taken of `totalBytes`."""
    total_bytes: Count = 0
    lacks: Annotated[tuple[Lack, ...], Field(max_length=5), Distinct()] = ()
    """What the protocol, or the device, cannot do: no promise is made of it."""


class FlashReport(Flash):
    """One attempt, told by its runner."""

    rollout_uid: Annotated[str, Field(max_length=64, alias="rolloutUID")]
    attempt: Count
    tried_time: Timestamp | None = None
    """When the image was started last: evidence counts from then on, in another attempt too."""
    retryable: bool = False
    """Of one that failed: another attempt may do better."""
    time: Timestamp
