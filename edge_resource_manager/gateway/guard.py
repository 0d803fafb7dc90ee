"""Bounds on what strangers can hold open: requests at a time, connections, and connections that never ask anything.

aiohttp bounds line, header and body sizes and the idle time between requests, but waits for ever for a first request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from edge_resource_manager.gateway import metrics
from edge_resource_manager.gateway.problems import Rejected

FIRST_REQUEST_SECONDS = 10.0
MAX_CONNECTIONS = 1024
MAX_REQUESTS = 128


class Guard:
    """Of one server.

    Attributes:
        max_requests: answered at a time; event streams have a bound of their own.
        max_connections: open at a time; the newest go first.
        first_request_seconds: until a connection has to have asked for something.
    """

    def __init__(self) -> None:
        self.max_requests = MAX_REQUESTS
        self.max_connections = MAX_CONNECTIONS
        self.first_request_seconds = FIRST_REQUEST_SECONDS
        self._requests = 0
        self._since: dict[RequestHandler, float] = {}
        self._asked: set[RequestHandler] = set()

    def asked(self, request: web.Request) -> None:
        """Its connection is of use; from here on aiohttp's own limits hold."""
        self._asked.add(request.protocol)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of the requests that are answered at a time.

        Raises:
            Rejected: 503.
        """
        if self._requests >= self.max_requests:
            raise Rejected(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at a time", after=1)
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def watch(self, server: web.Server) -> None:
        """Cut connections that are too slow or too many, until cancelled."""
        while True:
            await asyncio.sleep(self.first_request_seconds / 10)
            self._sweep(server.connections, now=asyncio.get_running_loop().time())

    def _sweep(self, connections: list[RequestHandler], *, now: float) -> None:
        self._since = {each: self._since.get(each, now) for each in connections}
        self._asked.intersection_update(connections)
        for each, since in self._since.items():
            if each not in self._asked and now - since > self.first_request_seconds:
                cut(each, "slow_request")
        for each in connections[self.max_connections :]:
            cut(each, "too_many")


def cut(connection: RequestHandler, why: str) -> None:
    """End a connection at once; what is not sent yet is lost."""
    if connection.transport is not None:
        connection.transport.abort()
        metrics.CONNECTIONS_CUT.labels(why).inc()
