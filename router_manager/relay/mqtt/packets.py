"""MQTT control packets: the ones a client reads as values, the ones it writes as bytes.

No I/O. Section numbers are of MQTT 5.0 (OASIS, 2019) unless 3.1.1 is named. QoS 2 is not spoken: the relay asks for
at most QoS 1, and duplicates are told by the record's content, not by the transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar

from router_manager.relay.mqtt.properties import Properties, encode_properties

MAX_REMAINING_LENGTH = 268_435_455
C = TypeVar("C")
"""The packets that one side reads beside PUBLISH."""


class ProtocolError(Exception):
    """The other side sent bytes that are not MQTT; the connection has to be closed.

    Attributes:
        code: what MQTT 5 calls it (section 2.4).
    """

    def __init__(self, message: str, *, code: int = 0x81) -> None:
        super().__init__(message)
        self.code = code


class Version(IntEnum):
    """Protocol level in CONNECT."""

    V311 = 4
    V5 = 5


class Type(IntEnum):
    """Control packet types (section 2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Publish(NamedTuple):
    """One application message; `retained` marks the broker's stored copy, sent because of a new subscription.

    `packet_id` is two bytes as they came, none at QoS 0.
    """

    topic: str
    payload: bytes
    retained: bool
    packet_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Connack:
    """Answer to CONNECT; `code` 0 is success."""

    session_present: bool
    code: int
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suback:
    """Answer to SUBSCRIBE: one code a filter, 0x80 and above is a refusal."""

    packet_id: int
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unsuback:
    """Answer to UNSUBSCRIBE; 3.1.1 has no codes."""

    packet_id: int
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Puback:
    """The broker has our QoS 1 message; a code of 0x80 and above says that it refused it (MQTT 5)."""

    packet_id: int
    code: int = 0


@dataclass(frozen=True, slots=True)
class Pingresp:
    """Answer to PINGREQ."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The broker ends the connection and says why (MQTT 5)."""

    code: int
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received(Generic[C]):
    """What one read of the socket held.

    Attributes:
        publishes: messages in order of receipt.
        packet_ids: of those among them that want a PUBACK, in the same order, as the two bytes that came.
        control: the other packets in their order.
        times: when other relays took the messages, nanoseconds since the epoch; None where that is now.
    """

    publishes: list[Publish]
    packet_ids: list[bytes]
    control: list[C]
    times: list[int] | None = None


Control = Connack | Suback | Unsuback | Puback | Pingresp | Disconnect

PINGREQ = bytes([Type.PINGREQ << 4, 0])
DISCONNECT = bytes([Type.DISCONNECT << 4, 0])
"""Normal end; in MQTT 5 the session lives on for its expiry interval, in 3.1.1 because it is not clean."""


def connect(
    *,
    version: Version,
    client_id: str,
    clean_start: bool,
    keep_alive_seconds: int,
    properties: Properties | None = None,
    username: str | None = None,
    password: bytes | None = None,
) -> bytes:
    """CONNECT without a will (section 3.1)."""
    flags = (0x02 if clean_start else 0) | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    body = text_field("MQTT") + bytes([version, flags]) + keep_alive_seconds.to_bytes(2, "big")
    if version is Version.V5:
        body += encode_properties(properties or {})
    body += text_field(client_id)
    if username is not None:
        body += text_field(username)
    if password is not None:
        body += _binary(password)
    return packet(Type.CONNECT << 4, body)


def subscribe(*, version: Version, packet_id: int, topics: Sequence[str], qos: int = 1) -> bytes:
    """SUBSCRIBE (section 3.8). In MQTT 5 the broker's retained copies are not asked for (3.8.3.1: handling 2)."""
    options = qos | (0x20 if version is Version.V5 else 0)
    body = packet_id.to_bytes(2, "big") + (b"\x00" if version is Version.V5 else b"")
    body += b"".join([text_field(topic) + bytes([options]) for topic in topics])
    return packet(Type.SUBSCRIBE << 4 | 2, body)


def unsubscribe(*, version: Version, packet_id: int, topics: Sequence[str]) -> bytes:
    """UNSUBSCRIBE (section 3.10)."""
    body = packet_id.to_bytes(2, "big") + (b"\x00" if version is Version.V5 else b"")
    return packet(Type.UNSUBSCRIBE << 4 | 2, body + b"".join([text_field(topic) for topic in topics]))


def publish(
    *, version: Version, topic: str, payload: bytes, packet_id: int | None = None, retain: bool = False
) -> bytes:
    """PUBLISH (section 3.3): QoS 1 with a packet id, else QoS 0."""
    head = Type.PUBLISH << 4 | (0 if packet_id is None else 2) | retain
    body = text_field(topic) + (b"" if packet_id is None else packet_id.to_bytes(2, "big"))
    return packet(head, body + (b"\x00" if version is Version.V5 else b"") + payload)


def pubacks(packet_ids: Sequence[bytes]) -> bytes:
    """PUBACKs in the given order, which must be that of receipt (MQTT-4.6.0-2); the same bytes in both versions."""
    return b"\x40\x02" + b"\x40\x02".join(packet_ids) if packet_ids else b""


def packet(first: int, body: bytes) -> bytes:
    """A packet of its first byte and all that is behind the length.

    Raises:
        ValueError: it is longer than MQTT allows.
    """
    length = len(body)
    if length > MAX_REMAINING_LENGTH:
        msg = f"packet of {length} bytes: MQTT allows {MAX_REMAINING_LENGTH}"
        raise ValueError(msg)
    head = bytearray([first])
    while True:
        length, low = divmod(length, 128)
        head.append(low | (0x80 if length else 0))
        if not length:
            return bytes(head) + body


def text_field(text: str) -> bytes:
    """A string with its length in front (section 1.5.4).

    Raises:
        ValueError: it is longer than 65535 bytes.
    """
    return _binary(text.encode())


def _binary(data: bytes) -> bytes:
    if len(data) > 0xFFFF:
        msg = f"{len(data)} bytes: an MQTT string has at most 65535"
        raise ValueError(msg)
    return len(data).to_bytes(2, "big") + data
