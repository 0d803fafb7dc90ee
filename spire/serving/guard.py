"""Bounds on the connections of a server: in all, of one peer, those that never ask anything, handshakes at a time.

aiohttp bounds line, header and body sizes and the idle time between requests, but waits for ever for a first request.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from prometheus_client import Counter as Metric


@dataclass(kw_only=True)
class Guard:
    """Of one server.

    Attributes:
        cuts: connections that were ended, by why: silent, too_many, slow_handshake, and what its server adds.
        silent_seconds: until a connection has to have asked for something.
        max_connections: open at a time; the newest go first.
        max_of_peer: open at a time from one address.
        max_handshakes: under way at a time; the oldest go first, since an honest one takes milliseconds.
        handshake_seconds: that one may take.
    """

    cuts: Metric
    silent_seconds: float = 10.0
    max_connections: int = 2048
    max_of_peer: int = 512
    max_handshakes: int = 128
    handshake_seconds: float = 5.0
    _since: dict[RequestHandler, float] = field(default_factory=dict)
    _asked: set[RequestHandler] = field(default_factory=set)

    def asked(self, request: web.Request) -> None:
        """Its connection is of use; from here on aiohttp's own limits hold."""
        self._asked.add(request.protocol)

    def cut(self, connection: RequestHandler, why: str) -> None:
        """End a connection at once; what is not sent yet is lost."""
        if connection.transport is not None:
            connection.transport.abort()
            self.cuts.labels(why).inc()

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
                self.cut(each, "silent")
            elif number >= self.max_connections or of_peer[address] > self.max_of_peer:
                self.cut(each, "too_many")


def _address(connection: RequestHandler) -> str:
    peer = connection.transport.get_extra_info("peername") if connection.transport is not None else None
    return str(peer[0]) if peer else ""
