"""MQTT control packets of a server: the ones that it reads beside PUBLISH as values, the ones it writes as bytes.

No I/O. Section numbers are of MQTT 5.0 (OASIS, 2019) unless 3.1.1 is named.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum

from router_manager.relay.mqtt.packets import Puback, Publish, Type, Version, packet
from router_manager.relay.mqtt.properties import Properties, encode_properties

PINGRESP = bytes([Type.PINGRESP << 4, 0])


class Reason(IntEnum):
    """Reason codes of MQTT 5 that a server uses (table 2-6)."""

    SUCCESS = 0x00
    WITH_WILL = 0x04
    NO_SUBSCRIPTION = 0x11
    MALFORMED = 0x81
    PROTOCOL_ERROR = 0x82
    UNSUPPORTED_VERSION = 0x84
    BAD_CLIENT_ID = 0x85
    NOT_AUTHORIZED = 0x87
    UNAVAILABLE = 0x88
    SHUTTING_DOWN = 0x8B
    BAD_METHOD = 0x8C
    KEEP_ALIVE = 0x8D
    TAKEN_OVER = 0x8E
    BAD_FILTER = 0x8F
    RECEIVE_MAXIMUM = 0x93
    PACKET_TOO_LARGE = 0x95
    QUOTA_EXCEEDED = 0x97
    QOS_NOT_SUPPORTED = 0x9B


# Return codes of 3.1.1 (table 3.1); what has none is an end without a CONNACK.
_RETURN_CODES = {
    Reason.SUCCESS: 0,
    Reason.UNSUPPORTED_VERSION: 1,
    Reason.BAD_CLIENT_ID: 2,
    Reason.UNAVAILABLE: 3,
    Reason.NOT_AUTHORIZED: 5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A client introduces itself (section 3.1). User name and password are read over: the certificate says who it is.

    Attributes:
        version: that it speaks.
        client_id: may be empty.
        clean_start: no session is to be taken up.
        keep_alive_seconds: 0 is none.
        will: what to publish when it goes without a word.
        will_qos: of that.
        properties: empty before MQTT 5.
    """

    version: Version
    client_id: str
    clean_start: bool
    keep_alive_seconds: int
    will: Publish | None
    will_qos: int
    properties: Properties


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Topic filters, each with the quality that is asked for."""

    packet_id: bytes
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Topic filters that are wanted no more."""

    packet_id: bytes
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pingreq:
    """The client is alive."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The client ends the connection; in MQTT 5 it may still want its will published."""

    code: int


FromClient = Subscribe | Unsubscribe | Pingreq | Goodbye | Puback


def connack(version: Version, reason: Reason, properties: Properties | None = None) -> bytes:
    """CONNACK without a session; empty where 3.1.1 has no code for the reason."""
    if version is Version.V5:
        return packet(Type.CONNACK << 4, bytes([0, reason]) + encode_properties(properties or {}))
    code = _RETURN_CODES.get(reason)
    return b"" if code is None else packet(Type.CONNACK << 4, bytes([0, code]))


def suback(version: Version, packet_id: bytes, codes: Sequence[int]) -> bytes:
    """SUBACK; 3.1.1 knows one code for all refusals."""
    if version is Version.V311:
        codes = [min(code, 0x80) for code in codes]
    return packet(Type.SUBACK << 4, packet_id + _no_properties(version) + bytes(codes))


def unsuback(version: Version, packet_id: bytes, codes: Sequence[int]) -> bytes:
    """UNSUBACK; 3.1.1 has no codes."""
    return packet(Type.UNSUBACK << 4, packet_id + (b"\0" + bytes(codes) if version is Version.V5 else b""))


def pubacks_refusing(packet_ids: Sequence[bytes], refused: Collection[bytes]) -> bytes:
    """PUBACKs of MQTT 5 in the given order, some of which say that the client may not publish there."""
    refusal = bytes([Reason.NOT_AUTHORIZED])
    return b"".join(b"\x40\x03" + each + refusal if each in refused else b"\x40\x02" + each for each in packet_ids)


def disconnect(reason: Reason | int) -> bytes:
    """DISCONNECT with a reason, which only MQTT 5 lets a server send."""
    return bytes([Type.DISCONNECT << 4, 1, reason])


def _no_properties(version: Version) -> bytes:
    return b"\0" if version is Version.V5 else b""
