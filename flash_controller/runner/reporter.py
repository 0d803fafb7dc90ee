"""What a runner says about its attempt: in the device's Lease, each state once, bytes as often as that is renewed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog

from crds.conditions import timestamp
from crds.models.flash_report import FlashReport, FlashState, Running
from flash_controller.adapters.device_lease import DeviceLease
from flash_controller.reasons import FlashReason
from flash_controller.runner.settings import RunnerSettings

log = structlog.get_logger(__name__)

MAX_MESSAGE = 1024


class Reporter:
    """One attempt's report.

    Args:
        lease: where it is written.
        settings: which attempt this is.
        clock: the time.

    Attributes:
        report: as it is now.
    """

    def __init__(self, lease: DeviceLease, settings: RunnerSettings, *, clock: Callable[[], datetime]) -> None:
        self._lease = lease
        self._clock = clock
        self.report = FlashReport(
            rollout_uid=settings.rollout_uid,
            attempt=settings.attempt,
            goal=settings.goal,
            reason=FlashReason.STARTING,
            time=timestamp(clock()),
        )

    async def take(self) -> FlashReport | None:
        """Make the device ours; the last report of an attempt with the same goal, if there was one.

        Raises:
            Busy: another attempt has it.
            Retryable: the API server is away.
        """
        earlier = await self._lease.acquire(self.report)
        if earlier is None or (earlier.rollout_uid, earlier.goal) != (self.report.rollout_uid, self.report.goal):
            return None
        self._change(before=earlier.before, lacks=earlier.lacks, tried_time=earlier.tried_time)
        return earlier

    async def enter(self, state: FlashState, reason: str, **news: Any) -> None:
        """Say that a state has begun.

        Raises:
            Lost: another attempt has the device.
        """
        if state != self.report.state:
            log.info("state", state=state, reason=reason)
        self._change(state=state, reason=reason, message="", **news)
        await self._lease.say(self.report)

    def found(self, before: Running, **news: Any) -> None:
        """What the device ran; an earlier attempt's word comes first, for what that left is not what was before."""
        self._change(before=self.report.before or before, **news)

    def counted(self, taken: int, total: int) -> None:
        """Bytes that arrived."""
        self._change(bytes=taken, total_bytes=total)
        self._lease.note(self.report)

    async def conclude(self, state: FlashState, reason: str, message: str, *, retryable: bool = False) -> None:
        """Say how it ended, and give the device up.

        Raises:
            Lost: another attempt has the device.
            Retryable: the API server stays away.
        """
        log.info("ended", state=state, reason=reason, message=message, retryable=retryable)
        self._change(state=state, reason=reason, message=message[:MAX_MESSAGE], retryable=retryable)
        await self._lease.conclude(self.report)

    def _change(self, **news: Any) -> None:
        self.report = self.report.model_copy(update={**news, "time": timestamp(self._clock())})
