"""Whether a device's sensors may be offered: by what is proven of it, and by what its namespace asks.

Who appraised the device wrote `status.trust` and the condition Attested; here nothing is verified again, but what is
over, or is said of another device, proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, assert_never

from crds.conditions import Verdict, parse_timestamp
from crds.errors import InvalidField
from crds.models.base import Condition
from crds.models.flash_report import FLASHING
from crds.models.leafdevice import LeafDevice, LeafDeviceStatus
from crds.models.trust import TIERS, Tier, Trust, at_least
from crds.typedata import FlavorTrust
from edge_resource_manager.reasons import DiscoveryReason, LeafCondition

MINIMUM_TIER_KEY: Final = "edge.fluidos.eu/minimum-tier"
DEFAULT_MINIMUM: Final[Tier] = "GatewayVouched"
ATTESTED: Final = "Attested"
"""The condition of a LeafDevice that its appraiser writes."""

NOTHING: Final = FlavorTrust(tier="None")


@dataclass(frozen=True, slots=True)
class Open:
    """The sensors may be offered.

    Attributes:
        trust: what is said of the device with each of them.
        look_again: seconds after which that is over.
    """

    trust: FlavorTrust
    look_again: float | None = None


@dataclass(frozen=True, slots=True)
class Withheld:
    """They may not; the condition FlavorPublished says why."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Paused:
    """They stay on offer as they are, and cannot be had: firmware is being written into the device.

    Nobody knows yet what it will prove. What it proves meanwhile may be of firmware that is given up again.
    """


Publication = Open | Withheld | Paused

Grounds = tuple[Trust | None, tuple[Condition, ...]]


def grounds(status: LeafDeviceStatus) -> Grounds:
    """What others said of the device: all that a decision rests on and discovery does not write."""
    return status.trust, tuple(each for each in status.conditions if each.type in {ATTESTED, FLASHING})


def is_flashed(status: LeafDeviceStatus) -> bool:
    """Whether a job writes firmware into the device."""
    return any((each.type, each.status) == (FLASHING, "True") for each in status.conditions)


def minimum_tier(labels: Mapping[str, str]) -> Tier:
    """What a namespace asks of the devices that are offered from it.

    Raises:
        InvalidField: its label is no tier.
    """
    asked = labels.get(MINIMUM_TIER_KEY, DEFAULT_MINIMUM)
    for tier in TIERS:
        if tier == asked:
            return tier
    raise InvalidField(field=f"namespace label {MINIMUM_TIER_KEY}", value=asked, expected=", ".join(TIERS))


def may_publish(
    status: LeafDeviceStatus, *, ueid: str | None, minimum: Tier | InvalidField | None, now: datetime
) -> Publication:
    """Decide for one device.

    Args:
        status: of its LeafDevice, as all who write it left it.
        ueid: which device it has to be.
        minimum: what its namespace asks: a tier, or a label that is none, or None while the namespace is not known.
        now: to tell what is over.
    """
    if minimum is None:
        return _withheld("Unknown", DiscoveryReason.NOT_ATTESTED, "what its namespace asks is not known yet")
    if isinstance(minimum, InvalidField):
        return _withheld("False", DiscoveryReason.MINIMUM_TIER_INVALID, str(minimum))
    if is_flashed(status):
        return Paused()
    found = proven(status.trust, ueid=ueid, now=now)
    left = _left(status.trust, now=now)
    if at_least(found.tier, minimum):
        return Open(found, left if left is not None and left > 0 else None)
    asked = f"its namespace asks for {minimum}"
    refused = _refused(status)
    if found.tier != "None":
        why = f" ({refused.reason}: {refused.message})" if refused else ""
        return _withheld("False", DiscoveryReason.TIER_TOO_LOW, f"{asked}, the device is {found.tier}{why}")
    if status.trust is not None and status.trust.tier != "None" and left is not None and left <= 0:
        message = f"{asked}, what was proven is over since {status.trust.expiration_time}"
        return _withheld("False", DiscoveryReason.EXPIRED, message)
    if refused is not None:
        return _withheld("False", refused.reason, f"{asked}: {refused.message}")
    return _withheld("Unknown", DiscoveryReason.NOT_ATTESTED, f"{asked}, and nothing is proven of the device yet")


def why_withdrawn(leaf: LeafDevice) -> str:
    """What buyers of a flavor that is gone get to know, if its device lost its trust."""
    status = leaf.status or LeafDeviceStatus()
    refused = _refused(status) if status.trust and status.trust.tier == "None" else None
    return f"device is not trusted ({refused.reason})" if refused else ""


def misidentified(error: InvalidField) -> Withheld:
    """A device that claims to be one that it cannot be: not even a gateway's word makes up for that."""
    return _withheld("False", DiscoveryReason.INVALID_UEID, str(error))


def proven(trust: Trust | None, *, ueid: str | None, now: datetime) -> FlavorTrust:
    """What buyers get to know: what counts now, of the device that this has to be."""
    left = _left(trust, now=now)
    if trust is None or not _is_of(trust, ueid) or (left is not None and left <= 0):
        return NOTHING
    return FlavorTrust(
        tier=trust.tier,
        spiffe_id=trust.spiffe_id,
        application=trust.application,
        firmware=trust.firmware.measurement if trust.firmware else None,
    )


def _is_of(trust: Trust, ueid: str | None) -> bool:
    """Whether it says something of this device: the UEID may be another since it was written.

    A gateway speaks for devices without a UEID only; of those with one, an ID has to name it. Certificates of the older
    dialect come without an ID, and are worth as little.
    """
    match trust.tier:
        case "None":
            return False  # what is on record is what was proven once
        case "GatewayVouched":
            return ueid is None
        case "Legacy":
            return ueid is not None
        case "Attested":
            return ueid is not None and f"/device/{ueid}/" in (trust.spiffe_id or "")
        case _:
            assert_never(trust.tier)


def _refused(status: LeafDeviceStatus) -> Condition | None:
    return next((each for each in status.conditions if each.type == ATTESTED and each.status == "False"), None)


def _left(trust: Trust | None, *, now: datetime) -> float | None:
    """Seconds until it is over, negative after that; None where it has no end."""
    end = parse_timestamp(trust.expiration_time) if trust and trust.expiration_time else None
    return None if end is None else (end - now).total_seconds()


def _withheld(status: Literal["False", "Unknown"], reason: str, message: str) -> Withheld:
    return Withheld(Verdict(type=LeafCondition.FLAVOR_PUBLISHED, status=status, reason=reason, message=message))
