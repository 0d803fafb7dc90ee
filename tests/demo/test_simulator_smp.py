"""The simulated boards' SMP server: against smpclient over UDP, and against bytes of strangers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smpclient import SMPClient
from smpclient.exceptions import SMPUploadError
from smpclient.requests.image_management import ImageErase, ImageStatesRead, ImageStatesWrite, ImageUploadWrite
from smpclient.requests.os_management import BootloaderInformationRead, EchoWrite, ResetWrite
from smpclient.transport.udp import SMPUDPTransport

from flash_controller.domain.images import read_image
from scripts.simulator.device import SlotStore, Updatable, UpdatableDevice
from scripts.simulator.factory import Factory, open_board
from scripts.simulator.firmware import Application, application_of, build
from scripts.simulator.flash import PRIMARY, Flash
from scripts.simulator.identity import BoardIdentity, Firmware
from scripts.simulator.ports import Ports
from scripts.simulator.recordings import Recording, Row
from scripts.simulator.smp import MAGIC, SmpServer
from tests.demo.test_simulator_flash import image

RECORDING = Recording(name="x", rows=(Row({"humidity": 60.0}),))
HANGS = build(Application(application="hangs", defect="Hangs"), version="2.0.0", security_counter=1)


class Board:
    """A board that runs in this process, and how to speak with it."""

    def __init__(self, directory: Path, **entry: Any) -> None:
        self.directory = directory
        self.ports = Ports()
        self.port = self.ports.open(("127.0.0.1", 0), bytes_per_second=entry.get("flashBytesPerSecond"))
        self.number: int = self.port.socket.getsockname()[1]
        Flash(directory).install(image("1.0.0"))
        words = {"device": "b1", "slots": str(directory), "update": f"udp://127.0.0.1:{self.number}"}
        said = UpdatableDevice.model_validate({**words, "bootMilliseconds": 0, **entry})
        self.thread = Updatable(said, port=self.port, recording=RECORDING)
        self.thread.start()
        self.ports.start()

    @asynccontextmanager
    async def client(self, limit: float = 10) -> AsyncIterator[SMPClient]:
        transport = SMPUDPTransport()
        await transport.connect("127.0.0.1", 5, self.number)
        yield SMPClient(transport, "127.0.0.1", timeout_s=limit)
        await transport.disconnect()

    async def states(self) -> list[Any] | None:
        """What it says of its slots; None while it is silent."""
        async with self.client(limit=0.5) as client:
            try:
                answer: Any = await client.request(ImageStatesRead())
            except TimeoutError:
                return None
            return list(answer.images)

    async def test(self, data: bytes, *, limit: float = 10) -> None:
        """Upload, mark for a test, reset."""
        async with self.client(limit) as client:
            async for _ in client.upload(data):
                pass
            await client.request(ImageStatesWrite(hash=measurement(data)))
            await client.request(ResetWrite())

    async def runs(self, version: str) -> Any:
        """Wait until this runs; its state."""

        async with asyncio.timeout(30):
            while True:
                states = await self.states()
                if states and states[0].version == version:
                    return states[0]
                await asyncio.sleep(0.02)

    def close(self) -> None:
        self.thread.close()
        self.ports.close()


def measurement(data: bytes) -> bytes:
    return bytes.fromhex(read_image(data).measurement)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path)
    yield made
    made.close()


async def test_an_image_is_tested_confirmed_and_stays(board: Board) -> None:
    await board.runs("1.0.0")
    await board.test(image("2.0.0"))
    tested = await board.runs("2.0.0")
    assert (tested.active, tested.confirmed, tested.hash) == (True, False, measurement(image("2.0.0")))
    async with board.client() as client:
        await client.request(ImageStatesWrite(hash=tested.hash, confirm=True))
        await client.request(ResetWrite())
    assert (await board.runs("2.0.0")).confirmed


async def test_an_image_that_hangs_is_ended_by_the_watchdog_and_reverted(tmp_path: Path) -> None:
    board = Board(tmp_path, watchdogMilliseconds=50)
    try:
        await board.runs("1.0.0")
        await board.test(HANGS)
        assert (await board.runs("1.0.0")).confirmed
    finally:
        board.close()


async def test_a_board_that_went_dark_over_an_upload_comes_back(tmp_path: Path) -> None:
    board = Board(tmp_path, powerCutAfterBytes=600_000, darkMilliseconds=50)
    try:
        await board.runs("1.0.0")
        with pytest.raises(TimeoutError):
            await board.test(image("2.0.0", size=200_000), limit=1)
        await board.runs("1.0.0")
        await board.test(image("2.0.0", size=200_000))
        await board.runs("2.0.0")
    finally:
        board.close()


async def test_a_flash_takes_its_time(tmp_path: Path) -> None:
    data = image("2.0.0")
    board = Board(tmp_path, flashBytesPerSecond=2 * len(data))
    try:
        await board.runs("1.0.0")
        began = time.monotonic()
        await board.test(data)
        assert time.monotonic() - began >= 0.5
        await board.runs("2.0.0")
    finally:
        board.close()


async def test_an_upload_goes_on_where_it_was(board: Board) -> None:
    await board.runs("1.0.0")
    async with board.client() as client:
        upload = client.upload(image("2.0.0"))
        begun = [await anext(upload) for _ in range(5)]
    async with board.client() as client:
        again = [offset async for offset in client.upload(image("2.0.0"))]
    assert again[0] == begun[-1]
    assert again[-1] == len(image("2.0.0"))


async def test_refusals_are_zephyrs(board: Board) -> None:
    await board.runs("1.0.0")
    async with board.client() as client:
        said: Any = await client.request(EchoWrite(d="hello"))
        assert said.r == "hello"
        said = await client.request(BootloaderInformationRead())
        assert said.bootloader == "MCUboot"
        said = await client.request(ImageStatesWrite(hash=bytes(32)))
        assert said.err.rc.name == "HASH_NOT_FOUND"
        said = await client.request(ImageUploadWrite(off=0, data=bytes(64), len=64, image=0))
        assert said.err.rc.name == "INVALID_IMAGE_HEADER_MAGIC"
        said = await client.request(ImageUploadWrite(off=0, data=MAGIC + bytes(60), len=2**20, image=0))
        assert said.err.rc.name == "INVALID_IMAGE_TOO_LARGE"
    await board.test(image("2.0.0"))
    await board.runs("2.0.0")
    async with board.client() as client:
        said = await client.request(ImageErase())
        assert said.err.rc.name == "NO_FREE_SLOT"
        with pytest.raises(SMPUploadError):
            await asyncio.wait_for(anext(client.upload(image("3.0.0"))), 5)


def test_a_board_proves_what_its_boot_layer_measured(tmp_path: Path) -> None:
    open_board(tmp_path / "board.json", factory=Factory.open(tmp_path))
    files = {"board": str(tmp_path / "board.json"), "bundle": "none"}
    identity = BoardIdentity.model_validate({**files, "attest": "https://127.0.0.1:1"})
    flash = Flash(tmp_path / "flash")
    flash.install(image("1.2.3", counter=4))
    slot = flash.boot()
    claims = Firmware(identity, SlotStore(slot, application_of(slot)))._running.claims
    assert (claims.measurement, claims.software_name) == (measurement(slot.data), "app-1.2.3")
    assert claims.software_version == "1.2.3"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> SmpServer:
    flash = Flash(tmp_path_factory.mktemp("flash"))
    flash.install(image("1.0.0"))
    return SmpServer(flash, reset=lambda: None)


values = st.one_of(
    st.integers(-3, 2**33), st.binary(max_size=64), st.text(max_size=8), st.booleans(), st.none(), st.just(MAGIC * 16)
)
maps = st.dictionaries(
    st.sampled_from(["off", "len", "data", "sha", "hash", "confirm", "image", "upgrade", "d", "query"]), values
)


@settings(max_examples=300, deadline=None)
@given(
    head=st.sampled_from([0x00, 0x08, 0x02, 0x0A, 0x07, 0xFF]),
    group=st.sampled_from([0, 1, 8, 63]),
    command=st.integers(0, 9),
    body=st.one_of(maps.map(cbor2.dumps), st.binary(max_size=64)),
    cut=st.integers(0, 3),
)
def test_whatever_comes_is_answered_or_ignored(
    server: SmpServer, head: int, group: int, command: int, body: bytes, cut: int
) -> None:
    frame = bytes([head, 0]) + len(body).to_bytes(2, "big") + group.to_bytes(2, "big") + bytes([7, command]) + body
    answer = server.answer(frame[: len(frame) - cut])
    if answer is not None:
        assert (answer[0], answer[4:8]) == (head + 1, frame[4:8])
        assert isinstance(cbor2.loads(answer[8:]), dict)


@given(frame=st.binary(max_size=100))
def test_bytes_that_are_no_frame_are_no_harm(server: SmpServer, frame: bytes) -> None:
    server.answer(frame)


def test_the_flash_is_what_it_was_after_all_that(server: SmpServer) -> None:
    slot = server._flash.slot(PRIMARY)
    assert slot is not None
    assert slot.image.version == "1.0.0"
