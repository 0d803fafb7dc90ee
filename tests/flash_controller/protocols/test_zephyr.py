"""A real Zephyr behind a real MCUboot, by its serial console and through an edge agent."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from crds.errors import Retryable
from flash_controller.adapters.agent_link import EdgeAgent
from flash_controller.domain.images import read_image
from flash_controller.protocols import open_updater
from flash_controller.protocols.base import Installed, Updater
from scripts.testbed import zephyr
from scripts.testbed.zephyr import Zephyr
from tests.flash_controller.links.station import NAMESPACE, Station

LIMIT_SECONDS = 240.0
VERSION = "1.2.3+4"


class KilledError(Exception):
    """The runner is no more."""


@asynccontextmanager
async def updater_of(agent: EdgeAgent) -> AsyncIterator[Updater]:
    link = await agent.lease(NAMESPACE, "zephyr")
    updater = open_updater("MCUmgrSerial", link, tls=ssl.create_default_context(), judge=lambda _, __: None)
    try:
        yield updater
    finally:
        await updater.close()


async def seen(agent: EdgeAgent, wanted: Callable[[Installed], bool]) -> Installed:
    """What it says when it is so; it answers until it restarts, and then is silent while MCUboot swaps."""
    while True:
        with contextlib.suppress(Retryable):
            async with updater_of(agent) as updater:
                if wanted(installed := await updater.inspect()):
                    return installed
        await asyncio.sleep(0.05)


@pytest.mark.timeout(LIMIT_SECONDS + 30)
async def test_a_real_device_is_updated_reverted_and_confirmed(tmp_path: Path) -> None:
    image = zephyr.another_image(zephyr.ensure(), version=VERSION)
    new = read_image(image).measurement

    def interrupt(taken: int, total: int) -> None:
        if taken > total // 3:
            raise KilledError

    heard: list[int] = []
    with Zephyr(tmp_path) as device:
        async with Station().serve() as station, station.runner() as agent, asyncio.timeout(LIMIT_SECONDS):
            station.device("zephyr", protocol="MCUmgrSerial", address=device.address)
            before = await seen(agent, lambda now: now.settled)

            async with updater_of(agent) as updater:
                with pytest.raises(KilledError):
                    await updater.write(image, measurement=new, progress=interrupt)
            async with updater_of(agent) as updater:
                await updater.write(image, measurement=new, progress=lambda taken, _: heard.append(taken))
                await updater.test_boot(new)
            trial = await seen(agent, lambda now: now.active == now.find(new))

            async with updater_of(agent) as updater:
                await updater.revert()
            reverted = await seen(agent, lambda now: now.settled)

            async with updater_of(agent) as updater:
                # A swap back leaves nothing whole in the other slot.
                await updater.write(image, measurement=new, progress=lambda *_: None)
                await updater.test_boot(new)
            await seen(agent, lambda now: now.active == now.find(new))
            async with updater_of(agent) as updater:
                await updater.confirm(new)
                confirmed = await updater.inspect()

    assert before.settled
    assert heard[0] > len(image) // 3
    assert [slot.version for slot in (before.active, trial.active) if slot] == ["0.0.0", VERSION]
    assert (trial.active, trial.settled) == (trial.find(new), False)
    assert (reverted.active, reverted.settled) == (before.active, True)
    assert (confirmed.active, confirmed.settled) == (confirmed.find(new), True)
