"""The relay's own HTTP/1.1: every form of answer, connections that are kept, and those that end at a bad moment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.egress import EgressPolicy
from router_manager.relay.dial import EgressRefusedError
from router_manager.relay.http1 import answers
from router_manager.relay.http1.answers import NotHttpError, Reply, ReplyReader
from router_manager.relay.http1.client import HttpClient
from tests.relay.support import LOOPBACK, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
)


@pytest.mark.parametrize(
    ("data", "status", "body", "reusable"),
    [
        (OK, 200, b"ok", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok", True),
        (b"HTTP/1.1 503\r\nConnection: close\r\ncontent-length:0\r\n\r\n", 503, b"", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
        (CHUNKED, 200, b"abc0123456789", True),
        (OK + b"HTTP/1.1", 200, b"ok", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 70_000, 200, b"x" * 65_536, False),
    ],
)
def test_every_form_of_an_answer_is_read(data: bytes, status: int, body: bytes, reusable: bool) -> None:
    reply = ReplyReader().feed(data)
    assert reply is not None
    assert (reply.status, reply.body, reply.reusable) == (status, body, reusable)


@settings(max_examples=50)
@given(st.sampled_from([OK, CHUNKED]), st.sets(st.integers(1, len(CHUNKED) - 1)))
def test_it_does_not_matter_how_an_answer_is_cut(data: bytes, cuts: set[int]) -> None:
    reader, found = ReplyReader(), []
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for start, end in pairwise(edges):
        found.append(reader.feed(data[start:end]))
    assert found[:-1] == [None] * (len(edges) - 2)
    assert found[-1] == ReplyReader().feed(data)


@pytest.mark.parametrize(
    "body", [b"1\r\na\r\n" * 100 + b"0\r\n\r\n", b"0\r\n" + b"a: b\r\n" * 100 + b"\r\n"], ids=["chunks", "trailers"]
)
def test_an_answer_that_trickles_costs_no_more_than_its_length(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(name: str) -> None:
        whole = getattr(answers, name)

        def reading(data: bytes) -> object:
            read.append(name)
            return whole(data)

        monkeypatch.setattr(answers, name, reading)

    counted("_head")
    counted("_size")
    reader, found = ReplyReader(), None
    for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body:
        assert found is None
        found = reader.feed(bytes([byte]))
    assert found is not None
    assert read.count("_head") <= 1
    assert read.count("_size") <= len(body), "a chunk's size may be read again until the chunk is whole"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"x" * 40_000,
    ],
)
def test_what_is_no_answer_is_told(data: bytes) -> None:
    with pytest.raises(NotHttpError):
        ReplyReader().feed(data)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.booleans())
def test_noise_never_raises_anything_else(noise: bytes, begun: bool) -> None:
    with suppress(NotHttpError):
        ReplyReader().feed(b"HTTP/1.1 200 OK\r\n" + noise if begun else noise)


@dataclass
class Server:
    """Answers each request with the next of `script`: bytes, and whether it closes then. Counts connections."""

    script: list[tuple[bytes, bool]]
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    port: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer, closes = self.script.pop(0)
                writer.write(answer)
                if closes:
                    return
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def talking(
    *script: tuple[bytes, bool], seconds: float = 10.0, policy: EgressPolicy = LOOPBACK
) -> AsyncIterator[tuple[Server, Callable[[], Awaitable[Reply]]]]:
    server = Server(list(script))
    client = HttpClient(policy, timeout_seconds=seconds, user_agent="test")
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        try:
            yield server, lambda: client.post(f"http://127.0.0.1:{server.port}/a b?q=ü", b"body", {"X-Name": "value"})
        finally:
            await client.close()


async def test_a_request_says_all_that_it_has_to() -> None:
    async with talking((OK, False)) as (server, post):
        await post()
        assert server.requests == [
            b"POST /a%20b?q=%C3%BC HTTP/1.1\r\n"
            + f"Host: 127.0.0.1:{server.port}\r\n".encode()
            + b"User-Agent: test\r\nX-Name: value\r\nContent-Length: 4\r\n\r\nbody"
        ]


async def test_a_connection_is_kept_and_two_requests_at_once_have_two() -> None:
    async with talking(*[(OK, False)] * 6) as (server, post):
        for _ in range(4):
            await post()
        assert server.connections == 1
        await asyncio.gather(post(), post())
        assert server.connections == 2


async def test_a_connection_that_ended_while_it_was_idle_costs_nothing() -> None:
    async with talking((OK, True), (OK, False)) as (server, post):
        await post()
        await post()
        assert server.connections == 2
        assert len(server.requests) == 2


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"])
async def test_an_answer_that_is_cut_off_is_none_and_its_connection_is_not_used_again(answer: bytes) -> None:
    async with talking((answer, True), (OK, False)) as (server, post):
        with pytest.raises(NotHttpError):
            await post()
        await post()
        assert server.connections == 2


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async with talking((b"HTTP/1.1 200 OK\r\n\r\nall", True)) as (_, post):
        reply = await post()
        assert reply.body == b"all"


async def test_a_target_that_hangs_is_given_up_and_its_connection_closed() -> None:
    async with talking((b"", False), (OK, False), seconds=0.2) as (server, post):
        with pytest.raises(TimeoutError):
            await post()
        await post()
        assert server.connections == 2


async def test_a_second_answer_to_one_request_is_no_answer_to_the_next() -> None:
    stray = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    async with talking((OK + stray, False), (OK, False)) as (server, post):
        await post()
        reply = await post()
        assert reply.status == 200
        assert server.connections == 2


async def test_nothing_is_dialled_that_the_policy_refuses() -> None:
    async with talking((OK, False), policy=EgressPolicy()) as (server, post):
        with pytest.raises(EgressRefusedError, match="loopback"):
            await post()
        assert server.connections == 0


async def test_no_header_smuggles_another() -> None:
    client = HttpClient(LOOPBACK, timeout_seconds=1.0, user_agent="test")
    with pytest.raises(ValueError, match="line break"):
        await client.post("http://127.0.0.1:9/", b"", {"X": "a\r\nEvil: yes"})


async def test_idle_connections_go_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router_manager.relay.http1.client._IDLE_SECONDS", 0.05)
    client = HttpClient(LOOPBACK, timeout_seconds=5.0, user_agent="test")
    server = Server([(OK, False)])
    async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        await client.post(f"http://127.0.0.1:{port}/", b"", {})
        await until(lambda: not client._idle, what="the end of the idle connection")
        await client.close()
