"""One connection of a device: what it may publish goes to the ingest, what is for it is sent.

Nothing here awaits. Each way is bounded: towards us by the receive maximum, the device's pace and the size of a packet,
towards the device by its own receive maximum and a short queue. Where a bound is reached we read no more, and TCP holds
the rest; only who breaks the protocol is cut.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum, auto
from typing import Any, Protocol, assert_never

import structlog

from router_manager.domain.admission import Access, Pace, is_pattern, matches
from router_manager.relay.listener.decoder import ConnectReader, ServerReader
from router_manager.relay.listener.limits import Counts, Limits
from router_manager.relay.listener.packets import (
    PINGRESP,
    Connect,
    FromClient,
    Goodbye,
    Pingreq,
    Reason,
    Subscribe,
    Unsubscribe,
    connack,
    disconnect,
    pubacks_refusing,
    suback,
    unsuback,
)
from router_manager.relay.mqtt.packets import ProtocolError, Puback, Publish, Received, Version, pubacks, publish
from router_manager.relay.mqtt.properties import MAXIMUM_PACKET_SIZE, RECEIVE_MAXIMUM, Properties
from spire.domain.spiffe_id import SpiffeId
from spire.tls import peer_of

log = structlog.get_logger(__name__)

_CONNECT_SECONDS = 10.0
_PACKET_SECONDS = 30.0
_GOODBYE_SECONDS = 5.0
_MAX_TOPICS = 4096
_MAX_FILTERS = 64
_MAX_WAITING = 256
_TOKEN_BYTES = 1024
_PUBLISH_OVERHEAD = 10


class Hub(Protocol):
    """What a client knows of the listener."""

    limits: Limits
    counts: Counts

    def join(self, client: Client) -> None:
        """It is connected, and has not said a word."""

    def enter(self, client: Client, connect: Connect, peer: SpiffeId | None) -> Access | Reason:
        """Decide about a client that introduces itself; from now on it is the one of its account."""

    def receive(self, client: Client, received: Received[Any]) -> None:
        """Take its messages; may pause it."""

    def leave(self, client: Client) -> None:
        """Its connection is gone."""


class Hold(Enum):
    """Why a client is not read."""

    SPOOL = auto()
    PACE = auto()
    WINDOW = auto()
    WRITES = auto()


class Client(asyncio.Protocol):
    """Lives as long as its connection."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._limits = hub.limits
        self._pace = Pace(per_second=hub.limits.per_second, burst=hub.limits.burst)
        self._transport: asyncio.Transport | None = None
        self._first: ConnectReader | None = ConnectReader(max_packet_bytes=hub.limits.packet_bytes)
        self._reader: ServerReader | None = None
        self._version = Version.V311
        self._keep_alive = 0.0
        self._heard_at = self._whole_at = self._loop.time()
        self._closing_at: float | None = None
        self._leaving = False
        self._held: set[Hold] = set()
        self._window = 0
        self._denied: set[bytes] = set()
        self._known: set[str] = set()
        self._will: Publish | None = None
        self._filters: dict[str, int] = {}
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._unanswered: set[int] = set()
        self._packet_id = 0
        self._their_maximum = 0xFFFF
        self._their_packet_bytes = 1 << 28
        self.access = Access(account="", topics=frozenset())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio, after the TLS handshake."""
        self._transport = transport  # type: ignore[assignment] # a stream connection has no other transport
        self._hub.join(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._closing_at is not None or self._leaving:
            return  # not taken, not acknowledged: the device sends it to the next life
        self._heard_at = self._loop.time()
        try:
            if self._first is not None:
                found = self._first.feed(data)
                if found is None:
                    return
                self._first = None
                connect, data = found
                self._open(connect)
            if data and self._reader is not None:
                self._take(self._reader.feed(data), len(data))
        except ProtocolError as error:
            self._hub.counts.malformed += 1
            log.info("malformed packet", account=self.access.account, error=str(error))
            if self._reader is None and error.code == Reason.UNSUPPORTED_VERSION:
                self._write(connack(Version.V311, Reason.UNSUPPORTED_VERSION))
            self.end(error.code)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        del exc
        self._transport = None
        self._closing_at = self._loop.time()
        self._hub.leave(self)
        if self._will is not None and not self._leaving and self.access.may_publish(self._will.topic):
            self._hub.counts.wills += 1
            self._hub.receive(self, Received([self._will], [], []))

    def pause_writing(self) -> None:
        """Called by asyncio: it does not read its answers."""
        self._hold(Hold.WRITES)

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._release(Hold.WRITES)

    def acknowledge(self, packet_ids: list[bytes]) -> None:
        """See Source."""
        self._window -= len(packet_ids)
        if self._denied:
            self._write(pubacks_refusing(packet_ids, self._denied))
            self._denied.difference_update(packet_ids)
        else:
            self._write(pubacks(packet_ids))
        if self._window < self._limits.receive_maximum:
            self._release(Hold.WINDOW)

    def pause(self) -> None:
        """See Source."""
        self._hold(Hold.SPOOL)

    def resume(self) -> None:
        """See Source."""
        self._release(Hold.SPOOL)

    def stray(self, topic: str) -> None:
        """See Source: a device goes on with what nobody wants at the moment."""

    def grant(self, access: Access) -> None:
        """It may do other things from the next message on."""
        if access != self.access:
            self.access = access
            self._known.clear()

    def send(self, topic: str, payload: bytes) -> bool:
        """Send a message, if it has subscribed to its topic; False where it has not, or its queue is full."""
        qualities = [quality for pattern, quality in self._filters.items() if matches(pattern, topic)]
        if not qualities or len(topic) + len(payload) + _PUBLISH_OVERHEAD > self._their_packet_bytes:
            return False
        if max(qualities) == 0:
            if Hold.WRITES in self._held:
                return False
            self._write(publish(version=self._version, topic=topic, payload=payload))
            return True
        if len(self._waiting) >= _MAX_WAITING:
            return False
        self._waiting.append((topic, payload))
        self._send_waiting()
        return True

    def tick(self, now: float) -> None:
        """Once a second: cut who is silent, too slow with a packet, or does not read its answers."""
        if self._closing_at is not None:
            if now - self._closing_at > _GOODBYE_SECONDS and self._transport is not None:
                self._transport.abort()
        elif self._is_overdue(now):
            self._hub.counts.timed_out += 1
            self.end(Reason.KEEP_ALIVE)

    def end(self, reason: int) -> None:
        """Cut the connection; MQTT 5 is told why. Its will is published, unless it has taken it back."""
        if self._closing_at is not None:
            return
        if self._reader is not None and self._version is Version.V5:
            self._write(disconnect(reason))
        self._close()

    def shut(self) -> None:
        """Take nothing more, and keep the will to ourselves: we go, or its word counts no longer."""
        self._leaving = True

    def _open(self, connect: Connect) -> None:
        self._version = connect.version
        answer = self._judge(connect)
        if isinstance(answer, Reason):
            self._hub.counts.refused += 1
            log.info("client refused", client_id=connect.client_id[:64], reason=answer.name)
            self._write(connack(connect.version, answer))
            self._close()
            return
        self._hub.counts.accepted += 1
        self.access = answer
        self._will = connect.will
        self._keep_alive = float(connect.keep_alive_seconds)
        self._reader = ServerReader(connect.version, max_packet_bytes=self._limits.packet_bytes)
        self._their_maximum = _number(connect.properties, RECEIVE_MAXIMUM, self._their_maximum)
        self._their_packet_bytes = _number(connect.properties, MAXIMUM_PACKET_SIZE, self._their_packet_bytes)
        self._write(connack(connect.version, Reason.SUCCESS, self._terms(connect)))

    def _judge(self, connect: Connect) -> Access | Reason:
        """What can be said without asking, then the hub's word; a refused one must not take anybody's place."""
        properties = connect.properties
        if _AUTHENTICATION_METHOD in properties:
            return Reason.BAD_METHOD
        if not _number(properties, RECEIVE_MAXIMUM, 1) or not _number(properties, MAXIMUM_PACKET_SIZE, 1):
            return Reason.PROTOCOL_ERROR
        if connect.version is Version.V311 and not connect.client_id and not connect.clean_start:
            return Reason.BAD_CLIENT_ID
        if connect.will_qos > 1:
            return Reason.QOS_NOT_SUPPORTED
        return self._hub.enter(self, connect, peer_of(self._transport))

    def _terms(self, connect: Connect) -> Properties:
        """What this server has not, and how much it takes. Sessions end with their connection."""
        terms: Properties = {
            _SESSION_EXPIRY: 0,
            RECEIVE_MAXIMUM: self._limits.receive_maximum,
            _MAXIMUM_QOS: 1,
            _RETAIN_AVAILABLE: 0,
            MAXIMUM_PACKET_SIZE: self._limits.packet_bytes,
            _SUBSCRIPTION_IDENTIFIERS: 0,
            _SHARED_SUBSCRIPTIONS: 0,
        }
        return terms if connect.client_id else {**terms, _ASSIGNED_CLIENT_ID: self.access.account}

    def _take(self, received: Received[FromClient], size_bytes: int) -> None:
        if received.publishes:
            self._publish(received)
        for packet in received.control:
            if self._closing_at is not None:
                return
            self._answer(packet)
        cost = len(received.publishes) + len(received.control) + size_bytes // _TOKEN_BYTES
        seconds = self._pace.spend(cost, now=self._loop.time())
        if seconds:
            if Hold.PACE not in self._held:
                self._hub.counts.throttled += 1
            self._hold(Hold.PACE)
            self._loop.call_later(seconds, self._release, Hold.PACE)

    def _publish(self, received: Received[FromClient]) -> None:
        self._window += len(received.packet_ids)
        if self._window > self._limits.receive_maximum:
            if self._version is Version.V5:
                raise ProtocolError("more messages on their way than agreed", code=Reason.RECEIVE_MAXIMUM)
            self._hold(Hold.WINDOW)
        publishes = received.publishes
        if not self._known.issuperset([message.topic for message in publishes]):
            publishes = self._permitted(publishes)
            if self._closing_at is not None:
                return
        # A reading that is marked as retained is a reading of now all the same; nothing is retained here.
        publishes = [each._replace(retained=False) if each.retained else each for each in publishes]
        self._hub.receive(self, Received(publishes, received.packet_ids, []))

    def _permitted(self, publishes: list[Publish]) -> list[Publish]:
        """Those that it may publish; the others are refused each by itself where the protocol has a word for it."""
        permitted = []
        for message in publishes:
            if self.access.may_publish(message.topic):
                if len(self._known) >= _MAX_TOPICS:
                    self._known.clear()
                self._known.add(message.topic)
                permitted.append(message)
                continue
            self._hub.counts.denied += 1
            if not message.packet_id:
                continue
            if self._version is Version.V311:
                # An acknowledgement would be a lie, and there is no other word (3.1.1, MQTT-3.3.5-2).
                self.end(Reason.NOT_AUTHORIZED)
                break
            self._denied.add(message.packet_id)
        return permitted

    def _answer(self, packet: FromClient) -> None:
        match packet:
            case Pingreq():
                self._write(PINGRESP)
            case Subscribe():
                codes = [self._subscribe(pattern, quality) for pattern, quality in packet.filters]
                self._write(suback(self._version, packet.packet_id, codes))
            case Unsubscribe():
                known = [self._filters.pop(pattern, None) is not None for pattern in packet.filters]
                codes = [Reason.SUCCESS if one else Reason.NO_SUBSCRIPTION for one in known]
                self._write(unsuback(self._version, packet.packet_id, codes))
            case Puback():
                self._unanswered.discard(packet.packet_id)
                self._send_waiting()
            case Goodbye():
                if packet.code != Reason.WITH_WILL:
                    self._will = None
                self._close()
            case _:
                assert_never(packet)

    def _subscribe(self, pattern: str, quality: int) -> int:
        """The code of one topic filter."""
        if not is_pattern(pattern):
            return Reason.BAD_FILTER
        if not self.access.may_subscribe(pattern):
            self._hub.counts.denied += 1
            return Reason.NOT_AUTHORIZED
        if pattern not in self._filters and len(self._filters) >= _MAX_FILTERS:
            return Reason.QUOTA_EXCEEDED
        self._filters[pattern] = min(quality, 1)
        return self._filters[pattern]

    def _send_waiting(self) -> None:
        while self._waiting and len(self._unanswered) < self._their_maximum:
            topic, payload = self._waiting.popleft()
            self._packet_id = self._packet_id % 0xFFFF + 1
            self._unanswered.add(self._packet_id)
            self._write(publish(version=self._version, topic=topic, payload=payload, packet_id=self._packet_id))

    def _is_overdue(self, now: float) -> bool:
        if self._reader is None:
            return now - self._whole_at > _CONNECT_SECONDS
        if Hold.WRITES in self._held:
            return now - self._whole_at > _PACKET_SECONDS
        if self._held:
            self._heard_at = self._whole_at = now  # it may well speak, we do not listen
        if self._reader.partial:
            return now - self._whole_at > _PACKET_SECONDS
        self._whole_at = now
        return bool(self._keep_alive) and now - self._heard_at > self._keep_alive * 1.5

    def _hold(self, hold: Hold) -> None:
        if not self._held and self._transport is not None and self._closing_at is None:
            self._transport.pause_reading()
        self._held.add(hold)

    def _release(self, hold: Hold) -> None:
        if hold not in self._held:
            return
        self._held.remove(hold)
        if not self._held and self._transport is not None and self._closing_at is None:
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and self._closing_at is None:
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        self._closing_at = self._loop.time()


def _number(properties: Properties, identifier: int, default: int) -> int:
    value = properties.get(identifier, default)
    return value if isinstance(value, int) else default


_SESSION_EXPIRY = 0x11
_ASSIGNED_CLIENT_ID = 0x12
_AUTHENTICATION_METHOD = 0x15
_MAXIMUM_QOS = 0x24
_RETAIN_AVAILABLE = 0x25
_SUBSCRIPTION_IDENTIFIERS = 0x29
_SHARED_SUBSCRIPTIONS = 0x2A
