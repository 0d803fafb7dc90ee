"""How a device stands: what its LeafDevice's status is to say, from what it says, what was found since, and the policy.

The record is enough to judge a device again when the policy changes, and to go on after a restart. Trust grows by
evidence alone: a policy that becomes milder brings none back, the next evidence does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeAlias, assert_never

from crds.conditions import Verdict, parse_timestamp, timestamp
from crds.models.base import MAX_COUNT, Condition
from crds.models.trust import BootLayer, Firmware, Tier, Trust
from spire.domain.certificates import Layer
from spire.domain.dice import Component
from spire.domain.errors import Reason
from spire.domain.site import MODES, Site, mac_of, mode_of
from spire.domain.spiffe_id import SpiffeId
from spire.domain.ueid import Ueid
from spire.domain.verdict import Accepted, Legacy, Proven, Refused

ATTESTED: Final = "Attested"
"""The condition, the reason for which it is True, and the tier."""
LEGACY: Final = "Legacy"

_LASTING: Final = frozenset(Reason) - {Reason.NEVER_ATTESTED, Reason.DUPLICATE_UEID, Reason.NOT_EXPECTED}
"""Why trust went; told until there is trust again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A device was accepted.

    Attributes:
        device: what it proved.
        spiffe_id: who it is for as long; None for a certificate of the older dialect, which names nobody.
        attested: when.
        expires: until when it counts.
    """

    device: Accepted
    spiffe_id: SpiffeId | None
    attested: datetime
    expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """A device proved something that is not accepted.

    Attributes:
        refused: why.
        last: what was accepted before, where that is not in the status yet.
    """

    refused: Refused
    last: Granted | None = None


Finding: TypeAlias = Granted | Withdrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the status is to say.

    Attributes:
        trust: all of it.
        verdict: the condition Attested.
        until: when it has to be looked at again.
    """

    trust: Trust
    verdict: Verdict
    until: datetime | None = None


def standing(
    ueid: Ueid,
    *,
    trust: Trust | None,
    condition: Condition | None,
    finding: Finding | None,
    site: Site | None,
    now: datetime,
) -> Standing:
    """How a device stands now.

    Args:
        ueid: the device.
        trust: what its status says.
        condition: Attested, as its status says.
        finding: what was found and is not in the status yet.
        site: what the site accepts; None while that is not known, which is no reason to withdraw anything.
        now: the time.
    """
    if trust is not None and _is_of_another(trust, ueid):
        trust = None
    match finding:
        case Granted():
            trust = trust_of(finding)
        case Withdrawn(last=last):
            return _untrusted(trust_of(last) if last is not None else trust, finding.refused)
        case None:
            pass
        case _:
            assert_never(finding)
    device = device_of(ueid, trust) if trust is not None and trust.tier in (ATTESTED, LEGACY) else None
    if trust is None or device is None:
        return _untrusted(trust, _known_reason(condition))
    until = parse_timestamp(trust.expiration_time or "")
    if until is None or until <= now:
        message = f"not proven again until {trust.expiration_time}"
        return _untrusted(trust, Refused(reason=Reason.EXPIRED, message=message))
    refused = site.judge(device) if site is not None else None
    if refused is not None:
        return _untrusted(trust, refused)
    return Standing(trust=trust, verdict=_verdict(device), until=until)


def after(finding: Finding, before: Finding | None) -> Finding:
    """A finding that comes before the one before it was written: it must not make that be forgotten."""
    match finding, before:
        case Withdrawn(), Granted():
            return replace(finding, last=before)
        case Withdrawn(), Withdrawn(last=last):
            return replace(finding, last=last)
        case _:
            return finding


def duplicate(trust: Trust | None, *, ueid: Ueid, other: str) -> Standing:
    """How a LeafDevice stands that names the device which an older one names."""
    message = f"LeafDevice {other} has been device {ueid} for longer"
    return _untrusted(trust, Refused(reason=Reason.DUPLICATE_UEID, message=message))


def nameless(trust: Trust | None, message: str) -> Standing:
    """How a LeafDevice stands whose UEID is none."""
    return _untrusted(trust, Refused(reason=Reason.MALFORMED, message=message))


