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
from crds.models.leafdevice import LeafDeviceStatus
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


Publication = Open | Withheld

Grounds = tuple[Trust | None, tuple[Condition, ...]]


def grounds(status: LeafDeviceStatus) -> Grounds:
    """What others said of the device: all that a decision rests on and discovery does not write."""
    return status.trust, tuple(each for each in status.conditions if each.type == ATTESTED)


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
    trust = status.trust or Trust(tier="None")
    end = parse_timestamp(trust.expiration_time or "")
    left = None if end is None else (end - now).total_seconds()
    over = left is not None and left <= 0
    proven = _told(trust) if _is_of(trust, ueid) and not over else NOTHING
    if at_least(proven.tier, minimum):
        return Open(proven, None if over else left)
    asked = f"its namespace asks for {minimum}"
    attested = next((each for each in status.conditions if each.type == ATTESTED and each.status == "False"), None)
    if proven.tier != "None":
        why = f" ({attested.reason}: {attested.message})" if attested else ""
        return _withheld("False", DiscoveryReason.TIER_TOO_LOW, f"{asked}, the device is {proven.tier}{why}")
    if over and trust.tier != "None":
        message = f"{asked}, what was proven is over since {trust.expiration_time}"
        return _withheld("False", DiscoveryReason.EXPIRED, message)
    if attested is not None:
        return _withheld("False", attested.reason, f"{asked}: {attested.message}")
    return _withheld("Unknown", DiscoveryReason.NOT_ATTESTED, f"{asked}, and nothing is proven of the device yet")


def misidentified(error: InvalidField) -> Withheld:
    """A device that claims to be one that it cannot be: not even a gateway's word makes up for that."""
    return _withheld("False", DiscoveryReason.INVALID_UEID, str(error))


def _told(trust: Trust) -> FlavorTrust:
    """What buyers get to know."""
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


def _withheld(status: Literal["False", "Unknown"], reason: str, message: str) -> Withheld:
    return Withheld(Verdict(type=LeafCondition.FLAVOR_PUBLISHED, status=status, reason=reason, message=message))
