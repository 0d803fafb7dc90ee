"""What the relay's tests meet outside: real HTTP targets whose answers are scripted, and a publisher."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from crds.egress import EgressPolicy
from crds.models.dataroute import ResolvedSource
from crds.models.delivery import Endpoint, PayloadFilter
from router_manager.domain.payload import Record
from router_manager.domain.table import Route, Table
from router_manager.relay.engine import Bounds, Relay
from router_manager.relay.mqtt.client import Session, SessionSettings
from router_manager.relay.mqtt.packets import Version, connect, publish
from router_manager.relay.targets.base import Exit
from router_manager.relay.targets.exits import Exits
from spire.domain.spiffe_id import SpiffeId
from spire.tls import peer_of

LIMIT_SECONDS = 30.0
LOOPBACK = EgressPolicy.parse(allowed=["127.0.0.0/8", "::1/128"])
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Target:
    """A web server on loopback. It answers 200, or what `answers` holds next; `refuse` answers all alike."""

    answers: deque[Answer] = field(default_factory=deque)
    always: Answer | None = None
    accepted: list[Any] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    port: int = 0
    tls: ssl.SSLContext | None = None
    decompress: bool = True
    """What came compressed is kept as it is, if not."""
    peers: list[SpiffeId | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Of the requests, by the clock of the loop."""

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/readings"

    @property
    def ids(self) -> list[int]:
        return [reading["id"] for reading in self.accepted]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        self.times.append(asyncio.get_running_loop().time())
        self.keys.append(request.headers.get("Idempotency-Key", ""))
        self.headers.append(request.headers)
        self.peers.append(peer_of(request.transport))
        answer = self.answers.popleft() if self.answers else self.always
        response = web.Response(text="ok") if answer is None else await answer(request)
        if 200 <= response.status < 300:
            self.accepted += orjson.loads(body) if body.startswith(b"[") else []
        return response


@asynccontextmanager
async def serving(target: Target) -> AsyncIterator[Target]:
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/{path:.*}", target.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, auto_decompress=target.decompress)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", target.port, ssl_context=target.tls).start()
    target.port = runner.addresses[0][1]
    try:
        yield target
    finally:
        await runner.cleanup()


def status(code: int, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(
            status=code, text=f"said {code}", headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    return answer


def source(topic: str = "a/b", *, flavor: str = "flavor-1", **values: str) -> ResolvedSource:
    return ResolvedSource(
        **{"flavor": flavor, "device": "device-1", "sensor": "t1", "node": "edge-1", "topic": topic, **values}
    )


def endpoint(target: Target | str, name: str = "target", **values: Any) -> Endpoint:
    return Endpoint(name=name, url=target if isinstance(target, str) else target.url, **values)


def route(
    *targets: Endpoint,
    topics: Iterable[str] = ("a/b",),
    uid: str = "route-1",
    passing: PayloadFilter | None = None,
    trust_domain: str | None = None,
) -> Route:
    sources = tuple(source(topic, flavor=f"flavor-{index}") for index, topic in enumerate(topics))
    return Route(
        uid=uid,
        namespace="test",
        name=uid,
        sources=sources,
        targets=targets,
        filter=passing,
        trust_domain=trust_domain,
    )


def table(*routes: Route) -> Table:
    return Table(routes=routes)


def record(number: int, payload: bytes = b'{"v":1}', *, topic: str = "a/b", at_ns: int | None = None) -> Record:
    return Record(number, number if at_ns is None else at_ns, topic, payload)


async def until(condition: Callable[[], object], *, what: str = "condition", limit: float = LIMIT_SECONDS) -> None:
    try:
        async with asyncio.timeout(limit):
            while not condition():  # noqa: ASYNC110 - what is waited for is of other processes, too
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{what} did not come true in {limit} s") from None


@asynccontextmanager
async def relay(
    state: Path,
    port: int,
    *,
    exits: Exit | None = None,
    version: Version = Version.V5,
    tls: ssl.SSLContext | None = None,
    **bounds: Any,
) -> AsyncIterator[Relay]:
    settings = SessionSettings(host="127.0.0.1", port=port, client_id="relay-under-test", version=version, tls=tls)
    exits = exits or Exits(LOOPBACK, timeout_seconds=2.0)
    async with Relay(state=state, session=settings, exits=exits, bounds=Bounds(**bounds)) as running:
        yield running


async def serve(running: Relay, *routes: Route) -> None:
    running.apply(table(*routes))
    await until(lambda: running.ready, what="subscription")


def session_of(running: Relay) -> Session:
    assert running.session is not None
    return running.session


async def publish_all(port: int, messages: Iterable[tuple[str, bytes]], *, tls: ssl.SSLContext | None = None) -> None:
    """At QoS 1; returns when the broker has acknowledged all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    writer.write(connect(version=Version.V311, client_id="", clean_start=True, keep_alive_seconds=0))
    assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
    count = 0
    for topic, payload in messages:
        count += 1
        writer.write(publish(version=Version.V311, topic=topic, payload=payload, packet_id=(count - 1) % 0xFFFF + 1))
        if count % 100 == 0:
            await writer.drain()
    async with asyncio.timeout(LIMIT_SECONDS):
        await reader.readexactly(4 * count)
    writer.close()


def numbered(ids: Iterable[int], topic: str = "a/b") -> list[tuple[str, bytes]]:
    return [(topic, orjson.dumps({"id": number, "v": number % 7})) for number in ids]
