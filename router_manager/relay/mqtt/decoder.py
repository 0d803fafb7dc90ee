"""The hot path of the relay: bytes of a socket in, messages out.

One read of a busy socket holds hundreds of PUBLISH packets; they are decoded in one loop without a call a packet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from struct import Struct
from typing import Generic

from router_manager.relay.mqtt.packets import (
    C,
    Connack,
    Control,
    Disconnect,
    Pingresp,
    ProtocolError,
    Puback,
    Publish,
    Received,
    Suback,
    Type,
    Unsuback,
    Version,
)
from router_manager.relay.mqtt.properties import MalformedError, Properties, decode_properties, decode_variable

_MAX_TOPICS = 65_536
_MAX_LENGTH_BYTES = 4


class PacketReader(ABC, Generic[C]):
    """Keeps what is left of the last read. After a ProtocolError it must not be fed again."""

    def __init__(self, version: Version, *, max_packet_bytes: int) -> None:
        self._v5 = version is Version.V5
        self._max_packet_bytes = max_packet_bytes
        self._rest = bytearray()
        self._needed = 0
        self._topics: dict[bytes, str] = {}

    @property
    def partial(self) -> bool:
        """Whether a packet has begun and not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Received[C]:
        """Decode all packets that are complete.

        Raises:
            ProtocolError: the bytes are no MQTT that the other side may send.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return Received([], [], [])
            data = bytes(self._rest)
            self._rest.clear()
        try:
            return self._decode(data)
        except MalformedError as error:
            raise ProtocolError(str(error)) from error

    def _decode(self, data: bytes) -> Received[C]:  # noqa: C901, PLR0912, PLR0915 - one loop: a call a packet costs as much as its decoding
        publishes: list[Publish] = []
        packet_ids: list[bytes] = []
        control: list[C] = []
        topics, v5, max_packet_bytes = self._topics, self._v5, self._max_packet_bytes
        new = tuple.__new__  # what Publish() calls, without its Python frame
        heads = data + _PADDING  # so that the last one can be read as the others are
        position, available = 0, len(data)
        needed = 2
        while available - position >= 2:
            first, length, third, word = _HEAD.unpack_from(heads, position)
            if length <= 0x7F:
                start, topic_length = position + 2, third << 8 | word >> 8
            elif 0 < third <= 0x7F:
                start, topic_length = position + 3, word
                length = length & 0x7F | third << 7
            else:
                if available - position <= _MAX_LENGTH_BYTES and data[position + 1 :].strip(_CONTINUED) == b"":
                    needed = available - position + 1
                    break
                length, start = decode_variable(data, position + 1)
                topic_length = int.from_bytes(data[start : start + 2], "big")
            if length > max_packet_bytes:
                raise ProtocolError(f"packet of {length} bytes, at most {max_packet_bytes} were agreed", code=0x95)
            end = start + length
            if end > available:
                needed = end - position
                break
            if first & 0xF0 == 0x30:
                if length < 2:
                    raise ProtocolError("PUBLISH without a topic")
                at = start + 2 + topic_length
                name = data[start + 2 : at]
                quality = first & 0x06
                packet_id = b""
                if quality == 2:
                    packet_id = data[at : at + 2]
                    at += 2
                    if packet_id == b"\0\0":
                        raise ProtocolError("PUBLISH with packet id 0")
                    packet_ids.append(packet_id)
                elif quality:
                    raise ProtocolError(
                        "PUBLISH of a quality of service that was not agreed", code=0x9B if quality == 4 else 0x81
                    )
                if v5:
                    if at < end and not data[at]:
                        at += 1
                    else:
                        _, used = decode_properties(data[at:end], 0)
                        at += used
                if at > end:
                    raise ProtocolError("PUBLISH is cut off")
                topic = topics.get(name) or self._topic(name)
                publishes.append(new(Publish, (topic, data[at:end], first & 1 == 1, packet_id)))
            else:
                control.append(self._control(first, data[start:end]))
            position = end
        if position < available:
            self._rest += data[position:]
            self._needed = needed
        return Received(publishes, packet_ids, control)

    def _topic(self, name: bytes) -> str:
        try:
            topic = name.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("topic is not UTF-8") from error
        if not topic or "+" in topic or "#" in topic or "\0" in topic:
            # Empty would need a topic alias, of which this client allows none.
            raise ProtocolError(f"PUBLISH with topic {topic!r}")
        if len(self._topics) >= _MAX_TOPICS:
            self._topics.clear()
        self._topics[name] = topic
        return topic

    @abstractmethod
    def _control(self, first: int, body: bytes) -> C:
        """Read a packet that is no PUBLISH.

        Raises:
            ProtocolError: it is malformed, or not for this side.
            MalformedError: its properties are.
        """

    def _puback(self, body: bytes) -> Puback:
        if len(body) < 2 or (not self._v5 and len(body) > 2):
            raise ProtocolError(f"PUBACK of {len(body)} bytes")
        if len(body) > 3:
            self._properties_to_end("PUBACK", body, 3)
        return Puback(int.from_bytes(body[:2], "big"), body[2] if len(body) > 2 else 0)

    def _properties_to_end(self, name: str, body: bytes, start: int) -> Properties:
        properties, end = decode_properties(body, start)
        if end != len(body):
            raise ProtocolError(f"{name} has {len(body) - end} bytes too many")
        return properties


class Decoder(PacketReader[Control]):
    """What a client reads."""

    def _control(self, first: int, body: bytes) -> Control:
        if first & 0x0F:
            raise ProtocolError(f"reserved flags in packet 0x{first:02x}")
        match first >> 4:
            case Type.CONNACK:
                return self._connack(body)
            case Type.SUBACK:
                packet_id, codes = self._acknowledgement("SUBACK", body)
                if not codes:
                    raise ProtocolError("SUBACK without a code")
                return Suback(packet_id, codes)
            case Type.UNSUBACK:
                return Unsuback(*self._acknowledgement("UNSUBACK", body))
            case Type.PUBACK:
                return self._puback(body)
            case Type.PINGRESP:
                if body:
                    raise ProtocolError("PINGRESP with a body")
                return Pingresp()
            case Type.DISCONNECT if self._v5:
                properties = self._properties_to_end("DISCONNECT", body, 1) if len(body) > 1 else {}
                return Disconnect(body[0] if body else 0, properties)
            case other:
                raise ProtocolError(f"packet type {other} is not for a client")

    def _connack(self, body: bytes) -> Connack:
        if len(body) < 2 or body[0] > 1 or (not self._v5 and len(body) > 2):
            raise ProtocolError(f"CONNACK {body[:8].hex()}")
        if not self._v5:
            return Connack(body[0] == 1, body[1])
        # A server that does not know MQTT 5 refuses it in the form of 3.1.1, without properties (3.1.2.2).
        return Connack(body[0] == 1, body[1], self._properties_to_end("CONNACK", body, 2) if len(body) > 2 else {})

    def _acknowledgement(self, name: str, body: bytes) -> tuple[int, tuple[int, ...]]:
        at = 2
        if len(body) < at:
            raise ProtocolError(f"{name} of {len(body)} bytes")
        if self._v5:
            _, at = decode_properties(body, at)
        return int.from_bytes(body[:2], "big"), tuple(body[at:])


_CONTINUED = bytes(range(0x80, 0x100))
_HEAD = Struct(">BBBH")
"""Type, one or two bytes of the length, and the length of a PUBLISH's topic with the byte in front of it or behind."""
_PADDING = bytes(3)
