"""One connection to another cluster's broker that publishes at QoS 1: a client without a session.

What was not acknowledged when the connection ends is published again, by the lane that owes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from router_manager.relay.mqtt.decoder import Decoder
from router_manager.relay.mqtt.packets import (
    DISCONNECT,
    Connack,
    Control,
    Disconnect,
    ProtocolError,
    Puback,
    Version,
    connect,
    publish,
)
from router_manager.relay.mqtt.properties import (
    MAXIMUM_PACKET_SIZE,
    MAXIMUM_QOS,
    REASON_STRING,
    RECEIVE_MAXIMUM,
    Properties,
)
from router_manager.relay.targets.credentials import Credential

_WINDOW = 1000
"""Messages on their way, where the broker does not want fewer."""
_IDLE_SECONDS = 60.0
_KEEP_ALIVE_SECONDS = 120
"""Longer than a connection is idle, so there is nothing to ping for."""
_MAX_PACKET_BYTES = 64 << 10
_REASONS = {
    1: "unsupported protocol version",
    2: "client identifier not valid",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorized",
    0x80: "unspecified error",
    0x83: "implementation specific error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x90: "topic name invalid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x99: "payload format invalid",
}
"""MQTT 5 section 2.4; the small ones are of MQTT 3.1.1 (section 3.2.2.3)."""


class BrokerError(OSError):
    """The broker refused the connection, or ended it."""


def reason_of(code: int) -> str:
    """What a code says."""
    return f"0x{code:02x} ({_REASONS[code]})" if code in _REASONS else f"0x{code:02x}"


@dataclass(slots=True)
class _Flight:
    """Messages of one lane on their way: the broker's codes by index, and how many are missing."""

    codes: list[int]
    missing: int
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Publisher(asyncio.Protocol):
    """Shared by the lanes to one broker; ends itself when nobody has used it for a minute."""

    def __init__(self, version: Version) -> None:
        self.ended: str | None = None
        """Why it can be used no more."""
        self.max_packet_bytes: int | None = None
        """What the broker takes; None where it does not say, as in MQTT 3.1.1."""
        self._version = version
        self._decoder = Decoder(version, max_packet_bytes=_MAX_PACKET_BYTES)
        self._connack: Connack | None = None
        self._answered = asyncio.Event()
        self._free: deque[int] = deque()
        self._freed = asyncio.Event()
        self._flying: dict[int, tuple[_Flight, int]] = {}
        self._acknowledged = 0
        self._idle: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio, after the handshake of TLS."""
        self._transport = transport  # type: ignore[assignment] # a stream connection has no other transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            for packet in self._decoder.feed(data).control:
                self._take(packet)
        except ProtocolError as error:
            self._end(f"malformed packet: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._end(str(exc) if exc else "the broker closed the connection")

    async def open(self, *, client_id: str, credential: Credential | None) -> None:
        """Say CONNECT, and learn what the broker takes.

        Raises:
            BrokerError: it refuses.
        """
        shown = None if credential is None else (credential.password or credential.token or "").encode()
        self._write(
            connect(
                version=self._version,
                client_id=client_id,
                clean_start=True,
                keep_alive_seconds=_KEEP_ALIVE_SECONDS,
                properties={MAXIMUM_PACKET_SIZE: _MAX_PACKET_BYTES},
                username=None if credential is None else credential.username or "",
                password=shown,
            )
        )
        await self._answered.wait()
        if self._connack is None:
            raise BrokerError(self.ended)
        code, said = self._connack.code, self._connack.properties
        if code:
            raise BrokerError(f"the broker refused the connection: {reason_of(code)}{_words(said)}")
        if said.get(MAXIMUM_QOS) == 0:
            raise BrokerError("the broker takes QoS 0 alone, which nobody acknowledges")
        window, largest = said.get(RECEIVE_MAXIMUM), said.get(MAXIMUM_PACKET_SIZE)
        self._free.extend(range(1, 1 + min(_WINDOW, window if isinstance(window, int) else _WINDOW)))
        self.max_packet_bytes = largest if isinstance(largest, int) else None

    async def publish(self, messages: Sequence[tuple[str, bytes]], *, patience_seconds: float) -> list[int]:
        """Publish in order.

        Args:
            messages: topics and payloads.
            patience_seconds: how long the broker may acknowledge nothing before the connection is ended.

        Returns:
            The broker's code for each message.

        Raises:
            BrokerError: the connection ended; some may have arrived.
        """
        if self._idle is not None:
            self._idle.cancel()
        flight = _Flight([0] * len(messages), len(messages))
        burst: list[bytes] = []
        try:
            for index, (topic, payload) in enumerate(messages):
                while not self._free:
                    self._write(b"".join(burst))
                    burst.clear()
                    self._freed.clear()
                    await self._until(self._freed, patience_seconds)
                packet_id = self._free.popleft()
                self._flying[packet_id] = flight, index
                burst.append(publish(version=self._version, topic=topic, payload=payload, packet_id=packet_id))
            self._write(b"".join(burst))
            await self._until(flight.done, patience_seconds)
        finally:
            if not self._flying:
                self._idle = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self.close)
        return flight.codes

    def close(self) -> None:
        """End it in order."""
        self._write(DISCONNECT)
        self._end("closed by the relay")

    async def _until(self, event: asyncio.Event, patience_seconds: float) -> None:
        """Wait for as long as the broker acknowledges anything at all."""
        while self.ended is None and not event.is_set():
            before = self._acknowledged
            try:
                async with asyncio.timeout(patience_seconds):
                    await event.wait()
            except TimeoutError:
                if self._acknowledged == before:
                    self._end("the broker does not acknowledge")
        if self.ended is not None:
            raise BrokerError(self.ended)

    def _take(self, packet: Control) -> None:
        match packet:
            case Connack() if not self._answered.is_set():
                self._connack = packet
                self._answered.set()
            case Puback(packet_id, code) if packet_id in self._flying:
                flight, index = self._flying.pop(packet_id)
                flight.codes[index] = code
                flight.missing -= 1
                self._acknowledged += 1
                self._free.append(packet_id)
                self._freed.set()
                if not flight.missing:
                    flight.done.set()
            case Disconnect(code, said):
                self._end(f"the broker ended the connection: {reason_of(code)}{_words(said)}")
            case _:
                self._end(f"the broker sent a {type(packet).__name__} that was not asked for")

    def _write(self, data: bytes) -> None:
        if self._transport is not None and self.ended is None:
            self._transport.write(data)

    def _end(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
            for flight, _ in self._flying.values():
                flight.done.set()
            self._freed.set()
            self._answered.set()
            if self._transport is not None:
                self._transport.close()


def _words(properties: Properties) -> str:
    said = properties.get(REASON_STRING)
    return f": {said}" if isinstance(said, str) and said else ""