def trust_of(granted: Granted) -> Trust:
    """The record of what was accepted."""
    attested, expires = timestamp(granted.attested), timestamp(granted.expires)
    match granted.device:
        case Proven(layers=(*boot, application)) as device:
            component = application.component
            return Trust(
                tier=ATTESTED,
                spiffe_id=str(granted.spiffe_id) if granted.spiffe_id else None,
                manufacturer=device.manufacturer,
                application=device.application,
                mode=MODES[application.mode],
                firmware=Firmware(
                    measurement=application.measurement.hex(),
                    version=component.version or "",
                    security_counter=_counter(component.security_counter),
                ),
                boot=tuple(BootLayer(measurement=layer.measurement.hex(), mode=MODES[layer.mode]) for layer in boot),
                attested_time=attested,
                expiration_time=expires,
            )
        case Legacy() as device:
            firmware = Firmware(measurement=device.measurement.hex())
            return Trust(tier=LEGACY, firmware=firmware, attested_time=attested, expiration_time=expires)
        case _:
            raise ValueError("a device without software")


def device_of(ueid: Ueid, trust: Trust | None) -> Accepted | None:
    """What a record says was accepted last, whether it still is or not; None where nothing ever was."""
    if trust is None or trust.firmware is None or _is_of_another(trust, ueid):
        return None
    measurement = bytes.fromhex(trust.firmware.measurement)
    if not trust.application:
        mac = mac_of(ueid)
        return None if mac is None else Legacy(mac=mac, measurement=measurement)
    application = Layer(
        measurement=measurement,
        mode=mode_of(trust.mode),
        component=Component(
            name=trust.application,
            version=trust.firmware.version or None,
            security_counter=trust.firmware.security_counter,
        ),
    )
    boot = (
        Layer(measurement=bytes.fromhex(each.measurement), mode=mode_of(each.mode), component=Component())
        for each in trust.boot
    )
    return Proven(
        ueid=ueid,
        manufacturer=trust.manufacturer,
        layers=(*boot, application),
        application=trust.application,
    )


def changed(before: Trust | None, after: Trust) -> bool:
    """Whether people want to know: not of every renewal."""
    return _told(before or Trust(tier="None")) != _told(after)


def _is_of_another(trust: Trust, ueid: Ueid) -> bool:
    """Whether the status still speaks of a device that this LeafDevice is not any more."""
    return trust.spiffe_id is not None and f"/device/{ueid}/" not in trust.spiffe_id


def _told(trust: Trust) -> tuple[Tier, str, Firmware | None]:
    return trust.tier, trust.application, trust.firmware


def _untrusted(trust: Trust | None, refused: Refused) -> Standing:
    """Nobody, although what was accepted last stays on record: for people, and as the floor of the next evidence."""
    last = trust if trust is not None and trust.tier != "GatewayVouched" else Trust(tier="None")
    return Standing(
        trust=last.model_copy(update={"tier": "None", "spiffe_id": None, "vouched_by": None, "expiration_time": None}),
        verdict=Verdict(type=ATTESTED, status="False", reason=refused.reason, message=refused.message),
    )


def _known_reason(condition: Condition | None) -> Refused:
    if condition is not None and condition.status == "False" and condition.reason in _LASTING:
        return Refused(reason=Reason(condition.reason), message=condition.message)
    return Refused(reason=Reason.NEVER_ATTESTED, message="no evidence of this device was accepted yet")


def _verdict(device: Accepted) -> Verdict:
    match device:
        case Proven():
            message = f"{device.manufacturer} made it, it runs {device.application}"
            return Verdict(type=ATTESTED, status="True", reason=ATTESTED, message=message)
        case Legacy():
            message = "a certificate that anybody can make who knows the MAC address"
            return Verdict(type=ATTESTED, status="False", reason=LEGACY, message=message)
        case _:
            assert_never(device)


def _counter(counter: int | None) -> int | None:
    """What JSON carries exactly; a counter beyond it has long lost its meaning, and stays as high as can be."""
    return None if counter is None else min(counter, MAX_COUNT)
