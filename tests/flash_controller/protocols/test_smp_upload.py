"""What a server may answer to a chunk, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crds.errors import Retryable, Terminal
from flash_controller.protocols.mcumgr import MCUmgr
from flash_controller.protocols.smp_framing import Datagrams
from flash_controller.protocols.smp_transport import LinkTransport
from flash_controller.protocols.smp_upload import Upload
from tests.flash_controller.protocols.boards import FRAME, BoardLink

IMAGE = bytes(range(256)) * 40
HEADER = 8


class Answering(BoardLink):
    """A server that answers what a test says, by what it was sent."""

    def __init__(self, answer: Callable[[dict[str, Any]], bytes]) -> None:
        super().__init__(None, Datagrams(FRAME))
        self._answer = answer

    async def send(self, frame: bytes) -> None:
        body = self._answer(cbor2.loads(frame[HEADER:]))
        self._arrived.put_nowait(bytes((frame[0] + 1, 0, *len(body).to_bytes(2, "big"), *frame[4:HEADER])) + body)


async def upload(answer: Callable[[dict[str, Any]], bytes], *, in_flight: int = 3) -> list[int]:
    heard: list[int] = []
    transport = LinkTransport(Answering(answer), Datagrams(FRAME))
    transport.initialize(FRAME)
    try:
        async with asyncio.timeout(20):
            await Upload(transport, IMAGE, in_flight=in_flight).run(lambda taken, _: heard.append(taken))
    finally:
        await transport.disconnect()
    return heard


async def test_every_byte_comes_once_and_chunks_are_as_long_as_fits() -> None:
    taken = bytearray()
    lengths: list[int] = []

    def server(said: dict[str, Any]) -> bytes:
        assert said["off"] == len(taken)
        taken.extend(said["data"])
        lengths.append(HEADER + len(cbor2.dumps(said)))
        return cbor2.dumps({"off": len(taken)})

    heard = await upload(server)
    assert bytes(taken) == IMAGE
    assert heard[-1] == len(IMAGE)
    assert all(FRAME - 2 <= length <= FRAME for length in lengths[:-1])


async def test_the_first_chunk_says_what_comes() -> None:
    first: list[dict[str, Any]] = []

    def server(said: dict[str, Any]) -> bytes:
        first.append(said)
        return cbor2.dumps({"off": len(IMAGE)})

    assert await upload(server) == []
    assert (first[0]["len"], len(first[0]["sha"]), first[0]["image"]) == (len(IMAGE), 32, 0)


async def test_a_server_that_takes_nothing_any_more_is_given_up() -> None:
    def server(said: dict[str, Any]) -> bytes:
        return cbor2.dumps({"off": len(said["data"]) if said["off"] == 0 else 500})

    with pytest.raises(Retryable, match="goes back to byte 500"):
        await upload(server)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ({"rc": 10}, Retryable, "EBUSY"),
        ({"rc": 8}, Terminal, "ENOTSUP"),
        ({"err": {"group": 1, "rc": 30}}, Terminal, "INVALID_IMAGE_TOO_LARGE"),
        ({"err": {"group": 1, "rc": 15}}, Retryable, "NO_FREE_MEMORY"),
        ({"off": -1}, Retryable, "not understood"),
        ({"off": len(IMAGE) + 1}, Retryable, "not understood"),
        ({}, Retryable, "not understood"),
        ([1], Retryable, "not understood"),
    ],
)
async def test_a_refusal_says_whether_another_try_helps(answer: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        await upload(lambda _: cbor2.dumps(answer))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    body=st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=3) | st.binary(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rc", "err", "group", "images"]), inner)
        ),
    ).map(cbor2.dumps)
)
async def test_whatever_a_server_answers_an_error_says_what_to_do(body: bytes) -> None:
    with pytest.raises((Retryable, Terminal)):
        await upload(lambda _: body)
    updater = MCUmgr(Answering(lambda _: body), Datagrams(FRAME))
    with pytest.raises((Retryable, Terminal)):
        await updater.inspect()
    await updater.close()
