"""The device behind whatever link there is at the moment: leased when it is needed, and again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import structlog

from crds.errors import Retryable
from flash_controller.protocols.base import Installed, Updater

log = structlog.get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
CLOSE_SECONDS = 10.0


class DeviceLost(Exception):  # noqa: N818 - an outcome
    """The device stayed out of reach."""


class Device:
    """One device.

    Args:
        connect: leases a link and makes an updater on it.
        within: seconds that it may stay out of reach.
    """

    def __init__(self, connect: Callable[[], Awaitable[Updater]], *, within: float) -> None:
        self._connect = connect
        self._within = within
        self._updater: Updater | None = None

    async def look(self) -> tuple[Updater, Installed]:
        """What it holds now, and how to change that.

        Raises:
            DeviceLost: it did not answer in time.
            Terminal: it cannot be asked.
        """
        pause, problem = FIRST_PAUSE, "no answer"
        try:
            async with asyncio.timeout(self._within):
                while True:
                    try:
                        self._updater = self._updater or await self._connect()
                        return self._updater, await self._updater.inspect()
                    except Retryable as error:
                        problem = str(error)
                        log.debug("device out of reach", problem=problem)
                        await self.drop()
                    await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                    pause = min(2 * pause, LONGEST_PAUSE)
        except TimeoutError as error:
            await self.drop()
            raise DeviceLost(f"the device is out of reach for {self._within:g} s: {problem}") from error

    async def drop(self) -> None:
        """Give the link back: the device restarts, or the link is of no use any more."""
        updater, self._updater = self._updater, None
        if updater is not None:
            with contextlib.suppress(Retryable, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await updater.close()
