"""Bounds on what strangers can hold open: connections in all and of one peer, and those that never ask anything.

aiohttp bounds line, header and body sizes and the idle time between requests, but waits for ever for a first request.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from spire.issuer import metrics

SILENT_SECONDS: Final = 10.0
MAX_CONNECTIONS: Final = 2048
MAX_CONNECTIONS_OF_PEER: Final = 512


class Guard:
    """Of one server.

    Attributes:
        silent_seconds: until a connection has to have asked for something.
        max_connections: open at a time; the newest go first.
        max_of_peer: open at a time from one address.
    """

    def __init__(self) -> None:
        self.silent_seconds = SILENT_SECONDS
        self.max_connections = MAX_CONNECTIONS
        self.max_of_peer = MAX_CONNECTIONS_OF_PEER
        self._since: dict[RequestHandler, float] = {}
        self._asked: set[RequestHandler] = set()

    def asked(self, request: web.Request) -> None:
        """Its connection is of use; from here on aiohttp's own limits hold."""
        self._asked.add(request.protocol)

    async def watch(self, server: web.Server) -> None:
        """Cut connections that are silent or too many, until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self.silent_seconds / 10))
            self._sweep(server.connections, now=asyncio.get_running_loop().time())

    def _sweep(self, connections: list[RequestHandler], *, now: float) -> None:
        self._since = {each: self._since.get(each, now) for each in connections}
        self._asked.intersection_update(connections)
        of_peer: Counter[str] = Counter()
        for number, each in enumerate(sorted(connections, key=self._since.__getitem__)):
            address = _address(each)
            of_peer[address] += 1
            if each not in self._asked and now - self._since[each] > self.silent_seconds:
                _cut(each, "silent")
            elif number >= self.max_connections or of_peer[address] > self.max_of_peer:
                _cut(each, "too_many")


def _address(connection: RequestHandler) -> str:
    peer = connection.transport.get_extra_info("peername") if connection.transport is not None else None
    return str(peer[0]) if peer else ""


def _cut(connection: RequestHandler, why: str) -> None:
    """End a connection at once; what is not sent yet is lost."""
    if connection.transport is not None:
        connection.transport.abort()
        metrics.CONNECTIONS_CUT.labels(why).inc()
