"""Registries that mean no good: where they send us, and what they call an answer."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from crds.errors import EdgeError, Terminal
from flash_controller.oci.registry import Registry
from scripts.testbed.certificates import Authority
from scripts.testbed.processes import free_port

LIMIT_SECONDS = 20.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Something that answers everything this way, as host:port."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            yield f"127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def answering(status: int, body: bytes = b"", **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return handler


@pytest.mark.parametrize("way", ["redirect", "token", "next page"])
async def test_nothing_leaves_in_clear_wherever_a_registry_sends_us(way: str, tmp_path: Path) -> None:
    asked: list[str] = []

    async def trap(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.json_response({"token": "granted", "tags": ["1.0.0"]})

    authority = Authority.new("site", now=dt.datetime.now(dt.UTC))
    certificate, key = authority.server("registry", hosts=["127.0.0.1"], now=dt.datetime.now(dt.UTC)).write(
        tmp_path, "registry"
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with served(trap) as elsewhere:
        sends = {
            "redirect": answering(307, Location=f"http://{elsewhere}/"),
            "token": answering(401, WWW_Authenticate=f'Bearer realm="http://{elsewhere}/"'),
            "next page": answering(200, b'{"tags":["1.0.0"]}', Link=f'<http://{elsewhere}/>; rel="next"'),
        }
        async with (
            served(sends[way], tls=tls) as host,
            Registry(f"{host}/a", authorities=authority.pem.decode()) as registry,
        ):
            with pytest.raises(Terminal, match="expected https") as refusal:
                await registry.tags()
    assert refusal.value.reason == "RegistryRefused"
    assert asked == []


@pytest.mark.parametrize("realm", ["http://[::1", "http://a:99999/", "file:///etc/passwd"])
async def test_a_token_service_that_is_nowhere_is_told(realm: str) -> None:
    async with (
        served(answering(401, WWW_Authenticate=f'Bearer realm="{realm}"')) as host,
        Registry(f"{host}/a", plain_http=True) as registry,
    ):
        with pytest.raises(Terminal, match="expected a URL") as refusal:
            await registry.manifest("latest")
    assert refusal.value.reason == "RegistryRefused"


@pytest.mark.parametrize("token", [b'{"token":"a\\r\\nX-Other: b"}', b'{"token":""}', b"[]", b"<html>"])
async def test_a_token_that_is_none_is_told(token: bytes) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            return web.Response(body=token)
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{request.host}/token"'})

    async with served(handler) as host, Registry(f"{host}/a", plain_http=True) as registry:
        with pytest.raises(Terminal, match="gives no token"):
            await registry.manifest("latest")


async def test_pages_without_end_are_not_read_without_end() -> None:
    async with (
        served(answering(200, b'{"tags":[]}', Link='<>; rel="next"')) as host,
        Registry(f"{host}/a", plain_http=True) as registry,
    ):
        assert await registry.tags() == []
    async with (
        served(answering(200, b'{"tags":["1.0.0"]}', Link='<http://[::1>; rel="next"')) as host,
        Registry(f"{host}/a", plain_http=True) as registry,
    ):
        with pytest.raises(Terminal, match="next page"):
            await registry.tags()


@pytest.mark.parametrize("body", [b"null", b"[" * 100_000, b'{"tags":[1]}', b"\xff"])
async def test_an_answer_that_is_none_is_told(body: bytes) -> None:
    async with served(answering(200, body)) as host, Registry(f"{host}/a", plain_http=True) as registry:
        with pytest.raises(EdgeError, match="tags"):
            await registry.tags()
