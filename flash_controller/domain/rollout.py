"""What to do next about a rollout: which devices to begin with, which to stop, and what to say.

Batches follow each other: one begins when all devices of the earlier ones are settled, have run for the soak time, are
approved where that is asked for, and not too many of them failed. Only beginnings are held back; what has begun ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from crds.conditions import Verdict, parse_timestamp
from crds.errors import InvalidField
from crds.models.firmwarerollout import MAX_DEVICES, Counts, DeviceFlash, FirmwareRolloutSpec
from crds.models.flash_report import FINAL_STATES, Goal
from flash_controller.domain.attempts import Retrying, ended, in_flight
from flash_controller.domain.selection import Go, Judgement, Target, Unfit, UpToDate, Wait
from flash_controller.domain.window import opening
from flash_controller.reasons import RolloutCondition, RolloutReason

_LOST: Final = (RolloutReason.RUNNER_LOST, RolloutReason.DEVICE_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Start:
    """Begin an attempt."""

    device: DeviceFlash
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a look at a rollout comes to.

    Attributes:
        devices: all of them, as they are now.
        start: attempts to begin; these devices are as before in `devices`.
        stop: names of devices whose attempt has to end.
        verdicts: conditions.
        finished: nothing will happen any more, unless the spec changes.
        again: when to look again though nothing changes.
    """

    devices: tuple[DeviceFlash, ...]
    verdicts: tuple[Verdict, ...]
    start: tuple[Start, ...] = ()
    stop: tuple[str, ...] = ()
    finished: bool = False
    again: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """Why nothing begins now, and until when at the earliest."""

    reason: RolloutReason
    message: str
    until: datetime | None = None


def wanted(spec: FirmwareRolloutSpec) -> Goal:
    """What devices shall come to."""
    return "RollBack" if spec.desired == "RollBack" else "Update"


def retrying_of(spec: FirmwareRolloutSpec, flash: DeviceFlash) -> Retrying:
    """How a device of this rollout is tried again."""
    return Retrying(
        allowed=spec.desired != "Cancel" and flash.goal == wanted(spec),
        retries=spec.retries,
        backoff=timedelta(seconds=spec.backoff_seconds),
    )


def decide(
    spec: FirmwareRolloutSpec,
    devices: tuple[DeviceFlash, ...],
    *,
    started: datetime,
    now: datetime,
    judge: Callable[[DeviceFlash], Judgement],
    silent: frozenset[str] = frozenset(),
) -> Plan:
    """What to do now.

    Args:
        spec: what is asked for.
        devices: in the order in which they are flashed, after what is observed of their attempts.
        started: when the rollout began.
        now: the time.
        judge: whether a device can be flashed now, and with what; asked only where one is due.
        silent: names of devices that are not heard of now; of those that soak, they count as failed.
    """
    deadline = started + timedelta(seconds=spec.deadline_seconds) if spec.deadline_seconds is not None else None
    late = deadline is not None and now >= deadline
    devices = tuple(_ordered(each, spec, late=late, now=now) for each in devices)
    unsettled = [each for each in devices if not _settled(each, spec)]
    if not unsettled:
        return Plan(devices=devices, verdicts=_conclusion(spec, devices), finished=True)
    batch = min(each.batch for each in unsettled)
    held = _held(spec, devices, batch=batch, now=now, silent=silent if spec.strategy.soak_seconds else frozenset())
    timers = [each for each in (held and held.until, None if late else deadline) if each]
    start: list[Start] = []
    settled: dict[str, DeviceFlash] = {}
    for each in () if held else _waiting(spec, unsettled, batch=batch):
        due = retrying_of(spec, each).due(each)
        if due is not None and now < due:
            timers.append(due)
            continue
        match judge(each):
            case Go(target, before):
                news = {"measurement": target.measurement, "before": each.before or before}
                start.append(Start(each.model_copy(update=news), target))
            case Wait(reason, message):
                settled[each.name] = each.model_copy(update={"reason": reason, "message": message})
            case UpToDate(message):
                settled[each.name] = ended(each, "Confirmed", reason=RolloutReason.UP_TO_DATE, message=message, now=now)
                timers.append(now)
            case Unfit(reason, message):
                settled[each.name] = ended(each, "Failed", reason=reason, message=message, now=now)
                timers.append(now)
    room = spec.strategy.batch_size - sum(in_flight(each) for each in devices)
    return Plan(
        devices=tuple(settled.get(each.name, each) for each in devices),
        verdicts=_progress(spec, devices, batch=batch, held=held),
        start=tuple(start[: max(room, 0)]),
        stop=tuple(each.name for each in unsettled if in_flight(each) and _unwanted(each, spec)),
        again=min(timers, default=None),
    )


