"""A real Zephyr behind a real MCUboot, by its serial console and through an edge agent."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flash_controller.adapters.agent_link import EdgeAgent
from flash_controller.domain.images import read_image
from flash_controller.protocols import open_updater
from flash_controller.protocols.base import Updater
from scripts.testbed import zephyr
from scripts.testbed.zephyr import Zephyr
from tests.flash_controller.links.station import Station
from tests.flash_controller.protocols.boards import leased

LIMIT_SECONDS = 240.0
VERSION = "1.2.3+4"


class KilledError(Exception):
    """The runner is no more."""


@asynccontextmanager
async def updater_of(agent: EdgeAgent) -> AsyncIterator[Updater]:
    link = await leased(agent, "zephyr")
    updater = open_updater("MCUmgrSerial", link, tls=ssl.create_default_context(), judge=lambda _, __: None)
    try:
        yield updater
    finally:
        await updater.close()


@pytest.mark.timeout(LIMIT_SECONDS + 30)
async def test_a_real_device_is_updated_reverted_and_confirmed(tmp_path: Path) -> None:
    image = zephyr.another_image(zephyr.ensure(), version=VERSION)
    new = read_image(image).measurement

    def interrupt(taken: int, total: int) -> None:
        if taken > total // 3:
            raise KilledError

    heard: list[int] = []
    async with (
        asyncio.timeout(LIMIT_SECONDS),
        Zephyr(tmp_path) as device,
        Station().serve() as station,
        station.runner() as agent,
    ):
        station.device("zephyr", protocol="MCUmgrSerial", address=device.address)
        await device.started(1)
        async with updater_of(agent) as updater:
            before = await updater.inspect()
            with pytest.raises(KilledError):
                await updater.write(image, measurement=new, progress=interrupt)
        async with updater_of(agent) as updater:
            await updater.write(image, measurement=new, progress=lambda taken, _: heard.append(taken))
            await updater.test_boot(new)
        await device.started(2)
        async with updater_of(agent) as updater:
            trial = await updater.inspect()
            await updater.revert()
        await device.started(3)
        async with updater_of(agent) as updater:
            reverted = await updater.inspect()
            # A swap back leaves nothing whole in the other slot.
            await updater.write(image, measurement=new, progress=lambda *_: None)
            await updater.test_boot(new)
        await device.started(4)
        async with updater_of(agent) as updater:
            await updater.confirm(new)
            confirmed = await updater.inspect()

    assert before.settled
    assert heard[0] > len(image) // 3
    assert [slot.version for slot in (before.active, trial.active) if slot] == ["0.0.0", VERSION]
    assert (trial.active, trial.settled) == (trial.find(new), False)
    assert (reverted.active, reverted.settled) == (before.active, True)
    assert (confirmed.active, confirmed.settled) == (confirmed.find(new), True)
