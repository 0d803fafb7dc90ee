"""POSTs over connections that are kept, to addresses that the egress policy allows.

Which connection may be used again is said by where it leads and by the context that its handshake was made with: no
peer that was proven for one expectation is used for another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from crds.egress import EgressPolicy, host_and_port
from router_manager.relay.dial import dial
from router_manager.relay.http1.answers import Reply
from router_manager.relay.http1.connection import Connection, StaleError

_IDLE_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_URL_CHARACTERS = "/?#[]@!$&'()*+,;=:%"


class _Place(NamedTuple):
    """Where a connection leads; without TLS there is no context."""

    host: str
    port: int
    context: ssl.SSLContext | None


class HttpClient:
    """Makes connections when they are needed, and keeps them for a minute."""

    def __init__(self, policy: EgressPolicy, *, timeout_seconds: float, user_agent: str) -> None:
        """Prepare.

        Args:
            policy: where targets may be.
            timeout_seconds: for a whole request.
            user_agent: what the relay calls itself.
        """
        self._policy = policy
        self._timeout_seconds = timeout_seconds
        self._user_agent = user_agent
        self._busy: dict[Connection, float] = {}
        """When the answer is due. A timer for each request would cost as much as reading the answer."""
        self._watching: asyncio.TimerHandle | None = None
        self._idle: dict[_Place, list[Connection]] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._system_roots: ssl.SSLContext | None = None

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, context: ssl.SSLContext | None = None
    ) -> Reply:
        """Send one request, and wait for its answer. Redirects are not followed.

        Args:
            url: `http` or `https`.
            body: of the request.
            headers: of the request, without those of the connection and the body's length.
            context: for `https`; None has the system's roots.

        Raises:
            EgressRefusedError: the policy forbids every address of the host.
            TimeoutError: there was no whole answer in time.
            OSError: no connection, or no answer; also of TLS.
            ValueError: a header that is none.
        """
        host, port, secure, start = _parsed(url)
        place = _Place(host, port, (context or self._roots()) if secure else None)
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = f"{start}User-Agent: {self._user_agent}\r\n{''.join(lines)}Content-Length: {len(body)}\r\n\r\n"
        if head.count("\n") != len(lines) + 5:
            raise ValueError("a header with a line break")
        request = head.encode()
        due = asyncio.get_running_loop().time() + self._timeout_seconds
        while (kept := self._take(place)) is not None:
            try:
                return await self._exchange(place, kept, request, body, due=due)
            except StaleError:
                continue
        async with asyncio.timeout_at(due):
            made = await self._connect(place)
        return await self._exchange(place, made, request, body, due=due)

    async def close(self) -> None:
        """Close what is idle."""
        for timer in (self._sweeping, self._watching):
            if timer is not None:
                timer.cancel()
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # transports close with the next round of the loop

    async def _exchange(self, place: _Place, connection: Connection, head: bytes, body: bytes, *, due: float) -> Reply:
        loop = asyncio.get_running_loop()
        self._busy[connection] = due
        self._watching = self._watching or loop.call_later(_LOOK_SECONDS, self._watch)
        try:
            reply = await connection.ask(head, body)
        except BaseException:
            connection.close()
            raise
        finally:
            del self._busy[connection]
        if reply.reusable and connection.at_rest:
            connection.rested_at = loop.time()
            self._idle.setdefault(place, []).append(connection)
            self._sweeping = self._sweeping or loop.call_later(_IDLE_SECONDS, self._sweep)
        else:
            connection.close()
        return reply

    def _take(self, place: _Place) -> Connection | None:
        """The one that was used last, so that the others can go."""
        connections = self._idle.get(place)
        return connections.pop() if connections else None

    def _watch(self) -> None:
        """Give up answers that are late."""
        loop = asyncio.get_running_loop()
        for connection, due in self._busy.items():
            if due <= loop.time():
                connection.give_up()
        self._watching = loop.call_later(_LOOK_SECONDS, self._watch) if self._busy else None

    def _sweep(self) -> None:
        """Close what has been idle for a minute: also what nobody will ask for, since its context is renewed."""
        loop = asyncio.get_running_loop()
        oldest = loop.time() - _IDLE_SECONDS
        for place, connections in list(self._idle.items()):
            self._idle[place] = [connection for connection in connections if connection.rested_at > oldest]
            for connection in connections:
                if connection.rested_at <= oldest:
                    connection.close()
            if not self._idle[place]:
                del self._idle[place]
        self._sweeping = loop.call_later(_IDLE_SECONDS, self._sweep) if self._idle else None

    async def _connect(self, place: _Place) -> Connection:
        return await dial(
            Connection,
            place.host,
            place.port,
            context=place.context,
            policy=self._policy,
            seconds=self._timeout_seconds / 2,
        )

    def _roots(self) -> ssl.SSLContext:
        if self._system_roots is None:
            self._system_roots = ssl.create_default_context()
        return self._system_roots


@lru_cache(maxsize=8192)
def _parsed(url: str) -> tuple[str, int, bool, str]:
    """Host, port, whether it is https, and the first lines of a request."""
    host, port = host_and_port(url)
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe=_URL_CHARACTERS)
    query = f"?{quote(parts.query, safe=_URL_CHARACTERS)}" if parts.query else ""
    name = parts.netloc.encode("idna").decode() if not parts.netloc.isascii() else parts.netloc
    return host, port, parts.scheme == "https", f"POST {path}{query} HTTP/1.1\r\nHost: {name}\r\n"
