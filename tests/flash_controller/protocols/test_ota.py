"""The dial-in OTA, all the way through an edge agent: as it is fielded, and our second version."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crds.errors import Retryable, Terminal
from crds.models.leafdevice import UpdateProtocol
from edge_resource_manager.agent.links.inbound import Port
from flash_controller.protocols import open_updater, ota
from flash_controller.protocols.base import Installed, Updater
from flash_controller.protocols.nubificus import certificate_length
from flash_controller.protocols.smp_framing import Datagrams
from tests.flash_controller.links.station import Station, free_port
from tests.flash_controller.protocols.boards import (
    FRAME,
    NEW_VERSION,
    OLD_VERSION,
    Board,
    BoardLink,
    image,
    leased,
    measurement,
)
from tests.flash_controller.protocols.esp32 import Esp32, own_certificate, pinned

NEW = image(NEW_VERSION, size=60_000)
CERTIFICATE = own_certificate()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pinned(tmp_path_factory.mktemp("pinned"))


@pytest.fixture
def device(certificate: Path) -> Esp32:
    return Esp32(trusts=certificate, dials=free_port(), shows=(CERTIFICATE,))


@pytest.fixture
def second(device: Esp32, tmp_path: Path) -> Esp32:
    board = Board(tmp_path / "flash", runs=image(OLD_VERSION))
    return replace(device, shows=(b"evidence of ",), board=board)


class Judged:
    """A judge that remembers, and believes one kind of evidence."""

    def __init__(self, believes: bytes) -> None:
        self.seen: list[tuple[bytes, bytes]] = []
        self._believes = believes

    def __call__(self, evidence: bytes, nonce: bytes) -> None:
        self.seen.append((evidence, nonce))
        if evidence != self._believes + nonce:
            raise Terminal("another device", reason="NotThisDevice")


@asynccontextmanager
async def updating(
    device: Esp32, certificate: Path, judge: Judged, protocol: UpdateProtocol = "NubificusOTA"
) -> AsyncIterator[Any]:
    """A way to open updaters of a device."""
    async with device.serve(), Station(inbound=Port(device.dials)).serve() as station, station.runner() as agent:
        station.device("a", protocol=protocol, address=device.address)

        @asynccontextmanager
        async def updater() -> AsyncIterator[Updater]:
            link = await leased(agent)
            opened = open_updater(protocol, link, tls=_server(certificate), judge=judge)
            try:
                yield opened
            finally:
                await opened.close()

        yield updater


def _server(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def write(updater: Updater, data: bytes = NEW) -> list[tuple[int, int]]:
    heard: list[tuple[int, int]] = []
    await updater.write(data, measurement=measurement(data), progress=lambda *said: heard.append(said))
    return heard


async def _restarted(updater: Updater, before: Installed) -> Installed:
    """What it runs after the restart that it does by itself."""
    while (now := await updater.inspect()) == before:  # noqa: ASYNC110 - it tells by HTTP alone
        await asyncio.sleep(0.01)
    return now


@pytest.mark.parametrize("pieces", [(CERTIFICATE,), (CERTIFICATE[:3], CERTIFICATE[3:710], CERTIFICATE[710:])])
async def test_a_fielded_device_takes_an_image(device: Esp32, certificate: Path, pieces: tuple[bytes, ...]) -> None:
    device, judge = replace(device, shows=pieces), Judged(CERTIFICATE)
    async with updating(device, certificate, judge) as updaters:
        async with updaters() as updater:
            before = await updater.inspect()
            heard = await write(updater)
        async with updaters() as updater, asyncio.timeout(20):
            after = await _restarted(updater, before)
            await updater.test_boot(measurement(NEW))
            await updater.confirm(measurement(NEW))
            with pytest.raises(Terminal) as refused:
                await updater.revert()
    assert (before.application, before.board) == ("thermo", "esp32s3")
    assert [slot.version for slot in (*before.slots, *after.slots)] == ["0.1.0", NEW_VERSION]
    assert device.image == NEW
    assert device.told == [b"ip: 127.0.0.1"]
    assert judge.seen == [(CERTIFICATE, b"")]
    assert heard[-1] == (len(NEW), len(NEW))
    assert refused.value.reason == "CannotRevert"
    assert "no revert" in updater.capabilities.missing


async def test_a_stranger_gets_no_image(device: Esp32, certificate: Path) -> None:
    async with updating(device, certificate, Judged(b"another")) as updaters, updaters() as updater:
        with pytest.raises(Terminal, match="another device"):
            await write(updater)
    assert device.image == b""


async def test_what_is_no_certificate_is_refused(device: Esp32, certificate: Path) -> None:
    device = replace(device, shows=(b"GET / HTTP/1.1\r\n",))
    async with updating(device, certificate, Judged(CERTIFICATE)) as updaters, updaters() as updater:
        with pytest.raises(Terminal, match="no certificate begins with 47455420"):
            await write(updater)


async def test_a_certificate_longer_than_it_says_is_refused(device: Esp32, certificate: Path) -> None:
    device = replace(device, shows=(CERTIFICATE + b"more",))
    async with updating(device, certificate, Judged(CERTIFICATE)) as updaters, updaters() as updater:
        with pytest.raises(Terminal, match=f"says {len(CERTIFICATE)} bytes, has {len(CERTIFICATE) + 4}"):
            await write(updater)


async def test_a_device_that_takes_images_from_anybody_is_not_asked_further(device: Esp32, certificate: Path) -> None:
    device = replace(device, secure=False)
    async with updating(device, certificate, Judged(CERTIFICATE)) as updaters, updaters() as updater:
        with pytest.raises(Terminal) as refused:
            await write(updater)
    assert refused.value.reason == "InsecureUpdate"


async def test_a_device_that_does_not_come_is_given_up(
    device: Esp32, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_controller.protocols.nubificus.DIAL_IN_SECONDS", 0.2)
    async with updating(device, certificate, Judged(CERTIFICATE)) as updaters, updaters() as updater:
        device.dials = free_port()
        with pytest.raises(Retryable, match="did not dial in"):
            await write(updater)


async def test_a_device_that_pins_another_certificate_breaks_off(
    device: Esp32, certificate: Path, tmp_path: Path
) -> None:
    device.trusts = pinned(tmp_path)
    async with updating(device, certificate, Judged(CERTIFICATE)) as updaters, updaters() as updater:
        with pytest.raises(Retryable):
            await write(updater)
    assert device.image == b""


@pytest.mark.parametrize("answer", [b"nothing", b'{"device": "esp32"}', b"[]"])
async def test_an_answer_that_is_no_info_says_so(answer: bytes) -> None:
    with pytest.raises(Terminal, match="/info of the device") as refused:
        await ota.read_info(Answering(200, answer))
    assert refused.value.reason == "InvalidAnswer"


@pytest.mark.parametrize(("status", "error"), [(408, Retryable), (500, Retryable), (404, Terminal)])
async def test_a_refusal_says_whether_another_try_helps(status: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"status {status}, b'because'"):
        await ota.request_update(Answering(status, b"because"), b"")


class Answering(BoardLink):
    """A link whose device answers one thing."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(None, Datagrams(FRAME))
        self._answer = status, body

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:  # noqa: ARG002 - to any
        return self._answer