def unpinned(spec: FirmwareRolloutSpec, *, ready: bool, names: tuple[str, ...]) -> tuple[Verdict, ...]:
    """Why a rollout cannot begin yet; empty where it can."""
    if spec.desired == "Suspend":
        reason, message = RolloutReason.SUSPENDED, "spec.desired is Suspend"
    elif spec.desired != "Run":
        reason, message = RolloutReason.CANCELLED, "it had not begun"
    elif not ready:
        reason, message = RolloutReason.FIRMWARE_NOT_READY, f"waits for the Firmware {spec.firmware_ref.name}"
    elif not names:
        reason, message = RolloutReason.NO_DEVICES, "waits for devices that spec.devices takes and the firmware fits"
    elif len(names) > MAX_DEVICES:
        reason = RolloutReason.INVALID
        message = f"spec.devices takes {len(names)} devices, expected at most {MAX_DEVICES}: set count, or narrow it"
    else:
        return ()
    return (
        Verdict(type=RolloutCondition.PROGRESSING, status="False", reason=reason, message=message),
        Verdict(
            type=RolloutCondition.SUCCEEDED,
            status="False" if reason == RolloutReason.CANCELLED else "Unknown",
            reason=reason,
        ),
    )


def batch_of(devices: tuple[DeviceFlash, ...]) -> int:
    """The batch that is being flashed, or the last one."""
    last = devices[-1].batch if devices else 0
    return min((each.batch for each in devices if each.state not in FINAL_STATES), default=last)


def counts(devices: tuple[DeviceFlash, ...]) -> Counts:
    """How many devices are in which states."""
    tally = Counter(each.state for each in devices)
    return Counts(
        total=len(devices),
        pending=tally["Pending"],
        active=sum(number for state, number in tally.items() if state not in {"Pending", *FINAL_STATES}),
        confirmed=tally["Confirmed"],
        rolled_back=tally["RolledBack"],
        failed=tally["Failed"],
    )


def _unwanted(flash: DeviceFlash, spec: FirmwareRolloutSpec) -> bool:
    return spec.desired == "Cancel" or flash.goal != wanted(spec)


def _waiting(spec: FirmwareRolloutSpec, unsettled: list[DeviceFlash], *, batch: int) -> list[DeviceFlash]:
    """Devices whose turn it is. A roll back knows no batches: what is bad everywhere goes everywhere."""
    return [each for each in unsettled if not in_flight(each) and (each.batch == batch or wanted(spec) == "RollBack")]


def _ordered(flash: DeviceFlash, spec: FirmwareRolloutSpec, *, late: bool, now: datetime) -> DeviceFlash:
    """A device after what the user ordered, and after the deadline."""
    if in_flight(flash):
        return flash
    # Of a runner that was lost nobody knows what it has left on the device.
    touched = flash.attempts and (flash.state == "Confirmed" or flash.reason in _LOST)
    if spec.desired == "RollBack" and flash.goal == "Update" and touched:
        news = {"goal": "RollBack", "started_time": None, "finished_time": None}
        return flash.model_copy(update=news | {"state": "Pending", "reason": RolloutReason.ROLLING_BACK, "message": ""})
    if flash.state != "Pending":
        return flash
    if _unwanted(flash, spec):
        if flash.attempts:
            return flash.model_copy(update={"state": "Failed"})
        return flash.model_copy(update={"reason": RolloutReason.CANCELLED, "message": "was not begun"})
    if late and flash.goal == "Update":
        message = f"the deadline passed; before: {flash.reason} {flash.message}"
        return ended(flash, "Failed", reason=RolloutReason.DEADLINE_EXCEEDED, message=message, now=now)
    return flash


def _settled(flash: DeviceFlash, spec: FirmwareRolloutSpec) -> bool:
    return not in_flight(flash) and (flash.state in FINAL_STATES or _unwanted(flash, spec))


