"""One TCP connection to the broker: bytes to messages, questions to answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from router_manager.relay.mqtt.decoder import Decoder
from router_manager.relay.mqtt.packets import (
    DISCONNECT,
    Connack,
    Control,
    Disconnect,
    Pingresp,
    ProtocolError,
    Puback,
    Received,
    Suback,
    Unsuback,
    Version,
    pubacks,
)

_ANSWER_SECONDS = 30.0
_GOODBYE_SECONDS = 1.0
_REST_SECONDS = 0.001
_BUSY_MESSAGES = 32
"""In such a time: from then on to be woken for a few costs more than to read them."""


class ConnectionLostError(Exception):
    """The connection ended; the session opens the next one."""


class Receiver(Protocol):
    """Who gets the messages."""

    def receive(self, connection: Connection, received: Received[Control]) -> None:
        """Take messages. Must not block; may call `connection.pause()`, and `acknowledge()` later."""


class Connection(asyncio.Protocol):
    """Lives from connect to the loss of the connection; never used again after that."""

    def __init__(
        self, receiver: Receiver, *, version: Version, max_packet_bytes: int, on_stray: Callable[[str], None]
    ) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.paused = False
        self._leaving = False
        self.malformed = False
        self.heard = True
        self._receiver = receiver
        self._on_stray = on_stray
        self._decoder = Decoder(version, max_packet_bytes=max_packet_bytes)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None
        self._recent = 0
        """Messages since `_recent_from`."""
        self._recent_from = 0.0
        self._answers: dict[tuple[type[Control], int], asyncio.Future[Control]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = transport  # type: ignore[assignment] # a stream connection has no other transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio: decode what arrived and hand it on."""
        self.heard = True
        if self._leaving:
            return  # not taken, not acknowledged: the broker sends it to the next life
        try:
            received = self._decoder.feed(data)
        except ProtocolError as error:
            self.malformed = True
            self._end(f"malformed packet: {error}")
            return
        if received.publishes:
            self._receiver.receive(self, received)
            self._rest(len(received.publishes))
        for packet in received.control:
            self._answer(packet)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._end(str(exc) if exc else "closed by the broker")

    def acknowledge(self, packet_ids: list[bytes]) -> None:
        """Send PUBACKs; on a connection that is gone they are dropped, and the broker sends the messages again."""
        if packet_ids:
            self.write(pubacks(packet_ids))

    def pause(self) -> None:
        """Read no more: TCP and the broker's window hold the flood."""
        if self._transport is not None and not self.paused and not self.lost.done():
            self.paused = True
            if self._resting is None:
                self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and self.paused and not self.lost.done():
            self.paused = False
            self.heard = True
            if self._resting is None:
                self._transport.resume_reading()

    def leave(self) -> None:
        """Take nothing more; acknowledgements of what was taken can still be sent."""
        self._leaving = True
        self.resume()

    def write(self, data: bytes) -> None:
        """Send the bytes of whole packets."""
        if self._transport is not None and not self.lost.done():
            self._transport.write(data)

    def stray(self, topic: str) -> None:
        """A message of a topic that nobody wants: the broker remembers it from an earlier life of the session."""
        self._on_stray(topic)

    async def ask(self, data: bytes, answer: type[Control], packet_id: int = 0) -> Control:
        """Send a packet and wait for its answer.

        Raises:
            ConnectionLostError: the connection ended, or there was no answer in half a minute of reading.
        """
        future: asyncio.Future[Control] = asyncio.get_running_loop().create_future()
        self._answers[answer, packet_id] = future
        self.write(data)
        while True:
            done, _ = await asyncio.wait((future, self.lost), timeout=_ANSWER_SECONDS, return_when="FIRST_COMPLETED")
            if future in done:
                return future.result()
            if self.lost.done():
                raise ConnectionLostError(self.lost.result())
            if not self.paused:  # else the answer waits behind messages that we do not read
                raise ConnectionLostError(f"no {answer.__name__} in {_ANSWER_SECONDS:.0f} s")

    async def close(self) -> None:
        """Say DISCONNECT, and let the broker end the connection.

        A socket that we close while something comes in is reset, and with it go acknowledgements that the broker has
        not read yet: it would send those messages again.
        """
        self.leave()
        self.write(DISCONNECT)
        await asyncio.wait((self.lost,), timeout=_GOODBYE_SECONDS)
        self._end("closed by us")

    def _rest(self, count: int) -> None:
        """Let a flood that comes in drops gather."""
        now = self._loop.time()
        if now - self._recent_from > _REST_SECONDS:
            self._recent, self._recent_from = 0, now
        self._recent += count
        if count < _BUSY_MESSAGES <= self._recent and not self.paused and not self.lost.done():
            assert self._transport is not None  # noqa: S101 - it brought what came
            self._transport.pause_reading()
            self._resting = self._loop.call_later(_REST_SECONDS, self._read_on)

    def _read_on(self) -> None:
        self._resting = None
        if self._transport is not None and not self.paused and not self.lost.done():
            self._transport.resume_reading()

    def _answer(self, packet: Control) -> None:
        match packet:
            case Connack():
                key: tuple[type[Control], int] = (Connack, 0)
            case Suback() | Unsuback() | Puback():
                key = (type(packet), packet.packet_id)
            case Disconnect():
                self._end(f"the broker disconnected with reason 0x{packet.code:02x}")
                return
            case Pingresp():
                return
        future = self._answers.pop(key, None)
        if future is None:
            self.malformed = True
            self._end(f"{type(packet).__name__} that was not asked for")
        elif not future.done():
            future.set_result(packet)

    def _end(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
        if self._transport is not None:
            self._transport.close()
