"""Firmware by radio, through an edge agent: MCUmgr, and ST's boards."""

from __future__ import annotations

import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crds.errors import Retryable, Terminal
from crds.models.leafdevice import UpdateProtocol
from edge_resource_manager.agent.links.gatt import CHARACTERISTICS
from flash_controller.protocols import bluest, open_updater
from flash_controller.protocols.base import Updater
from flash_controller.protocols.bluest import BlueST, stm32_crc
from flash_controller.protocols.smp_framing import Fragments
from tests.flash_controller.links.station import NAMESPACE, Station
from tests.flash_controller.protocols import bluetooth, boards
from tests.flash_controller.protocols.bluetooth import PERIPHERAL
from tests.flash_controller.protocols.boards import NEW_VERSION, OLD_VERSION, image, measurement

SMP_SERVICE = "8d53dc1d-1db7-4cd3-868b-8a527460aa84"
CONSOLE_SERVICE = "00000000-000e-11e1-9ab4-0002a5d5c51b"
NEW = image(NEW_VERSION)


@asynccontextmanager
async def updater_of(
    board: bluetooth.Board, protocol: UpdateProtocol, *, service: str, mtu: int = 247
) -> AsyncIterator[Updater]:
    air = bluetooth.in_reach(board, service=service, characteristic=CHARACTERISTICS[protocol], mtu=mtu)
    async with air as backend, Station(bluetooth=backend).serve() as station, station.runner() as agent:
        station.device("a", protocol=protocol, address=PERIPHERAL)
        link = await agent.lease(NAMESPACE, "a")
        updater = open_updater(protocol, link, tls=ssl.create_default_context(), judge=lambda _, __: None)
        try:
            yield updater
        finally:
            await updater.close()


@pytest.mark.parametrize("mtu", [23, 247])
async def test_a_board_is_updated_by_radio(tmp_path: Path, mtu: int) -> None:
    board, framing = boards.Board(tmp_path / "flash", runs=image(OLD_VERSION)), Fragments(1024)

    def answer(written: bytes) -> Iterator[bytes]:
        return (answer for message in framing.feed(written) if (answer := board.answer(message)))

    async with updater_of(answer, "MCUmgrBLE", service=SMP_SERVICE, mtu=mtu) as updater:
        await updater.write(NEW, measurement=measurement(NEW), progress=lambda *_: None)
        await updater.test_boot(measurement(NEW))
        await updater.confirm(measurement(NEW))
        installed = await updater.inspect()
    assert (installed.active, installed.settled) == (installed.find(measurement(NEW)), True)


class Console:
    """An STWINBX1's debug console, as FP-SNS-STBOX1 has it.

    Args:
        loses: numbers of the chunks that never arrive.
        repeats: what it says in place of the CRC.
    """

    def __init__(self, *, loses: frozenset[int] = frozenset(), repeats: bytes | None = None) -> None:
        self.image = b""
        self.chunks: list[bytes] = []
        self._loses = loses
        self._repeats = repeats
        self._expected: tuple[int, int] | None = None

    def __call__(self, written: bytes) -> Iterator[bytes]:
        if self._expected is None:
            yield from self._command(written)
            return
        self.chunks.append(written)
        size, crc = self._expected
        taken = b"".join(chunk for number, chunk in enumerate(self.chunks) if number not in self._loses)
        if len(taken) >= size:
            self._expected = None
            good = bitwise_crc(taken) == crc
            self.image = taken if good else b""
            yield b"\x01" if good else b"\xff"

    def _command(self, written: bytes) -> Iterator[bytes]:
        if written == b"versionFw\n":
            yield from (b"U585_FP-SNS-STBOX1", b"_BLEDefaultFw_1.5.0\r\n")
        elif written.startswith(b"upgradeFw"):
            self._expected = struct.unpack("<II", written.removeprefix(b"upgradeFw"))
            self.chunks = []
            yield self._repeats or written[-4:]


def bitwise_crc(data: bytes) -> int:
    """As the unit in the chip does it, a bit at a time."""
    crc = 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", data[: len(data) // 4 * 4]):
        crc ^= word
        for _ in range(32):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """This board writes no flash."""
    monkeypatch.setattr(bluest, "CHUNK_SECONDS", 0.0)


@pytest.mark.usefixtures("hurried")
async def test_an_st_board_takes_an_image() -> None:
    board, heard, data = Console(), [], bytes(range(256)) * 20 + b"odd"
    async with updater_of(board, "BlueST", service=CONSOLE_SERVICE) as updater:
        installed = await updater.inspect()
        await updater.write(data, measurement="", progress=lambda *said: heard.append(said))
        with pytest.raises(Terminal) as refused:
            await updater.revert()
    assert (installed.board, installed.application) == ("U585", "FP-SNS-STBOX1_BLEDefaultFw")
    assert [(slot.version, slot.confirmed) for slot in installed.slots] == [("1.5.0", True)]
    assert board.image == data
    assert {len(chunk) for chunk in board.chunks} == {16, 3}
    assert heard[-1] == (len(data), len(data))
    assert refused.value.reason == "CannotRevert"
    assert "no signature is checked by the device" in updater.capabilities.missing


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"loses": frozenset({3})}, "did not acknowledge"),
        ({"repeats": b"\0\0\0\0"}, "answers 00000000"),
        ({"repeats": b"\x01\x02"}, "answers 0102"),
    ],
)
async def test_what_goes_wrong_can_be_tried_again(
    monkeypatch: pytest.MonkeyPatch, faults: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(bluest, "FLASH_SECONDS", 0.2)
    board = Console(**faults)
    async with updater_of(board, "BlueST", service=CONSOLE_SERVICE) as updater:
        with pytest.raises(Retryable, match=said):
            await updater.write(bytes(160), measurement="", progress=lambda *_: None)
    assert board.image == b""


@pytest.mark.usefixtures("hurried")
async def test_a_board_that_lost_bytes_says_so() -> None:
    board = Console()
    link = Through(board)
    with pytest.raises(Retryable, match="answers ff, expected 01"):
        await BlueST(link).write(bytes(160), measurement="", progress=lambda *_: None)


class Through(boards.BoardLink):
    """A link that turns a bit over in the third chunk."""

    def __init__(self, console: Console) -> None:
        super().__init__(None, Fragments(20))
        self._console = console

    async def send(self, frame: bytes) -> None:
        bad = len(self._console.chunks) == 2
        for back in self._console(bytes([frame[0] ^ 1]) + frame[1:] if bad else frame):
            self._arrived.put_nowait(back)


def test_the_crc_is_the_chips() -> None:
    assert stm32_crc(b"12345678") == 0xFEFC54F9


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=200))
def test_the_fast_crc_is_the_slow_one(data: bytes) -> None:
    assert stm32_crc(data) == bitwise_crc(data)
