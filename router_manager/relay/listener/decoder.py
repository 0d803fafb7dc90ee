"""Bytes of a client in, packets out: first the CONNECT, which says the version, then everything else.

The PUBLISH loop is the one that also reads from brokers.
"""

from __future__ import annotations

from typing import TypeVar

from router_manager.relay.listener.packets import (
    Connect,
    FromClient,
    Goodbye,
    Pingreq,
    Reason,
    Subscribe,
    Unsubscribe,
)
from router_manager.relay.mqtt.decoder import PacketReader
from router_manager.relay.mqtt.packets import ProtocolError, Publish, Type, Version
from router_manager.relay.mqtt.properties import MalformedError, Properties, decode_properties, decode_variable

_MAX_FILTERS = 64
T = TypeVar("T")


class ConnectReader:
    """Waits for the first packet, which has to be a CONNECT."""

    def __init__(self, *, max_packet_bytes: int) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._data = b""

    def feed(self, data: bytes) -> tuple[Connect, bytes] | None:
        """Read on.

        Returns:
            The CONNECT and what came behind it; None while it is not whole.

        Raises:
            ProtocolError: it is none; its code is `UNSUPPORTED_VERSION` where another version would be understood.
        """
        self._data += data
        if self._data and self._data[0] != Type.CONNECT << 4:
            raise ProtocolError("the first packet is no CONNECT")
        if len(self._data) < 5 and not any(byte < 0x80 for byte in self._data[1:]):
            return None
        try:
            length, start = decode_variable(self._data, 1)
            if length > self._max_packet_bytes:
                raise ProtocolError(f"CONNECT of {length} bytes", code=Reason.PACKET_TOO_LARGE)
            if len(self._data) < start + length:
                return None
            return _connect(self._data[start : start + length]), self._data[start + length :]
        except MalformedError as error:
            raise ProtocolError(str(error)) from error


class ServerReader(PacketReader[FromClient]):
    """What a server reads after the CONNECT."""

    def _control(self, first: int, body: bytes) -> FromClient:  # noqa: C901 - one case a packet type
        kind, flags = first >> 4, first & 0x0F
        if flags != (2 if kind in {Type.SUBSCRIBE, Type.UNSUBSCRIBE} else 0):
            raise ProtocolError(f"reserved flags in packet 0x{first:02x}")
        match kind:
            case Type.SUBSCRIBE:
                return self._subscribe(body)
            case Type.UNSUBSCRIBE:
                fields = self._identified("UNSUBSCRIBE", body)
                filters = []
                while not fields.at_end:
                    filters.append(fields.text())
                return Unsubscribe(body[:2], _some("UNSUBSCRIBE", filters))
            case Type.PUBACK:
                return self._puback(body)
            case Type.PINGREQ:
                if body:
                    raise ProtocolError("PINGREQ with a body")
                return Pingreq()
            case Type.DISCONNECT:
                if body and not self._v5:
                    raise ProtocolError("DISCONNECT with a body")
                if len(body) > 1:
                    self._properties_to_end("DISCONNECT", body, 1)
                return Goodbye(body[0] if body else 0)
            case other:
                raise ProtocolError(f"packet type {other} is not for this server", code=Reason.PROTOCOL_ERROR)

    def _subscribe(self, body: bytes) -> Subscribe:
        fields = self._identified("SUBSCRIBE", body)
        filters = []
        while not fields.at_end:
            name, options = fields.text(), fields.number(1)
            # The quality's two bits; MQTT 5 has four more (3.8.3.1).
            if options & 3 == 3 or options & (0xC0 if self._v5 else 0xFC) or options & 0x30 == 0x30:
                raise ProtocolError(f"SUBSCRIBE with options 0x{options:02x}")
            filters.append((name, options & 3))
        return Subscribe(body[:2], _some("SUBSCRIBE", filters))

    def _identified(self, name: str, body: bytes) -> _Fields:
        fields = _Fields(name, body)
        if not fields.number(2):
            raise ProtocolError(f"{name} with packet id 0")
        if self._v5:
            fields.properties()
        return fields


def _connect(body: bytes) -> Connect:
    fields = _Fields("CONNECT", body)
    name, level = fields.text(), fields.number(1)
    if name not in {"MQTT", "MQIsdp"}:
        raise ProtocolError(f"protocol {name!r}")
    if name != "MQTT" or level not in list(Version):
        raise ProtocolError(f"{name} of level {level}", code=Reason.UNSUPPORTED_VERSION)
    version = Version(level)
    flags, keep_alive_seconds = fields.number(1), fields.number(2)
    has_will, will_qos, retained = bool(flags & 0x04), flags >> 3 & 3, bool(flags & 0x20)
    if flags & 0x01 or will_qos == 3 or (not has_will and (will_qos or retained)):
        raise ProtocolError(f"CONNECT with flags 0x{flags:02x}")
    if version is Version.V311 and flags & 0xC0 == 0x40:
        raise ProtocolError("CONNECT with a password and no user name")  # 3.1.1, 3.1.2.9
    properties: Properties = fields.properties() if version is Version.V5 else {}
    client_id, will = fields.text(), None
    if has_will:
        will = _will(fields, version)
    if flags & 0x80:
        fields.text()
    if flags & 0x40:
        fields.binary()
    if not fields.at_end:
        raise ProtocolError("CONNECT is longer than its fields")
    return Connect(
        version=version,
        client_id=client_id,
        clean_start=bool(flags & 0x02),
        keep_alive_seconds=keep_alive_seconds,
        will=will,
        will_qos=will_qos,
        properties=properties,
    )


def _will(fields: _Fields, version: Version) -> Publish:
    """Its delay need not be kept: the session ends with the connection, and the will goes with it (3.1.3.2.2)."""
    if version is Version.V5:
        fields.properties()
    topic, payload = fields.text(), fields.binary()
    if not topic or {"+", "#"} & set(topic):
        raise ProtocolError(f"will for topic {topic!r}")
    return Publish(topic, payload, retained=False)


class _Fields:
    """Reads the fields of a packet one after the other."""

    def __init__(self, name: str, body: bytes) -> None:
        self._name = name
        self._body = body
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._body)

    def number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def binary(self) -> bytes:
        return self._take(self.number(2))

    def text(self) -> str:
        try:
            text = self.binary().decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"{self._name}: text is not UTF-8") from error
        if "\0" in text:
            raise ProtocolError(f"{self._name}: text with a null character")
        return text

    def properties(self) -> Properties:
        properties, self._at = decode_properties(self._body, self._at)
        return properties

    def _take(self, size: int) -> bytes:
        data = self._body[self._at : self._at + size]
        if len(data) < size:
            raise ProtocolError(f"{self._name} is cut off")
        self._at += size
        return data


def _some(name: str, filters: list[T]) -> tuple[T, ...]:
    if not 0 < len(filters) <= _MAX_FILTERS:
        raise ProtocolError(f"{name} with {len(filters)} topic filters, expected 1 to {_MAX_FILTERS}")
    return tuple(filters)
