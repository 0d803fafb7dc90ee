"""The REAR client against real HTTP servers that answer anything: it raises what it says, in bounded time and space."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_resource_manager.adapters.rear_client import (
    MAX_LINE_BYTES,
    NotThere,
    ProviderRefused,
    ProviderSilent,
    RearProvider,
)
from edge_resource_manager.adapters.rear_session import RearSession
from edge_resource_manager.domain import wire
from tests.edge_resource_manager.claims.rear_simulator import RearSimulator, answers, hang, refuses

WISH = wire.ReservationRequest(flavor_id="f", buyer=wire.NodeIdentity(id="n", ip="192.0.2.1:1", domain="d"))


@asynccontextmanager
async def raw_server(answer: Callable[[], bytes]) -> AsyncIterator[str]:
    """Sends bytes to whoever connects."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer())
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


@pytest.fixture
async def session() -> AsyncIterator[RearSession]:
    async with RearSession() as opened:
        yield opened


@pytest.fixture
async def simulator() -> AsyncIterator[RearSimulator]:
    async with RearSimulator("provider-1").serve() as served:
        yield served


async def calls(provider: RearProvider) -> list[Exception | None]:
    """What each operation raises."""
    outcomes: list[Exception | None] = []
    for call in (
        provider.sensors([("filter[sensorType][match]", "Humidity & more")]),
        provider.sensor("f"),
        provider.reserve(WISH),
        provider.purchase("t", wire.PurchaseRequest()),
        provider.contract("c"),
        provider.configure("c", wire.Configuration(type="sensor", data={})),
        provider.end("c"),
        _events(provider),
    ):
        try:
            await call
        except (ProviderSilent, ProviderRefused) as error:
            outcomes.append(error)
        else:
            outcomes.append(None)
    return outcomes


async def _events(provider: RearProvider) -> None:
    async for _ in provider.events():
        pass


def test_settings_of_the_body_are_small_enough_to_hold() -> None:
    assert MAX_LINE_BYTES <= 1024 * 1024


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda status, body: b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body),
            st.integers(100, 599),
            st.one_of(
                st.binary(max_size=200),
                st.sampled_from([b"null", b"[]", b"{}", b"[[]]", b'{"type":"REFRESH"}\n', b'{"detail":5}', b"\xff\n"]),
            ),
        ),
    )
)
async def test_whatever_a_server_sends_only_errors_of_ours_come_out(session: RearSession, answer: bytes) -> None:
    async with raw_server(lambda: answer) as address:
        await calls(RearProvider(session, address, seconds=0.5))


async def test_a_server_that_hangs_is_left_in_time(session: RearSession, simulator: RearSimulator) -> None:
    simulator.faults["*"] = hang
    provider = RearProvider(session, simulator.address, seconds=0.05)
    with pytest.raises(ProviderSilent, match=r"no answer within 0\.05 s"):
        await provider.sensors(())


async def test_what_is_compressed_is_not_unfolded(session: RearSession, simulator: RearSimulator) -> None:
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    simulator.faults["list"] = answers(200, bomb, **{"Content-Encoding": "gzip"})
    with pytest.raises(ProviderSilent, match="unreadable list"):
        await RearProvider(session, simulator.address, seconds=2).sensors(())


async def test_a_line_without_an_end_is_cut(session: RearSession, simulator: RearSimulator) -> None:
    simulator.faults["events"] = answers(200, b" " * (2 * MAX_LINE_BYTES))
    with pytest.raises(ProviderSilent, match="an event of more than"):
        await _events(RearProvider(session, simulator.address, seconds=2))


async def test_an_event_of_an_unknown_type_is_passed_over(session: RearSession, simulator: RearSimulator) -> None:
    simulator.faults["events"] = answers(200, b'{"type":"NEWS"}\n\n{"type":"WITHDRAW","flavorID":"f"}\n')
    found = [event async for event in RearProvider(session, simulator.address, seconds=2).events()]
    assert found == [wire.Withdraw(flavor_id="f")]


async def test_the_providers_own_words_are_told_and_cut(session: RearSession, simulator: RearSimulator) -> None:
    simulator.faults["reserve"] = refuses(409, "sold\nout " + "!" * 1000)
    with pytest.raises(ProviderRefused) as caught:
        await RearProvider(session, simulator.address, seconds=2).reserve(WISH)
    assert str(caught.value).startswith("HTTP 409: sold out !!!")
    assert len(str(caught.value)) < 300
    assert caught.value.status == 409


async def test_what_is_gone_is_none_or_ended(session: RearSession, simulator: RearSimulator) -> None:
    provider = RearProvider(session, simulator.address, seconds=2)
    assert await provider.sensor("f") is None
    assert await provider.contract("../../c?x=%2F") is None
    await provider.end("c")
    with pytest.raises(NotThere):
        await provider.purchase("t", wire.PurchaseRequest())
    for name in (".", ".."):
        with pytest.raises(ProviderSilent):
            await provider.contract(name)


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:0", "host:70000", "user@host:80", "host:80/x", "[::1:80", "http://h:80", "h:80#", "a\n:80"],
)
async def test_an_address_that_is_none_is_refused(session: RearSession, address: str) -> None:
    with pytest.raises(ProviderSilent, match="is not host:port"):
        RearProvider(session, address, seconds=1)
