"""One persistent MQTT session that survives its connections.

`want()` says which topics are to be subscribed; the session converges on that, after each reconnect again. Messages
go to the receiver with the connection that they came on: a packet id means nothing on another one.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from router_manager.domain.batching import backoff_seconds
from router_manager.relay.mqtt.connection import Connection, ConnectionLostError, Receiver
from router_manager.relay.mqtt.packets import (
    PINGREQ,
    Connack,
    Puback,
    Suback,
    Unsuback,
    Version,
    connect,
    publish,
    subscribe,
    unsubscribe,
)
from router_manager.relay.mqtt.properties import (
    MAXIMUM_PACKET_SIZE,
    RECEIVE_MAXIMUM,
    SERVER_KEEP_ALIVE,
    SESSION_EXPIRY_INTERVAL,
    Properties,
)

log = structlog.get_logger(__name__)

_CONNECT_SECONDS = 10.0
_MAX_RECONNECT_SECONDS = 10.0
_STABLE_SECONDS = 10.0
_TOPICS_A_PACKET = 200
# MQTT 5 section 3.1.2.11.2; in 3.1.1 no session expires. Any other interval but 0 puts a session that is away on a list
# of mosquitto's, and up to 2.0.22 a SIGHUP puts it there twice: its memory is read after it came back (docs/broker.md).
# What waits for a relay that never comes is bounded by max_queued_bytes.
_NEVER = 0xFFFF_FFFF
_WINDOW = 2000
"""Messages that the broker may send ahead of our acknowledgements; as many may come twice when one side dies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """How the session is opened."""

    host: str
    port: int
    client_id: str
    version: Version = Version.V5
    keep_alive_seconds: int = 30
    max_packet_bytes: int = 2 << 20
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


