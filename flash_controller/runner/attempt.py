"""One attempt as a loop: look at the device, decide, do it, look again; until the device has come to rest.

Whatever breaks in between, the device is looked at again and the decision made anew. Who is told to stop brings a
device that is on trial back first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, assert_never

import structlog

from crds.conditions import timestamp
from crds.errors import Retryable, Terminal
from crds.kube.queue import backoff
from flash_controller.adapters.access import Missing
from flash_controller.domain.flash import (
    Admit,
    AwaitEvidence,
    AwaitRestart,
    Back,
    Confirm,
    Course,
    Kept,
    Refusal,
    Refuse,
    Revert,
    Seen,
    Stuck,
    Try,
    Wanted,
    Write,
    disagreement,
    next_step,
)
from flash_controller.protocols.base import Installed, Updater
from flash_controller.reasons import FlashReason
from flash_controller.runner.device import Device, DeviceLost
from flash_controller.runner.leaf import FollowedLeaf
from flash_controller.runner.reporter import Reporter

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 2.0
RESTART_SECONDS: Final = 0.3
GRACE_SECONDS: Final = 45.0
MAX_SETBACKS: Final = 6
"""Steps that failed one after the other, without a byte in between that the device took."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """What the device runs is not known, or is what it ran before; another attempt may do better."""

    refusal: Refusal


Outcome = Kept | Back | Stuck | GaveUp
Fetch = Callable[[Updater, Installed], Awaitable[bytes]]


def reason_of(error: Retryable) -> str:
    """The word for what may pass."""
    return error.reason if isinstance(error, Missing) else FlashReason.UNAVAILABLE


class Attempt:
    """One device and one image.

    Args:
        wanted: what shall run.
        device: how it is reached.
        leaf: what it proves.
        proves: whether it can.
        fetch: the image, once everything has been found in order; raises Terminal where it has not.
        reporter: what is said of it.
        tried: when an earlier attempt started the image, if one did.
        patience: with a started image that has not proven itself.
        clock: the time.
    """

    def __init__(
        self,
        wanted: Wanted,
        *,
        device: Device,
        leaf: FollowedLeaf,
        proves: bool,
        fetch: Fetch,
        reporter: Reporter,
        tried: datetime | None,
        patience: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._wanted = wanted
        self._device = device
        self._leaf = leaf
        self._proves = proves
        self._fetch = fetch
        self._reporter = reporter
        self._patience = patience
        self._clock = clock
        self._course = Course(began=clock(), tried=tried)
        self._setbacks = 0

    async def run(self, stop: asyncio.Event) -> Outcome:
        """Until the device has come to rest, or `stop` is set and it was brought back.

        Raises:
            Terminal: the device is not to be touched, and was not.
            Lost: another attempt has the device.
        """
        going, stopping = asyncio.create_task(self._go()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((going, stopping), return_when=asyncio.FIRST_COMPLETED)
            if going.done():
                return going.result()
        finally:
            for task in (going, stopping):
                task.cancel()
            await asyncio.wait((going, stopping))
            await self._device.drop()
        return await self._stopped()

    async def _stopped(self) -> Outcome:
        refusal = Refusal(FlashReason.STOPPED, "told to stop")
        if self._course.tried is None:
            return GaveUp(refusal)
        self._course = replace(self._course, refusal=refusal)
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                return await self._go()
        except TimeoutError:
            return GaveUp(refusal)
        finally:
            await self._device.drop()

    async def _go(self) -> Outcome:
        while True:
            try:
                outcome = await self._step()
                self._setbacks = 0
            except DeviceLost as error:
                return GaveUp(Refusal(FlashReason.DEVICE_LOST, str(error)))
            except Retryable as error:
                self._setbacks += 1
                log.warning("a step failed", error=str(error), setbacks=self._setbacks)
                await self._device.drop()
                if self._setbacks >= MAX_SETBACKS:
                    return GaveUp(Refusal(FlashReason.DEVICE_LOST, str(error)))
                await asyncio.sleep(backoff(self._setbacks))
                outcome = None
            except Terminal as error:
                if self._course.tried is None or self._course.refusal is not None:
                    raise
                self._course = replace(self._course, refusal=Refusal(error.reason, str(error)))
                outcome = None
            if outcome is not None:
                return outcome

    async def _step(self) -> Outcome | None:
        updater, installed = await self._device.look()
        seen = Seen(
            installed=installed,
            can=updater.capabilities,
            proves=self._proves,
            trust=self._leaf.trust,
            attested=self._leaf.attested,
        )
        step = next_step(self._wanted, seen, self._course, patience=self._patience, now=self._clock())
        log.debug("step", step=type(step).__name__)
        match step:
            case Kept() | Back() | Stuck():
                return step
            case Write() | Admit():
                return await self._admit(step, updater, installed)
            case Try():
                await self._try(updater)
            case AwaitRestart():
                await self._restarting()
            case AwaitEvidence(until):
                await self._reporter.enter("Attesting", FlashReason.AWAITING_EVIDENCE)
                await self._leaf.news(within=min(LOOK_SECONDS, max(0.0, (until - self._clock()).total_seconds())))
            case Refuse(refusal):
                log.warning("image refused", reason=refusal.reason, message=refusal.message)
                self._course = replace(self._course, refusal=refusal)
            case Confirm():
                await updater.confirm(self._wanted.measurement)
            case Revert():
                await updater.revert()
                await self._restarting()
            case _:
                assert_never(step)
        return None

    async def _admit(self, step: Write | Admit, updater: Updater, installed: Installed) -> GaveUp | None:
        try:
            image = await self._fetch(updater, installed)
        except Retryable as error:
            return GaveUp(Refusal(reason_of(error), str(error)))
        self._course = replace(self._course, admitted=True)
        if isinstance(step, Write):
            await self._write(updater, image)
        return None

    async def _write(self, updater: Updater, image: bytes) -> None:
        def progress(taken: int, total: int) -> None:
            self._setbacks = 0
            self._reporter.counted(taken, total)

        await self._reporter.enter("Writing", FlashReason.WRITING, bytes=0, total_bytes=len(image))
        # Some devices start it by themselves, as soon as it is whole.
        began = self._clock()
        await updater.write(image, measurement=self._wanted.measurement, progress=progress)
        self._course = replace(self._course, written=True)
        if not updater.capabilities.test_boots:
            self._course = replace(self._course, tried=began)

    async def _try(self, updater: Updater) -> None:
        tried = self._clock() if updater.capabilities.test_boots else self._course.tried or self._clock()
        self._course = replace(self._course, tried=tried, trials=self._course.trials + 1)
        await self._reporter.enter("TestBoot", FlashReason.TRYING, tried_time=timestamp(tried))
        await updater.test_boot(self._wanted.measurement)
        trust = self._leaf.trust
        outdated = trust if trust is not None and disagreement(self._wanted, trust) is not None else None
        self._course = replace(self._course, outdated=outdated)
        await self._restarting()

    async def _restarting(self) -> None:
        """A device answers before it restarts, and for a moment after that."""
        await self._device.drop()
        await asyncio.sleep(RESTART_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
