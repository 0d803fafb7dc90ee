"""Frames between a runner and its device, through the agent, on every kind of way."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from crds.errors import Retryable, Terminal
from crds.models.links import MAX_BODY
from edge_resource_manager.agent.links.inbound import Port
from tests.flash_controller.links.station import (
    LIMIT_SECONDS,
    NAMESPACE,
    Station,
    free_port,
    refusal,
    serial_port,
    tcp_device,
    udp_echo,
)
from tests.relay.support import until


async def test_datagrams_keep_their_bounds_and_need_not_wait_for_each_other() -> None:
    async with udp_echo() as echo, Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        station.device("a", protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
        async with station.runner() as agent:
            link = await agent.lease(NAMESPACE, "a")
            sent = [bytes([number]) * (number + 1) for number in range(64)]
            for frame in sent:
                await link.send(frame)
            assert [await link.receive() for _ in sent] == sent
            await link.send(bytes(link.max_frame))
            assert len(await link.receive()) == link.max_frame
            await link.close()
            await link.close()


async def test_a_device_that_restarts_ends_the_link_and_can_be_leased_again() -> None:
    async with Station().serve() as station, station.runner() as agent, asyncio.timeout(LIMIT_SECONDS):
        async with udp_echo() as echo:
            station.device("a", protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
            link = await agent.lease(NAMESPACE, "a")
            await link.send(b"ab")
            assert await link.receive() == b"ba"
        await link.send(b"is anybody there?")
        with pytest.raises(Retryable, match="refuses datagrams"):
            await link.receive()
        with pytest.raises(Retryable):
            await link.send(b"once more")
        await link.close()
        async with udp_echo(echo.port):
            again = await agent.lease(NAMESPACE, "a")
            await again.send(b"ab")
            assert await again.receive() == b"ba"
            await again.close()


async def test_a_stream_is_written_to_its_end_before_it_is_closed() -> None:
    async with tcp_device() as (port, told), Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        station.device("a", protocol="MCUmgrSerial", address=f"socket://127.0.0.1:{port}")
        async with station.runner() as agent:
            link = await agent.lease(NAMESPACE, "a")
            assert await link.receive() == b"hello "
            for _ in range(40):
                await link.send(bytes(30000))
            await link.close()
            await until(lambda: told)
            assert told == [bytes(40 * 30000)]


async def test_a_serial_port_is_ours_alone_while_it_is_leased(tmp_path: Path) -> None:
    async with serial_port() as (path, device), Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        alias = tmp_path / "by-id"
        alias.symlink_to(path)
        for name, address in (("a", path), ("b", str(alias))):
            station.device(name, protocol="MCUmgrSerial", address=address, baud_rate=115200)
        async with station.runner() as agent:
            link = await agent.lease(NAMESPACE, "a")
            with pytest.raises(Retryable, match="exclusively lock"):
                await agent.lease(NAMESPACE, "b")
            await link.send(b"\x06\x09AAsI\n")
            assert await asyncio.to_thread(os.read, device, 100) == b"\x06\x09AAsI\n"
            os.write(device, b"answer")
            assert await link.receive() == b"answer"
            await link.close()
            other = await agent.lease(NAMESPACE, "b")
            await other.close()


async def test_what_is_no_serial_port_is_not_opened(tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    opened.touch()
    alias = tmp_path / "port"
    alias.symlink_to("/dev/full")
    async with Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        for name, path in (("file", str(opened)), ("alias", str(alias)), ("dots", "/dev/pts/../full")):
            station.device(name, protocol="MCUmgrSerial", address=path)
            error = await refusal(station, name)
            assert isinstance(error, Terminal)
            assert "is no serial port" in str(error)


async def test_a_device_is_told_to_dial_in_and_does() -> None:
    requests: asyncio.Queue[bytes] = asyncio.Queue()

    async def update(request: web.Request) -> web.Response:
        requests.put_nowait(await request.read())
        return web.Response(text="About to update")

    app = web.Application()
    app.router.add_post("/update", update)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    station = Station(inbound=Port(free_port()))
    station.device("a", protocol="NubificusOTA", address=f"127.0.0.1:{runner.addresses[0][1]}")
    async with station.serve(), station.runner() as agent, asyncio.timeout(LIMIT_SECONDS):
        link = await agent.lease(NAMESPACE, "a")
        host, port = link.address.split(":")
        assert await link.request("POST", "/update", f"ip: {host}".encode()) == (200, b"About to update")
        assert await requests.get() == b"ip: 127.0.0.1"
        assert (await link.request("GET", "/nothing"))[0] == 404
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"client hello")
        assert await link.receive() == b"client hello"
        await link.send(b"image")
        assert await reader.readexactly(5) == b"image"
        second, _ = await asyncio.open_connection(host, int(port))
        assert await second.read() == b""
        writer.close()
        with pytest.raises(Retryable, match="ended the stream"):
            await link.receive()
        await link.close()
    await runner.cleanup()


async def test_strangers_who_dial_in_are_sent_away() -> None:
    station = Station(inbound=Port(port := free_port()))
    async with station.serve(), asyncio.timeout(LIMIT_SECONDS):
        reader, _ = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""


async def test_an_answer_without_end_is_none() -> None:
    async def endless(_: web.Request) -> web.Response:
        return web.Response(body=bytes(MAX_BODY + 1))

    app = web.Application()
    app.router.add_get("/info", endless)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    station = Station(inbound=Port(free_port()))
    station.device("a", protocol="FluidosOTA", address=f"127.0.0.1:{runner.addresses[0][1]}")
    async with station.serve(), station.runner() as agent, asyncio.timeout(LIMIT_SECONDS):
        link = await agent.lease(NAMESPACE, "a")
        with pytest.raises(Retryable, match=f"more than {MAX_BODY} bytes"):
            await link.request("GET", "/info")
        await link.close()
    await runner.cleanup()


async def test_two_devices_at_one_address_are_waited_for_one_after_the_other() -> None:
    station = Station(inbound=Port(free_port()))
    for name, port in (("a", 80), ("b", 81)):
        station.device(name, protocol="FluidosOTA", address=f"127.0.0.1:{port}")
    async with station.serve(), station.runner() as agent, asyncio.timeout(LIMIT_SECONDS):
        link = await agent.lease(NAMESPACE, "a")
        with pytest.raises(Retryable, match="another device at 127"):
            await agent.lease(NAMESPACE, "b")
        await link.close()
        await (await agent.lease(NAMESPACE, "b")).close()


async def test_a_device_that_answers_no_http_is_a_reason_to_try_again() -> None:
    station = Station(inbound=Port(free_port()))
    station.device("a", protocol="FluidosOTA", address=f"127.0.0.1:{free_port()}")
    async with station.serve(), station.runner() as agent, asyncio.timeout(LIMIT_SECONDS):
        link = await agent.lease(NAMESPACE, "a")
        with pytest.raises(Retryable, match="GET /info"):
            await link.request("GET", "/info")
        await link.close()
