"""MCUmgr against a simulated board, over links that are not what one would wish."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crds.errors import Retryable, Terminal
from flash_controller.protocols import mcumgr, smp_transport
from flash_controller.protocols.mcumgr import MCUmgr
from flash_controller.protocols.smp_framing import Datagrams
from tests.flash_controller.protocols.boards import (
    FRAME,
    FRAMINGS,
    NEW_VERSION,
    OLD_VERSION,
    Board,
    BoardLink,
    image,
    measurement,
)

OLD, NEW = image(OLD_VERSION), image(NEW_VERSION)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "flash", runs=OLD)


@asynccontextmanager
async def updater_of(board: Board | None, kind: str = "datagrams", **faults: Any) -> AsyncIterator[MCUmgr]:
    """What the runner has between two restarts."""
    updater = MCUmgr(BoardLink(board, FRAMINGS[kind](), **faults), FRAMINGS[kind]())
    try:
        yield updater
    finally:
        await updater.close()


def nothing(_taken: int, _total: int) -> None:
    pass


async def write(board: Board, data: bytes = NEW, **faults: Any) -> None:
    async with updater_of(board, **faults) as updater:
        await updater.write(data, measurement=measurement(data), progress=nothing)


async def running(board: Board) -> tuple[str, bool]:
    """Version, and whether it is confirmed."""
    async with updater_of(board) as updater:
        active = (await updater.inspect()).active
    assert active is not None
    return active.version, active.confirmed


@pytest.mark.parametrize("kind", FRAMINGS)
async def test_an_image_is_written_tried_and_confirmed(board: Board, kind: str) -> None:
    heard: list[tuple[int, int]] = []
    async with updater_of(board, kind) as updater:
        await updater.write(NEW, measurement=measurement(NEW), progress=lambda *said: heard.append(said))
        assert await running(board) == (OLD_VERSION, True)
        await updater.test_boot(measurement(NEW))
    assert await running(board) == (NEW_VERSION, False)
    async with updater_of(board, kind) as updater:
        await updater.confirm(measurement(NEW))
        assert (await updater.inspect()).settled
        await updater.revert()
    board.start()
    assert await running(board) == (NEW_VERSION, True)
    assert heard == sorted(heard)
    assert heard[-1] == (len(NEW), len(NEW))
    assert board.resets == 1


async def test_without_confirmation_it_goes_back(board: Board) -> None:
    await write(board)
    async with updater_of(board) as updater:
        await updater.test_boot(measurement(NEW))
        await updater.revert()
    assert await running(board) == (OLD_VERSION, True)


async def test_a_pending_image_is_reverted_in_two_steps(board: Board) -> None:
    await write(board)
    board.flash.mark(permanent=False)
    async with updater_of(board) as updater:
        steps = 0
        while not (await updater.inspect()).settled:
            await updater.revert()
            steps += 1
    assert (steps, await running(board)) == (2, (OLD_VERSION, True))


async def test_an_image_that_is_there_is_not_sent_again(board: Board) -> None:
    await write(board)
    link = BoardLink(board, Datagrams(FRAME))
    updater = MCUmgr(link, Datagrams(FRAME))
    await updater.write(NEW, measurement=measurement(NEW), progress=nothing)
    await updater.close()
    assert link.sent < 200


async def test_a_cut_upload_goes_on_where_it_stopped(board: Board) -> None:
    heard: list[int] = []
    async with updater_of(board, frames=15) as updater:
        with pytest.raises(Retryable, match="cut"):
            await updater.write(NEW, measurement=measurement(NEW), progress=lambda taken, _: heard.append(taken))
    again = BoardLink(board, Datagrams(FRAME))
    updater = MCUmgr(again, Datagrams(FRAME))
    await updater.write(NEW, measurement=measurement(NEW), progress=nothing)
    await updater.close()
    assert heard[-1] > 5 * FRAME
    # One chunk comes twice: by its answer the board says where to go on.
    assert again.sent < len(NEW) - heard[-1] + 5 * FRAME


async def test_after_a_reset_in_the_middle_the_upload_begins_again(board: Board) -> None:
    async with updater_of(board) as updater:

        def reset(taken: int, _total: int) -> None:
            if taken > len(NEW) // 2 and not board.resets:
                board.resets += 1
                board.start()

        with pytest.raises(Retryable):
            await updater.write(NEW, measurement=measurement(NEW), progress=reset)
        await updater.write(NEW, measurement=measurement(NEW), progress=nothing)
        assert (await updater.inspect()).find(measurement(NEW)) is not None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is slow here: what is not answered was lost."""
    monkeypatch.setattr(smp_transport, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(smp_transport, "LONGEST_PAUSE_SECONDS", 0.02)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(fates=st.lists(st.sampled_from((0, 1, 1, 1, 2)), max_size=60))
@pytest.mark.usefixtures("impatient")
async def test_whatever_is_lost_or_comes_twice_the_image_arrives(
    tmp_path_factory: pytest.TempPathFactory, fates: list[int]
) -> None:
    board = Board(tmp_path_factory.mktemp("flash"), runs=OLD)
    await write(board, fate=iter(fates))
    async with updater_of(board) as updater:
        assert (await updater.inspect()).find(measurement(NEW)) is not None


@pytest.mark.usefixtures("impatient")
async def test_a_reset_is_asked_for_once_even_if_its_answer_is_lost(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcumgr, "RESET_SECONDS", 0.1)
    await write(board)

    def fate() -> Iterator[int]:
        # Parameters, boot loader, states, mark: a request and an answer each; then the reset.
        yield from (1,) * 9
        yield 0
        yield from itertools.repeat(1)

    async with updater_of(board, fate=fate()) as updater:
        await updater.test_boot(measurement(NEW))
    assert board.resets == 1
    assert await running(board) == (NEW_VERSION, False)


async def test_what_was_not_written_is_not_tried(board: Board) -> None:
    async with updater_of(board) as updater:
        with pytest.raises(Terminal, match="holds no image") as refused:
            await updater.test_boot(measurement(NEW))
    assert refused.value.reason == "NotWritten"


async def test_nothing_but_the_image_that_was_meant_is_confirmed(board: Board) -> None:
    await write(board)
    async with updater_of(board) as updater:
        await updater.test_boot(measurement(NEW))
        await updater.revert()
        with pytest.raises(Terminal, match=measurement(OLD)) as refused:
            await updater.confirm(measurement(NEW))
    assert refused.value.reason == "OtherImageRuns"


async def test_what_the_board_refuses_says_so(board: Board) -> None:
    with pytest.raises(Terminal, match="INVALID_IMAGE_HEADER_MAGIC") as refused:
        await write(board, b"\0" * 30_000)
    assert refused.value.reason == "DeviceRefused"


async def test_a_silent_board_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcumgr, "REQUEST_SECONDS", 0.1)
    async with updater_of(None) as updater:
        with pytest.raises(Retryable, match="no answer"):
            await updater.inspect()


async def test_a_cut_link_fails_every_request_at_once(board: Board) -> None:
    async with updater_of(board, frames=0) as updater:
        async with asyncio.timeout(5):
            with pytest.raises(Retryable):
                await updater.inspect()
            with pytest.raises(Retryable):
                await updater.inspect()
