"""Who gets a device, which, and for how long."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from crds.errors import Retryable, Terminal
from crds.models.links import HEARTBEAT_SECONDS
from tests.flash_controller.links.station import LIMIT_SECONDS, NAMESPACE, Station, free_port, refusal, udp_echo


async def test_only_the_runner_of_this_node_gets_a_link() -> None:
    async with udp_echo() as echo, Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        station.device("a", protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
        for stranger in ("/runner/edge-2", "/agent/edge-1", "/manager/flash-controller", "/endpoint/site/runner"):
            assert isinstance(await refusal(station, "a", runner=stranger), Retryable)
        async with station.runner() as agent:
            await (await agent.lease(NAMESPACE, "a")).close()


async def test_the_device_says_the_way_and_not_who_asks() -> None:
    async with Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        station.device("lamp")
        station.device("esp", protocol="NubificusOTA", address="127.0.0.1:80")
        expected = {"nobody": "has no LeafDevice site/nobody", "lamp": "says no way", "esp": "no --inbound"}
        for name, said in expected.items():
            error = await refusal(station, name)
            assert said in str(error)
            # What the agent's watch has not brought yet may come; flags stay.
            assert isinstance(error, Terminal if name == "esp" else Retryable)


@pytest.mark.parametrize(
    ("protocol", "address"),
    [
        ("MCUmgrSerial", "/dev/nothing-here"),
        ("MCUmgrSerial", "socket://127.0.0.1:1"),
        ("MCUmgrUDP", "nowhere.invalid:1"),
    ],
)
async def test_a_device_that_is_away_may_come_back(protocol: str, address: str) -> None:
    async with Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        station.device("a", protocol=protocol, address=address)
        assert isinstance(await refusal(station, "a"), Retryable)


async def test_a_device_is_one_runners_until_that_gives_it_back() -> None:
    async with udp_echo() as echo, Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        station.device("a", protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
        async with station.runner() as agent:
            link = await agent.lease(NAMESPACE, "a")
            error = await refusal(station, "a")
            assert isinstance(error, Retryable)
            assert "another runner" in str(error)
            await link.close()
            # Closed means free: no pause in between.
            for _ in range(5):
                await (await agent.lease(NAMESPACE, "a")).close()


async def test_two_names_of_one_device_are_not_two_devices() -> None:
    async with udp_echo() as echo, Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        for name in ("a", "b"):
            station.device(name, protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
        async with station.runner() as agent:
            link = await agent.lease(NAMESPACE, "a")
            assert "another runner" in str(await refusal(station, "b"))
            await link.close()
            await (await agent.lease(NAMESPACE, "b")).close()


async def test_a_runner_that_is_killed_frees_its_device() -> None:
    async with udp_echo() as echo, Station().serve() as station, asyncio.timeout(LIMIT_SECONDS + HEARTBEAT_SECONDS):
        station.device("a", protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
        async with station.runner() as agent, station.runner() as successor:
            link = await agent.lease(NAMESPACE, "a")
            connection = link._socket._response.connection
            assert connection is not None
            assert connection.transport is not None
            connection.transport.abort()
            while True:
                with suppress(Retryable):
                    await (await successor.lease(NAMESPACE, "a")).close()
                    break
                await asyncio.sleep(0.05)
            with pytest.raises(Retryable):
                await link.receive()
            await link.close()


async def test_nobody_holds_a_device_for_ever() -> None:
    async with udp_echo() as echo, Station(lease_seconds=0.3).serve() as station, asyncio.timeout(LIMIT_SECONDS):
        station.device("a", protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
        async with station.runner() as agent:
            link = await agent.lease(NAMESPACE, "a")
            with pytest.raises(Retryable, match="held for"):
                await link.receive()
            await link.close()
            await (await agent.lease(NAMESPACE, "a")).close()


async def test_a_frame_that_is_none_ends_the_link() -> None:
    async with udp_echo() as echo, Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        station.device("a", protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
        async with station.runner() as agent:
            link = await agent.lease(NAMESPACE, "a")
            await link.send(bytes(link.max_frame + 1))
            with pytest.raises(Terminal, match="frames of 1 to"):
                await link.receive()
            await link.close()
            asking = await agent.lease(NAMESPACE, "a")
            with pytest.raises(Terminal, match="devices that dial in"):
                await asking.request("GET", "/info")
            await asking.close()


async def test_an_agent_that_is_not_there_is_a_reason_to_try_again() -> None:
    station = Station(url=f"https://127.0.0.1:{free_port()}")
    assert isinstance(await refusal(station, "a"), Retryable)


async def test_an_agent_that_goes_ends_its_links() -> None:
    async with udp_echo() as echo, asyncio.timeout(LIMIT_SECONDS):
        station = Station()
        station.device("a", protocol="MCUmgrUDP", address=f"127.0.0.1:{echo.port}")
        async with station.serve():
            agent = station.runner()
            link = await agent.lease(NAMESPACE, "a")
        with pytest.raises(Retryable):
            await link.receive()
        await link.close()
        await agent.__aexit__()


async def test_a_long_reason_is_cut_between_characters() -> None:
    async with Station().serve() as station, asyncio.timeout(LIMIT_SECONDS):
        error = await refusal(station, "\u00fc" * 120)
        assert isinstance(error, Retryable)
        assert str(error).endswith("\u00fc")