class Session:
    """Connects, subscribes, keeps alive, and does it again when the connection is lost."""

    def __init__(
        self, settings: SessionSettings, receiver: Receiver, *, on_lost: Callable[[str, bool], None] = lambda *_: None
    ) -> None:
        """Prepare; nothing is sent before `run`.

        Args:
            settings: of the session.
            receiver: of the messages.
            on_lost: called with the reason when a connection ends, and whether it was for a malformed packet.
        """
        self.refused: set[str] = set()
        self.connected = False
        self._settings = settings
        self._receiver = receiver
        self._on_lost = on_lost
        self._wanted: frozenset[str] = frozenset()
        self._subscribed: set[str] = set()
        self._changed = asyncio.Event()
        self._packet_id = 0
        self._connection: Connection | None = None

    def shut(self) -> None:
        """Take nothing more from the broker; what was taken can still be acknowledged until `run` is cancelled."""
        if self._connection is not None:
            self._connection.leave()

    async def publish(self, topic: str, payload: bytes) -> None:
        """Send a message at QoS 1; the broker has it, or refuses it for good, when this returns.

        Raises:
            ConnectionLostError: there is no connection, or it ended before the answer.
        """
        if self._connection is None or not self.connected:
            raise ConnectionLostError("no connection to the broker")
        packet_id = self._next_packet_id()
        packet = publish(version=self._settings.version, topic=topic, payload=payload, packet_id=packet_id)
        answer = await self._connection.ask(packet, Puback, packet_id)
        if isinstance(answer, Puback) and answer.code >= 0x80:
            log.warning("the broker refuses a message", topic=topic, code=f"0x{answer.code:02x}")

    def want(self, topics: frozenset[str]) -> None:
        """Set the topics that are to be subscribed; takes effect at once, or when connected."""
        self._wanted = topics
        self._changed.set()

    def _stray(self, topic: str) -> None:
        if topic not in self._wanted:
            self._subscribed.add(topic)
            self._changed.set()

    @property
    def ready(self) -> bool:
        """Connected, and subscribed to all that is wanted."""
        return self.connected and self._wanted <= self._subscribed and not self.refused & self._wanted

    async def run(self) -> None:
        """Keep the session until cancelled."""
        attempt = 0
        while True:
            connection: Connection | None = None
            started = asyncio.get_running_loop().time()
            try:
                connection = self._connection = await self._connect()
                await self._serve(connection)
            except (OSError, TimeoutError, ConnectionLostError) as error:
                reason = str(error) or type(error).__name__
                log.warning("connection to the broker ended", reason=reason)
                self._on_lost(reason, connection is not None and connection.malformed)
            finally:
                self.connected, self._connection = False, None
                if connection is not None:
                    await connection.close()
            # Not reset by a mere CONNACK: two relays of one client id would throw each other out without a pause.
            attempt = 0 if asyncio.get_running_loop().time() - started > _STABLE_SECONDS else attempt + 1
            jitter = random.random()  # noqa: S311 - spreads reconnects, guards nothing
            await asyncio.sleep(backoff_seconds(attempt, jitter=jitter, most=_MAX_RECONNECT_SECONDS))

    async def _connect(self) -> Connection:
        settings = self._settings
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(
                    self._receiver,
                    version=settings.version,
                    max_packet_bytes=settings.max_packet_bytes,
                    on_stray=self._stray,
                ),
                settings.host,
                settings.port,
                ssl=settings.tls,
            )
        return connection

    async def _handshake(self, connection: Connection) -> int:
        """Open the session.

        Returns:
            The keep-alive in seconds, which an MQTT 5 broker may set.
        """
        settings = self._settings
        properties: Properties = {
            SESSION_EXPIRY_INTERVAL: _NEVER,
            RECEIVE_MAXIMUM: _WINDOW,
            MAXIMUM_PACKET_SIZE: settings.max_packet_bytes,
        }
        hello = connect(
            version=settings.version,
            client_id=settings.client_id,
            clean_start=False,
            keep_alive_seconds=settings.keep_alive_seconds,
            properties=properties,
            username=settings.username,
            password=settings.password,
        )
        answer = await connection.ask(hello, Connack)
        assert isinstance(answer, Connack)  # noqa: S101 - ask() matches answers by type
        if answer.code:
            raise ConnectionLostError(f"the broker refused the session with code 0x{answer.code:02x}")
        keep_alive = answer.properties.get(SERVER_KEEP_ALIVE, settings.keep_alive_seconds)
        return keep_alive if isinstance(keep_alive, int) and keep_alive > 0 else settings.keep_alive_seconds

    async def _serve(self, connection: Connection) -> None:
        keep_alive = await self._handshake(connection)
        self._subscribed = set()
        self.connected = True
        connection.lost.add_done_callback(lambda _: self._changed.set())
        while True:
            self._changed.clear()
            if connection.lost.done():
                raise ConnectionLostError(connection.lost.result())
            await self._converge(connection)
            try:
                async with asyncio.timeout(keep_alive / 2):
                    await self._changed.wait()
            except TimeoutError:
                if not connection.heard and not connection.paused:
                    raise ConnectionLostError("the broker does not answer pings") from None
                connection.heard = False
                connection.write(PINGREQ)
                self._subscribed -= self.refused  # ask again: the broker's access list may have changed

    async def _converge(self, connection: Connection) -> None:
        wanted = self._wanted
        missing, extra = sorted(wanted - self._subscribed), sorted(self._subscribed - wanted)
        for start in range(0, len(missing), _TOPICS_A_PACKET):
            topics = missing[start : start + _TOPICS_A_PACKET]
            packet_id = self._next_packet_id()
            packet = subscribe(version=self._settings.version, packet_id=packet_id, topics=topics)
            answer = await connection.ask(packet, Suback, packet_id)
            assert isinstance(answer, Suback)  # noqa: S101 - ask() matches answers by type
            if len(answer.codes) != len(topics):
                raise ConnectionLostError(f"SUBACK with {len(answer.codes)} codes for {len(topics)} topics")
            refused = {topic for topic, code in zip(topics, answer.codes, strict=True) if code >= 0x80}
            if refused - self.refused:
                log.warning("the broker refuses subscriptions", topics=sorted(refused)[:10])
            self.refused = (self.refused - set(topics)) | refused
            self._subscribed.update(topics)
        for start in range(0, len(extra), _TOPICS_A_PACKET):
            topics = extra[start : start + _TOPICS_A_PACKET]
            packet_id = self._next_packet_id()
            packet = unsubscribe(version=self._settings.version, packet_id=packet_id, topics=topics)
            await connection.ask(packet, Unsuback, packet_id)
            self._subscribed.difference_update(topics)
            self.refused.difference_update(topics)

    def _next_packet_id(self) -> int:
        self._packet_id = self._packet_id % 0xFFFF + 1
        return self._packet_id
