"""A serial console: who boots is told nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest

from flash_controller.protocols import mcumgr
from flash_controller.protocols.mcumgr import MCUmgr
from flash_controller.protocols.smp_framing import Lines
from tests.flash_controller.protocols.boards import OLD_VERSION, Board, BoardLink, image


class Console(BoardLink):
    """Prints these lines first; `told_at` is how many it had printed when it was first told something."""

    def __init__(self, board: Board, lines: Iterable[bytes]) -> None:
        super().__init__(board, Lines())
        self._lines = iter(lines)
        self.printed = 0
        self.told_at = 0
        self.told = asyncio.Event()

    async def send(self, frame: bytes) -> None:
        if not self.told.is_set():
            self.told_at = self.printed
            self.told.set()
        await super().send(frame)

    async def receive(self) -> bytes:
        for line in self._lines:
            await asyncio.sleep(0)
            self.printed += 1
            return line
        return await super().receive()


async def version_of(console: Console) -> str:
    updater = MCUmgr(console, Lines(), console=True)
    try:
        active = (await updater.inspect()).active
    finally:
        await updater.close()
    assert active is not None
    return active.version


async def test_a_device_that_boots_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcumgr, "QUIET_SECONDS", 0.2)
    console = Console(Board(tmp_path, runs=image(OLD_VERSION)), [b"I: Starting bootloader\r\n"] * 500)
    assert await version_of(console) == OLD_VERSION
    assert console.told_at == 500


async def test_a_device_that_logs_without_an_end_is_spoken_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcumgr, "LISTEN_SECONDS", 0.1)
    endless = itertools.chain.from_iterable(itertools.repeat([b"<inf> 21 degC\r\n"]))
    console = Console(Board(tmp_path, runs=image(OLD_VERSION)), endless)
    asked = asyncio.create_task(version_of(console))
    try:
        async with asyncio.timeout(20):
            await console.told.wait()
    finally:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
