"""The socket of a server that strangers reach: HTTP over TLS, or plain.

aiohttp gets to know a connection when its handshake is done, so what strangers can hold open before that is bounded
here: aiohttp's own sites have no limit for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from functools import partial

import structlog
from aiohttp import web
from prometheus_client import Counter

from crds.errors import Terminal
from spire.serving.guard import Guard

log = structlog.get_logger(__name__)

BACKLOG = 128
IDLE_SECONDS = 75.0
PAUSE_SECONDS = 0.1
STOP_SECONDS = 3.0


@contextlib.asynccontextmanager
async def serving(
    app: web.Application, address: tuple[str, int], *, tls: ssl.SSLContext | None, guard: Guard, refused: Counter
) -> AsyncIterator[None]:
    """Serve until the context ends, which ends streams at once and gives requests in hand a moment.

    Args:
        app: what answers.
        address: host and port.
        tls: None for plain HTTP.
        guard: bounds its connections.
        refused: counts the handshakes that come to nothing.

    Raises:
        Terminal: the address cannot be listened on.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=STOP_SECONDS,
        # A body that is small on the wire and large in memory is nobody's reservation.
        auto_decompress=False,
    )
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101 - it was set up in the line before
    try:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_cancelled, asyncio.create_task(guard.watch(server)))
            for listener in await _listeners(*address):
                stack.callback(listener.close)
                scheme = "http" if tls is None else "https"
                log.info("listening", url=f"{scheme}://{_place(listener)}")
                await stack.enter_async_context(_accepting(listener, _Doorway(server, tls, guard, refused)))
            yield
    finally:
        await runner.cleanup()


async def _listeners(host: str, port: int) -> list[socket.socket]:
    """One for each address that the host has."""
    loop = asyncio.get_running_loop()
    listeners: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.settimeout(0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Else [::] would take the port of 0.0.0.0 too.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(place)
            listener.listen(BACKLOG)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise Terminal(f"--listen {host}:{port}: {error.strerror or error}", reason="NoPort") from error
    return listeners


def _place(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{host}:{port}"


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


@contextlib.asynccontextmanager
async def _accepting(listener: socket.socket, doorway: _Doorway) -> AsyncIterator[None]:
    task = asyncio.create_task(doorway.run(listener))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task, *doorway.handshakes])


class _Doorway:
    """Connections that are not yet aiohttp's.

    Attributes:
        handshakes: under way, the oldest first.
    """

    def __init__(self, server: web.Server, tls: ssl.SSLContext | None, guard: Guard, refused: Counter) -> None:
        self._server = server
        self._tls = tls
        self._guard = guard
        self._refused = refused
        self.handshakes: dict[asyncio.Task[None], None] = {}

    async def run(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    # Out of descriptors, most likely: connections that end bring some back.
                    log.warning("cannot accept", error=str(error))
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                if len(self.handshakes) >= self._guard.max_handshakes:
                    oldest = next(iter(self.handshakes))
                    oldest.cancel()
                    self._ended(oldest)
                    self._guard.cuts.labels("slow_handshake").inc()
                task = asyncio.create_task(self._admit(connection))
                self.handshakes[task] = None
                task.add_done_callback(self._ended)
        finally:
            for task in self.handshakes:
                task.cancel()

    async def _admit(self, connection: socket.socket) -> None:
        connect = partial(asyncio.get_running_loop().connect_accepted_socket, self._server, connection)
        try:
            if self._tls is None:
                await connect()
            else:
                await connect(ssl=self._tls, ssl_handshake_timeout=self._guard.handshake_seconds)
        except ssl.SSLCertVerificationError as error:
            log.info("peer refused", error=error.strerror or str(error))
            self._refused.inc()
        except OSError as error:
            log.debug("no handshake", error=str(error))
            self._refused.inc()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.handshakes.pop(task, None)
