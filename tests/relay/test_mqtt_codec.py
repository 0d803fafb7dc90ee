"""The codec against the standard's bytes, against paho's packets, and against noise."""

import io
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

from router_manager.relay.mqtt.decoder import Decoder
from router_manager.relay.mqtt.packets import (
    DISCONNECT,
    PINGREQ,
    Connack,
    Disconnect,
    Pingresp,
    ProtocolError,
    Puback,
    Publish,
    Received,
    Suback,
    Unsuback,
    Version,
    connect,
    pubacks,
    publish,
    subscribe,
    unsubscribe,
)
from router_manager.relay.mqtt.properties import (
    MAXIMUM_PACKET_SIZE,
    REASON_STRING,
    SESSION_EXPIRY_INTERVAL,
    USER_PROPERTY,
    decode_properties,
    encode_properties,
)

BOTH = pytest.mark.parametrize("version", list(Version))
TOPIC = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="+#\0"), min_size=1, max_size=20)


def decoder(version: Version, limit: int = 1 << 20) -> Decoder:
    return Decoder(version, max_packet_bytes=limit)


class PahoWire(paho.Client):
    """paho's own packet writer, with the socket replaced by a buffer."""

    def __init__(self, version: Version) -> None:
        protocol = MQTTProtocolVersion.MQTTv5 if version is Version.V5 else MQTTProtocolVersion.MQTTv311
        clean = None if version is Version.V5 else False
        super().__init__(CallbackAPIVersion.VERSION2, client_id="relay", clean_session=clean, protocol=protocol)
        self._clean_start = False
        self._sock: Any = io.BytesIO()  # or it refuses to publish
        self.written = io.BytesIO()

    def _packet_queue(
        self, command: int, packet: bytes | bytearray, mid: int, qos: int, info: paho.MQTTMessageInfo | None = None
    ) -> MQTTErrorCode:
        """Keep what paho would have sent."""
        del command, mid, qos, info
        self.written.write(bytes(packet))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def take(self) -> bytes:
        data = self.written.getvalue()
        self.written = io.BytesIO()
        return data


@BOTH
def test_connect_is_what_paho_writes(version: Version) -> None:
    wire = PahoWire(version)
    wire.username_pw_set("user", "secret")
    properties = None
    if version is Version.V5:
        properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's lacks annotations
        properties.SessionExpiryInterval = 60
        properties.MaximumPacketSize = 1000
        wire._connect_properties = properties
    wire._send_connect(30)
    ours = connect(
        version=version,
        client_id="relay",
        clean_start=False,
        keep_alive_seconds=30,
        properties={SESSION_EXPIRY_INTERVAL: 60, MAXIMUM_PACKET_SIZE: 1000},
        username="user",
        password=b"secret",
    )
    assert ours == wire.take()


@BOTH
def test_subscribe_and_unsubscribe_are_what_paho_writes(version: Version) -> None:
    wire = PahoWire(version)
    options: Any = 1
    if version is Version.V5:
        options = SubscribeOptions(qos=1, retainHandling=2)
    wire._send_subscribe(False, [(b"a/b", options), ("é/c".encode(), options)])
    assert subscribe(version=version, packet_id=1, topics=["a/b", "é/c"]) == wire.take()
    wire._send_unsubscribe(False, [b"a/b"])
    assert unsubscribe(version=version, packet_id=2, topics=["a/b"]) == wire.take()


@BOTH
def test_small_packets_are_what_paho_writes(version: Version) -> None:
    wire = PahoWire(version)
    wire._send_pingreq()
    assert wire.take() == PINGREQ
    wire._send_disconnect()
    assert wire.take() == DISCONNECT
    wire._send_puback(7)
    assert wire.take() == pubacks([b"\0\7"])
    assert pubacks([]) == b""


@BOTH
@given(topic=TOPIC, payload=st.binary(max_size=400), quality=st.integers(0, 1), retain=st.booleans())
@settings(max_examples=60)
def test_what_paho_publishes_is_read_and_written_alike(
    version: Version, topic: str, payload: bytes, quality: int, retain: bool
) -> None:
    wire = PahoWire(version)
    wire._send_publish(513, topic.encode(), payload, quality, retain)
    packet = wire.take()
    received = decoder(version).feed(packet)
    its_id = b"\2\1" if quality else b""
    assert received == Received([Publish(topic, payload, retain, its_id)], [its_id] if quality else [], [])
    packet_id = 513 if quality else None
    assert publish(version=version, topic=topic, payload=payload, packet_id=packet_id, retain=retain) == packet


