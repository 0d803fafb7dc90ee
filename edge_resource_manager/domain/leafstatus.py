"""The status of a LeafDevice, of everything that discovery found out about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from crds.columns import summary
from crds.conditions import Verdict, parse_timestamp, stamp, timestamp
from crds.errors import InvalidField
from crds.models.base import Condition
from crds.models.leafdevice import LeafDeviceStatus, Offer
from edge_resource_manager.reasons import DiscoveryReason, LeafCondition

LAST_SEEN_STEP = timedelta(seconds=60)
"""`lastSeenTime` moves no faster: a fleet that reports every second must not write every second."""

MAX_TOLD = 20
"""Errors that a message names one by one."""

READY = Verdict(type=LeafCondition.READY, status="True", reason=DiscoveryReason.READY)
INSECURE = Verdict(
    type=LeafCondition.INSECURE,
    status="True",
    reason=DiscoveryReason.INSECURE_MODE,
    message="the manager runs with --insecure: nobody asks what is proven of the device",
)


def verdicts(
    *,
    online: Verdict,
    sensors: int,
    errors: Sequence[InvalidField],
    refusals: Mapping[str, str],
    withheld: Verdict | None = None,
    insecure: bool = False,
) -> tuple[Verdict, ...]:
    """The conditions.

    A refused Flavor object does not make a device unready: the REAR gateway offers the sensor all the same.

    Args:
        online: of domain.liveness.
        sensors: how many were accepted.
        errors: what was refused of the device's description.
        refusals: by sensor uid, why the API server refuses its Flavor.
        withheld: why no Flavor may be published, of domain.publication.
        insecure: nobody asks what is proven of devices.
    """
    accepted = _accepted(sensors, errors)
    trouble = next((each for each in (online, accepted) if each.status == "False"), withheld)
    ready = replace(trouble, type=LeafCondition.READY) if trouble else READY
    published = withheld if withheld and sensors else _published(sensors, refusals)
    return online, accepted, published, ready, *((INSECURE,) if insecure else ())


def status_of(
    conditions: Sequence[Verdict],
    *,
    models: Sequence[str],
    offers: Sequence[Offer],
    seen: datetime | None,
    generation: int | None,
    before: LeafDeviceStatus,
    now: datetime,
) -> LeafDeviceStatus:
    """What to write; equal to `before` where nothing is worth a write."""
    return LeafDeviceStatus(
        observed_generation=generation,
        conditions=stamp(conditions, before=before.conditions, generation=generation, now=now),
        last_seen_time=_last_seen(before.last_seen_time, seen),
        sensor_models=summary(models),
        offers=tuple(sorted(offers, key=lambda offer: offer.sensor)),
    )


def worth_an_event(after: Sequence[Condition], *, before: Sequence[Condition]) -> list[Condition]:
    """Conditions that turned over, and those that are bad from the start; `Ready` repeats the others."""
    earlier = {condition.type: condition.status for condition in before}
    return [
        condition
        for condition in after
        if condition.type != LeafCondition.READY
        and condition.status not in {"Unknown", earlier.get(condition.type)}
        and (condition.type in earlier or condition.status == "False")
    ]


def _accepted(sensors: int, errors: Sequence[InvalidField]) -> Verdict:
    kind = LeafCondition.SENSORS_ACCEPTED
    if errors:
        told = [str(error) for error in errors[:MAX_TOLD]]
        if len(errors) > MAX_TOLD:
            told.append(f"and {len(errors) - MAX_TOLD} more")
        return Verdict(type=kind, status="False", reason=DiscoveryReason.INVALID_SENSORS, message="; ".join(told))
    if not sensors:
        message = "the device has no annotation `sensors`, or an empty one"
        return Verdict(type=kind, status="False", reason=DiscoveryReason.NO_SENSORS, message=message)
    return Verdict(type=kind, status="True", reason=DiscoveryReason.ACCEPTED)


def _published(sensors: int, refusals: Mapping[str, str]) -> Verdict:
    kind = LeafCondition.FLAVOR_PUBLISHED
    if refusals:
        told = "; ".join(f"sensor {uid}: {refusals[uid]}" for uid in sorted(refusals)[:MAX_TOLD])
        return Verdict(type=kind, status="False", reason=DiscoveryReason.FLAVOR_REFUSED, message=told)
    if not sensors:
        return Verdict(type=kind, status="Unknown", reason=DiscoveryReason.NO_SENSORS, message="nothing to publish")
    return Verdict(type=kind, status="True", reason=DiscoveryReason.PUBLISHED)


def _last_seen(before: str | None, seen: datetime | None) -> str | None:
    if seen is None:
        return before
    last = parse_timestamp(before) if before else None
    if last is not None and abs(seen - last) < LAST_SEEN_STEP:
        return before
    return timestamp(seen)
