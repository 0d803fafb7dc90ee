"""What a device is not, but could be: what a claim allows, what a provider opts in to, and what was agreed."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from crds.models.base import Model, Name, Timestamp
from crds.models.written import Written

REPURPOSING_CONFIG_MAP: Final = "fluidos-edge-repurposing"
REPURPOSING_KEY: Final = "policy.yaml"

AGREED: Final = "edge.fluidos.eu/repurposing"
"""Annotation of a Transaction, or a Contract: an `Agreed` as JSON, until the device is what was sold."""

AFTERWARDS: Final = "edge.fluidos.eu/afterwards"
"""Annotation of a FirmwareRollout that repurposes: the Firmware to bring back once nobody reads the device any more.

The one that brings it back has it too. The history keeps the newest of each device.
"""

MAX_SECONDS: Final = 86400
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]
Glob = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9._*-]+$")]
"""A name in which `*` stands for anything."""

Globs = Annotated[tuple[Glob, ...], Field(min_length=1, max_length=256)]
ANYTHING: Final[tuple[Glob, ...]] = ("*",)


class Repurpose(Model):
    """Whether a device may be flashed for a claim that nothing else satisfies."""

    mode: Literal["Never", "Allow"] = "Never"
    max_seconds: Seconds = 600
    """From the purchase until the device must be what was bought."""


class RepurposableDevices(Written):
    """LeafDevices for which all of this holds."""

    namespaces: Globs = ANYTHING
    names: Globs = ANYTHING
    nodes: Globs = ANYTHING
    boards: Globs = ANYTHING


class RepurposingRule(Written):
    """What may be made of which devices, and for whom. What no rule grants is offered to nobody."""

    trust_domains: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(\*|[a-z0-9._-]{1,255})$")], ...], Field(min_length=1, max_length=256)
    ]
    """Of the buyers; `*` is every one that is known here."""
    devices: RepurposableDevices = RepurposableDevices()
    applications: Globs = ANYTHING
    """That they may be made to run."""
    cooldown_seconds: Annotated[int, Field(ge=0, le=30 * 86400)] = 3600
    """Between the end of one flash, whoever asked for it, and the next: flash memory wears."""
    max_seconds: Seconds = 600
    """From the purchase until the device must be what was sold, whatever the buyer would allow."""
    afterwards: Name | None = None
    """The Firmware that devices get back when nobody reads them any more. When absent, they stay what they are."""


class RepurposingPolicy(Written):
    """All that a provider opts in to."""

    grants: Annotated[tuple[RepurposingRule, ...], Field(alias="rules", max_length=256)]


class Agreed(Model):
    """A device that was sold as what it is not yet."""

    device: Name
    """The LeafDevice, of the same namespace."""
    firmware: Name
    """The Firmware that it gets."""
    expected_seconds: Seconds
    """How long it should take."""
    seconds: Seconds
    """How long it may take."""
    until: Timestamp | None = None
    """When it must be done; only reserved, while this is absent."""
    afterwards: Name | None = None
    """The Firmware that it gets back."""
