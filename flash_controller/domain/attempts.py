"""One device of a rollout through its attempts: what a Job and its runner's report make of it.

The report is the truth about the device, the Job about the runner. A Job that ends without a final report was killed,
or its node is gone: the attempt counts, and what the device runs is seen by the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from crds.conditions import parse_timestamp, timestamp
from crds.models.firmwarerollout import DeviceFlash
from crds.models.flash_report import FINAL_STATES, FlashReport, FlashState, Goal
from flash_controller.reasons import RolloutReason

MAX_BACKOFF = timedelta(hours=1)
STOP_PATIENCE = timedelta(minutes=3)
"""A runner that is told to stop has a minute."""
MAX_MESSAGE = 256
"""Of a device in a rollout's status: 1,024 of them have to fit into one object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The newest Job of a device, as the API server has it."""

    job: str
    number: int
    goal: Goal
    active: bool
    """It has not ended."""
    timed_out: bool = False
    message: str = ""
    """Why it failed."""
    stopping: datetime | None = None
    """Since when its runner is told to stop: a node that is gone never says that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """Whether, how often and after what pause a failed attempt is followed by another one."""

    allowed: bool
    retries: int
    backoff: timedelta

    def again(self, flash: DeviceFlash) -> bool:
        """Whether there is an attempt left; a roll back has as many as the update had."""
        return self.allowed and flash.attempts < (self.retries + 1) * (2 if flash.goal == "RollBack" else 1)

    def due(self, flash: DeviceFlash) -> datetime | None:
        """When a device that failed may be tried again; None where it has not failed yet."""
        failed = parse_timestamp(flash.finished_time or "")
        return failed and failed + min(self.backoff * 2 ** max(0, flash.attempts - 1), MAX_BACKOFF)


def in_flight(flash: DeviceFlash) -> bool:
    """Whether an attempt has begun and not ended."""
    return flash.started_time is not None and flash.finished_time is None


def begun(flash: DeviceFlash, *, attempt: int, goal: Goal, now: datetime, **more: Any) -> DeviceFlash:
    """A device whose Job is there."""
    news: dict[str, Any] = {
        "state": "Pending",
        "goal": goal,
        "reason": RolloutReason.STARTING,
        "message": "",
        "bytes": 0,
        "attempts": attempt,
        "started_time": timestamp(now),
        "finished_time": None,
    }
    return flash.model_copy(update=news | more)


def ended(
    flash: DeviceFlash, state: FlashState, *, reason: str, now: datetime, message: str = "", **more: Any
) -> DeviceFlash:
    """A device for which nothing runs any more."""
    news = {"state": state, "reason": reason, "message": message[:MAX_MESSAGE], "finished_time": timestamp(now)}
    return flash.model_copy(update=news | more)


def observed(
    flash: DeviceFlash,
    *,
    attempt: Attempt | None,
    report: FlashReport | None,
    retrying: Retrying,
    now: datetime,
    held: bool = False,
) -> DeviceFlash:
    """A device after what is known of its newest attempt.

    Args:
        flash: as it was known so far.
        attempt: the Job; None where there is none.
        report: the last one of a runner of this rollout, whatever its attempt.
        retrying: see there.
        now: the time.
        held: a runner of this rollout renews its Lease on the device.
    """
    if attempt is not None and attempt.number > flash.attempts:
        # Created by an earlier life of the manager, which could not write it down.
        flash = begun(flash, attempt=attempt.number, goal=attempt.goal, now=now)
    if not in_flight(flash):
        return flash
    if report is not None and report.attempt == flash.attempts:
        flash = _told(flash, report)
        if report.state in FINAL_STATES:
            return _concluded(flash, report, retrying=retrying, now=now)
    gone = attempt is not None and _gone(attempt, now=now) and not held
    if attempt is not None and (attempt.number < flash.attempts or (attempt.active and not gone)):
        return flash
    silence = "its node does not answer" if gone else "the runner ended without a report"
    timed_out = attempt is not None and attempt.timed_out
    return _failed(
        flash,
        reason=RolloutReason.DEVICE_TIMEOUT if timed_out else RolloutReason.RUNNER_LOST,
        message=(attempt.message if attempt else "") or silence,
        retryable=True,
        retrying=retrying,
        now=now,
    )


def _gone(attempt: Attempt, *, now: datetime) -> bool:
    return attempt.active and attempt.stopping is not None and now >= attempt.stopping + STOP_PATIENCE


def _told(flash: DeviceFlash, report: FlashReport) -> DeviceFlash:
    news = {
        "reason": report.reason,
        "message": report.message[:MAX_MESSAGE],
        "bytes": report.bytes,
        "total_bytes": report.total_bytes,
        "lacks": report.lacks,
        # What the first attempt found counts: a later one may find what the first has left there.
        "before": flash.before or report.before,
    }
    if report.state not in FINAL_STATES:
        news["state"] = report.state
    return flash.model_copy(update=news)


def _concluded(flash: DeviceFlash, report: FlashReport, *, retrying: Retrying, now: datetime) -> DeviceFlash:
    if report.state == "Failed":
        return _failed(
            flash,
            reason=report.reason,
            message=report.message,
            retryable=report.retryable,
            retrying=retrying,
            now=now,
        )
    return ended(flash, report.state, reason=report.reason, message=report.message, now=now)


def _failed(
    flash: DeviceFlash, *, reason: str, message: str, retryable: bool, retrying: Retrying, now: datetime
) -> DeviceFlash:
    state: FlashState = "Pending" if retryable and retrying.again(flash) else "Failed"
    return ended(flash, state, reason=reason, message=message, now=now)
