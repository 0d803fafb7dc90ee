"""The gateway's socket: HTTP over mutual TLS, or plain.

aiohttp gets to know a connection when its handshake is done, so what strangers can hold open before that is bounded
here. When there are too many handshakes the oldest goes: an honest one takes milliseconds.
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

from crds.errors import Terminal
from edge_resource_manager.gateway import metrics

log = structlog.get_logger(__name__)

BACKLOG = 128
HANDSHAKE_SECONDS = 5.0
IDLE_SECONDS = 75.0
MAX_HANDSHAKES = 128
PAUSE_SECONDS = 0.1
STOP_SECONDS = 3.0


@contextlib.asynccontextmanager
async def serving(
    app: web.Application, address: tuple[str, int], *, tls: ssl.SSLContext | None
) -> AsyncIterator[web.Server]:
    """Serve until the context ends, which ends streams at once and gives requests in hand a moment.

    Args:
        app: what answers.
        address: host and port.
        tls: None for plain HTTP.

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
            for listener in await _listeners(*address):
                stack.callback(listener.close)
                log.info("listening", host=address[0], port=listener.getsockname()[1], tls=tls is not None)
                await stack.enter_async_context(_accepting(listener, server, tls=tls))
            yield server
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


@contextlib.asynccontextmanager
async def _accepting(listener: socket.socket, server: web.Server, *, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
    doorway = _Doorway(server, tls)
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

    def __init__(self, server: web.Server, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._tls = tls
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
                if len(self.handshakes) >= MAX_HANDSHAKES:
                    oldest = next(iter(self.handshakes))
                    oldest.cancel()
                    self._ended(oldest)
                    metrics.CONNECTIONS_CUT.labels("slow_handshake").inc()
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
                await connect(ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_SECONDS)
        except ssl.SSLCertVerificationError as error:
            log.info("peer refused", error=error.strerror or str(error))
            metrics.HANDSHAKES_REFUSED.inc()
        except OSError as error:
            log.debug("no handshake", error=str(error))
            metrics.HANDSHAKES_REFUSED.inc()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.handshakes.pop(task, None)
