"""How far a device is trusted, and on what grounds: written by who appraised it, read by everybody else."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from crds.models.base import MAX_COUNT, Model, Timestamp

Tier = Literal["None", "Legacy", "GatewayVouched", "Attested"]
"""None: nobody speaks for the device. Legacy: a certificate that anybody can make who knows a MAC address.
GatewayVouched: an edge agent speaks for it. Attested: it proved what it is and what it runs, by DICE evidence."""

TIERS: Final[tuple[Tier, ...]] = ("None", "Legacy", "GatewayVouched", "Attested")

Integrity = Literal["None", "Signed"]
"""None: whoever carries a reading could change it. Signed: the device signs each of its readings, or each batch."""

Hex = Annotated[str, Field(max_length=128, pattern=r"^([0-9a-f]{2})+$")]
TrustDomainText = Annotated[str, Field(max_length=255, pattern=r"^[a-z0-9._-]+$")]
SpiffeIdText = Annotated[
    str,
    Field(
        max_length=2048,
        pattern=r"^spiffe://[a-z0-9._-]{1,255}(/([A-Za-z0-9_-]|\.[A-Za-z0-9_-]|\.\.[A-Za-z0-9._-])[A-Za-z0-9._-]*)*$",
    ),
]
"""No segment is `.` or `..`: what matches is a SPIFFE ID."""
UeidText = Annotated[str, Field(max_length=66, pattern=r"^0[123]([0-9a-f]{2}){6,32}$")]
"""A UEID (RFC 9711) as lower-case hex, type byte first."""


def at_least(tier: Tier, minimum: Tier) -> bool:
    """Whether a tier is as good as another."""
    return TIERS.index(tier) >= TIERS.index(minimum)


class Firmware(Model):
    """The application's layer of a device, as the layer below it certified it."""

    measurement: Hex
    version: Annotated[str, Field(max_length=128)] = ""
    security_counter: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None


class BootLayer(Model):
    """A layer below the application."""

    measurement: Hex
    mode: Annotated[str, Field(max_length=32)]


class Trust(Model):
    """What is proven of a device, by whom, and until when."""

    tier: Tier
    spiffe_id: Annotated[SpiffeIdText | None, Field(alias="spiffeID")] = None
    """Who it is, while its certificate is valid."""
    vouched_by: SpiffeIdText | None = None
    """The edge agent that speaks for it; tier GatewayVouched."""
    manufacturer: Annotated[str, Field(max_length=128)] = ""
    application: Annotated[str, Field(max_length=128)] = ""
    mode: Annotated[str, Field(max_length=32)] = ""
    """In which the application started."""
    firmware: Firmware | None = None
    boot: Annotated[tuple[BootLayer, ...], Field(max_length=16)] = ()
    """From the first code after the hardware up to what started the application."""
    attested_time: Timestamp | None = None
    expiration_time: Timestamp | None = None
    """When what is proven must have been proven again."""
