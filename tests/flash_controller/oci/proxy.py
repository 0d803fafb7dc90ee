"""What stands between us and a real registry: it counts what passes, and does wrong when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from scripts.testbed.processes import free_port

LIMIT_SECONDS = 30.0
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Proxy:
    """A registry's front on loopback.

    Attributes:
        upstream: `127.0.0.1:<port>` of the registry.
        faults: what is done instead of passing on, by a part of `METHOD /path`; each as often as it is there.
        seen: `METHOD /path status` of every request.
        bytes_sent: of all answers, with their headers.
        authorizations: what came with requests.
    """

    upstream: str
    port: int = field(default_factory=free_port)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    bytes_sent: int = 0
    pulled: int = 0
    """How far the pull says it is; what only lies in its buffers is lost when a connection breaks."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    session: aiohttp.ClientSession = field(init=False)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def fail(self, where: str, *faults: Fault) -> None:
        """The next requests with this in `METHOD /path` go wrong, one after another."""
        self.faults += [(where, fault) for fault in faults]

    def progress(self, done: int, _total: int) -> None:
        self.pulled = done
        self.moved.set()

    async def until_pulled(self, done: int) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while self.pulled < done:
                self.moved.clear()
                await self.moved.wait()

    async def forward(self, request: web.Request, *, drop: str = "") -> tuple[aiohttp.ClientResponse, bytes]:
        headers = {key: value for key, value in request.headers.items() if key.lower() != drop}
        url = f"http://{self.upstream}{request.raw_path}"
        async with self.session.request(
            request.method, url, headers=headers, data=await request.read(), allow_redirects=False
        ) as answer:
            return answer, await answer.read()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        what = f"{request.method} {request.path}"
        self.authorizations.append(request.headers.get("Authorization", ""))
        for number, (where, fault) in enumerate(self.faults):
            if where in what:
                del self.faults[number]
                answer = await fault(self, request)
                break
        else:
            answer = passed(*await self.forward(request))
        self.seen.append(f"{what} {answer.status}")
        self.bytes_sent += sum(len(key) + len(value) + 4 for key, value in answer.headers.items())
        self.bytes_sent += (
            len(answer.body) if isinstance(answer, web.Response) and isinstance(answer.body, bytes) else 0
        )
        return answer


Fault = Callable[[Proxy, web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def proxied(upstream: str) -> AsyncIterator[Proxy]:
    """A proxy of a registry."""
    proxy = Proxy(upstream)
    application = web.Application(client_max_size=2**26)
    application.router.add_route("*", "/{path:.*}", proxy._handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    async with aiohttp.ClientSession(auto_decompress=False) as proxy.session:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", proxy.port).start()
        try:
            yield proxy
        finally:
            await runner.cleanup()


def passed(answer: aiohttp.ClientResponse, body: bytes) -> web.Response:
    headers = {key: value for key, value in answer.headers.items() if key.lower() not in _OF_THE_CONNECTION}
    return web.Response(status=answer.status, headers=headers, body=body)


def status(code: int, **headers: str) -> Fault:
    async def answer(_proxy: Proxy, _request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers={key.replace("_", "-"): value for key, value in headers.items()})

    return answer


def cut(after: int) -> Fault:
    """The connection breaks when so many bytes of the body have come."""

    async def answer(proxy: Proxy, request: web.Request) -> web.StreamResponse:
        given, body = await proxy.forward(request)
        response = web.StreamResponse(status=given.status, headers={"Content-Length": str(len(body))})
        begin = 0
        if "Content-Range" in given.headers:
            response.headers["Content-Range"] = given.headers["Content-Range"]
            begin = int(given.headers["Content-Range"].removeprefix("bytes ").partition("-")[0])
        await response.prepare(request)
        await response.write(body[:after])
        proxy.bytes_sent += after
        await proxy.until_pulled(begin + after)
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


async def silent(_proxy: Proxy, request: web.Request) -> web.StreamResponse:
    """It begins to answer, and goes on for ever."""
    response = web.StreamResponse(headers={"Content-Length": "100000"})
    await response.prepare(request)
    await asyncio.Event().wait()
    return response


async def altered(proxy: Proxy, request: web.Request) -> web.StreamResponse:
    """One bit is another."""
    answer, body = await proxy.forward(request)
    return passed(answer, body[:-1] + bytes([body[-1] ^ 1]))


async def endless(proxy: Proxy, request: web.Request) -> web.StreamResponse:
    """More comes than there is, and no length is stated."""
    _, body = await proxy.forward(request)
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(body + body)
    return response


async def whole(proxy: Proxy, request: web.Request) -> web.StreamResponse:
    """It knows no ranges."""
    return passed(*await proxy.forward(request, drop="range"))
