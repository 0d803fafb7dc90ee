"""One connection to a target: a request, its answer, and the next."""

from __future__ import annotations

import asyncio

from router_manager.relay.http1.answers import NotHttpError, Reply, ReplyReader


class StaleError(OSError):
    """A kept connection was closed before anything of an answer came."""


class Connection(asyncio.Protocol):
    """Belongs to one request at a time."""

    def __init__(self) -> None:
        self.rested_at = 0.0
        """When its last request was done, by the clock of the loop."""
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._answered: asyncio.Future[Reply] | None = None
        self._used = False
        self._lost = False

    @property
    def at_rest(self) -> bool:
        """It is open, and all of its request has been sent."""
        return not self._lost and self._transport is not None and self._transport.get_write_buffer_size() == 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio, after the handshake."""
        self._transport = transport  # type: ignore[assignment] # a stream connection has no other transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        answered = self._answered
        if answered is None or answered.done():
            self.close()  # an answer that nobody asked for
            return
        try:
            reply = self._reader.feed(data)
        except NotHttpError as error:
            answered.set_exception(error)
        else:
            if reply is not None:
                answered.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._lost = True
        answered = self._answered
        if answered is None or answered.done():
            return
        try:
            if self._used and not self._reader.begun:
                raise StaleError("closed while it was idle")
            answered.set_result(self._reader.end(exc))
        except OSError as error:
            answered.set_exception(error)

    async def ask(self, head: bytes, body: bytes) -> Reply:
        """Send a request and wait for its answer.

        Raises:
            StaleError: it was closed while it was idle; the request can go elsewhere.
            TimeoutError: somebody gave it up.
            OSError: the connection or the answer failed.
        """
        if self._transport is None or self._lost:
            raise StaleError("closed while it was idle")
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        reply = await self._answered
        self._used, self._answered, self._reader = True, None, ReplyReader()
        return reply

    def give_up(self) -> None:
        """Wait no longer for the answer."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(TimeoutError())

    def close(self) -> None:
        """At once, whatever is on its way."""
        self._lost = True
        if self._transport is not None:
            self._transport.abort()