def _held(
    spec: FirmwareRolloutSpec,
    devices: tuple[DeviceFlash, ...],
    *,
    batch: int,
    now: datetime,
    silent: frozenset[str],
) -> _Held | None:
    """Why no device of this batch may begin."""
    if wanted(spec) == "RollBack":
        return None
    if spec.desired == "Cancel":
        return _Held(RolloutReason.CANCELLED, "what runs comes to an end")
    if spec.desired == "Suspend":
        return _Held(RolloutReason.SUSPENDED, "spec.desired is Suspend")
    fresh = not any(each.attempts or each.state in FINAL_STATES for each in devices if each.batch == batch)
    so_far = [each for each in devices if each.batch < batch + (not fresh)]
    quiet = sum(each.state == "Confirmed" and each.attempts > 0 and each.name in silent for each in so_far)
    failed = quiet + sum(each.state in ("Failed", "RolledBack") for each in so_far)
    limit = spec.strategy.max_failure_percent
    if failed * 100 > limit * len(so_far):
        fell = f" or fell silent ({quiet})" if quiet else ""
        message = f"{failed} of {len(so_far)} devices failed{fell}, more than spec.strategy.maxFailurePercent {limit}"
        return _Held(RolloutReason.TOO_MANY_FAILURES, message)
    if fresh:
        asked = spec.strategy.approval == "EachBatch" or (spec.strategy.approval == "AfterCanary" and batch == 1)
        if asked and spec.approved_batches < batch:
            message = f"spec.approvedBatches is {spec.approved_batches}, {batch} lets batch {batch + 1} begin"
            return _Held(RolloutReason.AWAITING_APPROVAL, message)
        ends = [parse_timestamp(each.finished_time or "") for each in so_far if each.attempts]
        rested = max((end for end in ends if end), default=now) + timedelta(seconds=spec.strategy.soak_seconds)
        if batch and any(ends) and now < rested:
            return _Held(RolloutReason.SOAKING, f"batch {batch} runs until {rested:%Y-%m-%d %H:%M:%S} UTC", rested)
    try:
        opens = opening(spec.window, now=now) if spec.window else now
    except InvalidField as error:
        return _Held(RolloutReason.INVALID, str(error))
    if now < opens:
        return _Held(RolloutReason.OUTSIDE_WINDOW, f"the window opens {opens:%Y-%m-%d %H:%M} UTC", opens)
    return None


def _progress(
    spec: FirmwareRolloutSpec, devices: tuple[DeviceFlash, ...], *, batch: int, held: _Held | None
) -> tuple[Verdict, ...]:
    reason, message = RolloutReason.ROLLING_OUT, f"batch {batch + 1} of {devices[-1].batch + 1}"
    if wanted(spec) == "RollBack":
        reason, message = RolloutReason.ROLLING_BACK, "devices get back what they ran before"
    if held:
        reason, message = held.reason, held.message
    going = held is None or held.reason == RolloutReason.SOAKING or any(in_flight(each) for each in devices)
    lost = reason in (RolloutReason.TOO_MANY_FAILURES, RolloutReason.ROLLING_BACK, RolloutReason.CANCELLED)
    return (
        Verdict(type=RolloutCondition.PROGRESSING, status="True" if going else "False", reason=reason, message=message),
        Verdict(type=RolloutCondition.SUCCEEDED, status="False" if lost else "Unknown", reason=reason),
    )


def _conclusion(spec: FirmwareRolloutSpec, devices: tuple[DeviceFlash, ...]) -> tuple[Verdict, ...]:
    tally = counts(devices)
    reason, succeeded = RolloutReason.CONFIRMED, tally.confirmed == tally.total
    if not succeeded:
        reason = RolloutReason.DEVICES_FAILED
    if spec.desired == "Cancel" and not succeeded:
        reason = RolloutReason.CANCELLED
    if spec.desired == "RollBack":
        stuck = any(each.goal == "RollBack" and each.state == "Failed" for each in devices)
        reason, succeeded = RolloutReason.DEVICES_FAILED if stuck else RolloutReason.ROLLED_BACK, False
    message = (
        f"{tally.confirmed} confirmed, {tally.rolled_back} rolled back, {tally.failed} failed, "
        f"{tally.pending} not begun of {tally.total}"
    )
    return (
        Verdict(type=RolloutCondition.PROGRESSING, status="False", reason=RolloutReason.COMPLETE, message=message),
        Verdict(
            type=RolloutCondition.SUCCEEDED,
            status="True" if succeeded else "False",
            reason=reason,
            message=message,
        ),
    )