@BOTH
@given(data=st.data())
@settings(max_examples=60)
def test_messages_survive_any_cut_of_the_stream(version: Version, data: st.DataObject) -> None:
    messages = data.draw(st.lists(st.tuples(TOPIC, st.binary(max_size=300), st.integers(1, 65535)), max_size=8))
    stream = b"".join(publish(version=version, topic=t, payload=p, packet_id=i) for t, p, i in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader, found, ids = decoder(version), [], []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received = reader.feed(stream[start:end])
        found += received.publishes
        ids += received.packet_ids
    assert [(message.topic, message.payload) for message in found] == [(t, p) for t, p, _ in messages]
    assert ids == [i.to_bytes(2, "big") for _, _, i in messages]


def test_a_message_may_carry_properties_of_mqtt_5() -> None:
    properties = encode_properties(
        {0x01: 1, 0x02: 60, 0x03: "application/json", USER_PROPERTY: [("k", "v"), ("k", "w")]}
    )
    body = b"\0\1t" + b"\0\1" + properties + b"payload"
    received = decoder(Version.V5).feed(bytes([0x32, len(body)]) + body)
    assert received.publishes == [Publish("t", b"payload", False, b"\0\1")]


@pytest.mark.parametrize(
    ("version", "packet", "expected"),
    [
        (Version.V311, "20020100", Connack(True, 0)),
        (Version.V311, "20020005", Connack(False, 5)),
        (Version.V5, "200600000321000a", Connack(False, 0, {0x21: 10})),
        (Version.V5, "20020084", Connack(False, 0x84)),
        (Version.V311, "9004000a0180", Suback(10, (1, 0x80))),
        (Version.V5, "9005000a000187", Suback(10, (1, 0x87))),
        (Version.V311, "b002000a", Unsuback(10, ())),
        (Version.V5, "b004000a0011", Unsuback(10, (0x11,))),
        (Version.V311, "40020007", Puback(7)),
        (Version.V5, "4003000710", Puback(7, 0x10)),
        (Version.V5, "400400078700", Puback(7, 0x87)),
        (Version.V311, "d000", Pingresp()),
        (Version.V5, "e000", Disconnect(0)),
        (Version.V5, "e0018e", Disconnect(0x8E)),
        (Version.V5, "e0078d051f00026f6b", Disconnect(0x8D, {REASON_STRING: "ok"})),
    ],
)
def test_control_packets_are_read(version: Version, packet: str, expected: object) -> None:
    assert decoder(version).feed(bytes.fromhex(packet)).control == [expected]


@pytest.mark.parametrize(
    ("version", "packet", "message"),
    [
        (Version.V311, "3000", "without a topic"),
        (Version.V311, "30020000", "topic ''"),
        (Version.V311, "3003000123", "topic '#'"),
        (Version.V311, "30030001ff", "not UTF-8"),
        (Version.V311, "30030009ff", "cut off"),
        (Version.V311, "32050001610000", "packet id 0"),
        (Version.V311, "34050001610001", "quality of service"),
        (Version.V311, "36050001610001", "quality of service"),
        (Version.V311, "320400016100", "cut off"),
        (Version.V5, "320400016100", "cut off"),
        (Version.V5, "3206000161000105", "longer than their packet"),
        (Version.V5, "3006000161025500", "unknown property"),
        (Version.V5, "30080001610401000101", "twice"),
        (Version.V311, "30ffffffff7f", "longer than four bytes"),
        (Version.V311, "20020200", "CONNACK"),
        (Version.V311, "2003000000", "CONNACK"),
        (Version.V311, "90020001", "without a code"),
        (Version.V311, "900100", "SUBACK of 1"),
        (Version.V311, "400100", "PUBACK of 1"),
        (Version.V311, "4003000100", "PUBACK of 3"),
        (Version.V311, "d00100", "with a body"),
        (Version.V311, "e000", "not for a client"),
        (Version.V311, "50020001", "not for a client"),
        (Version.V311, "62020001", "reserved flags"),
        (Version.V5, "f000", "not for a client"),
        (Version.V5, "0000", "not for a client"),
        (Version.V5, "e0038d0000", "too many"),
    ],
)
def test_what_a_server_may_not_send_is_refused(version: Version, packet: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decoder(version).feed(bytes.fromhex(packet))


def test_a_packet_larger_than_agreed_is_refused_before_it_is_there() -> None:
    with pytest.raises(ProtocolError, match="at most 1000"):
        decoder(Version.V5, 1000).feed(b"\x30\xe9\x07")


@BOTH
@given(st.lists(st.binary(max_size=60), max_size=6))
@example([b"\x30"])
@example([b"\x30\x80", b"\x80", b"\x80", b"\x80"])
@example([b"\x30\xff\xff\xff", b"\x7f"])
@settings(max_examples=400)
def test_noise_raises_nothing_but_protocol_error(version: Version, chunks: list[bytes]) -> None:
    reader = decoder(version)
    try:
        for chunk in chunks:
            reader.feed(chunk)
    except ProtocolError:
        pass


@BOTH
@given(
    kind=st.integers(0, 255),
    body=st.binary(max_size=40),
    cut=st.integers(0, 40),
)
@settings(max_examples=400)
def test_packets_with_noise_inside_raise_nothing_but_protocol_error(
    version: Version, kind: int, body: bytes, cut: int
) -> None:
    packet = bytes([kind, len(body)]) + body
    reader = decoder(version)
    try:
        for chunk in (packet[:cut], packet[cut:]):
            reader.feed(chunk)
    except ProtocolError:
        return
    assert reader.feed(PINGRESP).control == [Pingresp()], "whatever was accepted was accepted whole"


PINGRESP = bytes.fromhex("d000")
VALUES: dict[int, Any] = {
    0x01: st.integers(0, 255),
    0x02: st.integers(0, 2**32 - 1),
    0x03: st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    0x09: st.binary(max_size=10),
    0x0B: st.lists(st.integers(0, 268_435_455), min_size=1, max_size=3),
    0x13: st.integers(0, 65535),
    USER_PROPERTY: st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=3).filter(
        lambda pairs: "\ud800" not in repr(pairs)
    ),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
@settings(max_examples=100)
def test_properties_are_read_as_they_were_written(properties: dict[int, Any]) -> None:
    data = encode_properties(properties)
    assert decode_properties(b"x" + data + b"rest", 1) == (properties, 1 + len(data))


def test_a_string_longer_than_mqtt_has_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535"):
        subscribe(version=Version.V5, packet_id=1, topics=["x" * 65536])