@pytest.mark.parametrize(("head", "length"), [("308202", None), ("308202d1", 725), ("30820064", 104)])
def test_a_certificate_tells_its_length(head: str, length: int | None) -> None:
    assert certificate_length(bytes.fromhex(head)) == length


async def test_the_second_version_tries_confirms_and_knows_who_is_there(second: Esp32, certificate: Path) -> None:
    judge = Judged(b"evidence of ")
    async with updating(second, certificate, judge, "FluidosOTA") as updaters:
        async with updaters() as updater:
            await write(updater)
            await updater.test_boot(measurement(NEW))
        async with updaters() as updater:
            trial = await updater.inspect()
            await updater.confirm(measurement(NEW))
            kept = await updater.inspect()
    assert trial.application == "thermo"
    assert (trial.active.measurement, trial.settled, kept.settled) == (measurement(NEW), False, True)
    assert len({nonce for _, nonce in judge.seen}) == 2
    assert updater.capabilities.missing == ()


async def test_the_second_version_goes_on_after_a_cut(second: Esp32, certificate: Path) -> None:
    second.drops_after = len(NEW) // 2
    async with updating(second, certificate, Judged(b"evidence of "), "FluidosOTA") as updaters:
        async with updaters() as updater:
            with pytest.raises(Retryable):
                await write(updater)
        async with updaters() as updater:
            heard = await write(updater)
    assert heard[0][0] > len(NEW) // 4
    assert heard[-1] == (len(NEW), len(NEW))


async def test_the_second_version_gives_a_stranger_nothing(second: Esp32, certificate: Path) -> None:
    judge = Judged(b"evidence of another")
    async with updating(second, certificate, judge, "FluidosOTA") as updaters, updaters() as updater:
        with pytest.raises(Terminal, match="another device"):
            await updater.inspect()
