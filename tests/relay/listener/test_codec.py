"""The server's side of the codec: what paho writes is read, what the standard forbids is refused, noise is no crash."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

from router_manager.relay.listener.decoder import ConnectReader, ServerReader
from router_manager.relay.listener.packets import (
    Connect,
    Goodbye,
    Pingreq,
    Reason,
    Subscribe,
    Unsubscribe,
    connack,
    pubacks_refusing,
    suback,
    unsuback,
)
from router_manager.relay.mqtt.decoder import Decoder
from router_manager.relay.mqtt.packets import (
    Connack,
    ProtocolError,
    Puback,
    Publish,
    Suback,
    Unsuback,
    Version,
    connect,
)
from router_manager.relay.mqtt.properties import RECEIVE_MAXIMUM
from tests.relay.test_mqtt_codec import BOTH, PahoWire

HELLO = connect(version=Version.V311, client_id="d", clean_start=True, keep_alive_seconds=30)


def reader(version: Version, limit: int = 1 << 20) -> ServerReader:
    return ServerReader(version, max_packet_bytes=limit)


def introduced(data: bytes) -> Connect:
    found = ConnectReader(max_packet_bytes=1 << 20).feed(data)
    assert found is not None
    said, rest = found
    assert rest == b""
    return said


@BOTH
@pytest.mark.parametrize("cut", [0, 1, 2, 10, 30])
def test_the_connect_of_paho_is_read_wherever_it_is_cut(version: Version, cut: int) -> None:
    wire = PahoWire(version)
    wire.username_pw_set("user", "secret")
    properties = None
    if version is Version.V5:
        properties = PahoProperties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call] # paho's lacks annotations
        properties.WillDelayInterval = 5
        wire._connect_properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # as above
        wire._connect_properties.ReceiveMaximum = 7
    wire.will_set("device/x/gone", b"bye", qos=1, properties=properties)
    wire._send_connect(30)
    data = wire.take() + b"\xc0\0"
    first = ConnectReader(max_packet_bytes=1000)
    found = first.feed(data[:cut]) or first.feed(data[cut:])
    assert found is not None
    said, rest = found
    assert rest == b"\xc0\0"
    assert said == Connect(
        version=version,
        client_id="relay",
        clean_start=False,
        keep_alive_seconds=30,
        will=Publish("device/x/gone", b"bye", retained=False),
        will_qos=1,
        properties={RECEIVE_MAXIMUM: 7} if version is Version.V5 else {},
    )


@BOTH
def test_what_paho_asks_is_read(version: Version) -> None:
    wire = PahoWire(version)
    options: Any = SubscribeOptions(qos=1) if version is Version.V5 else 1
    wire._send_subscribe(False, [(b"a/b", options), (b"c/#", options)])
    wire._send_unsubscribe(False, [b"a/b"])
    wire._send_pingreq()
    wire._send_puback(258)
    wire._send_disconnect()
    assert reader(version).feed(wire.take()).control == [
        Subscribe(b"\0\1", (("a/b", 1), ("c/#", 1))),
        Unsubscribe(b"\0\2", ("a/b",)),
        Pingreq(),
        Puback(258),
        Goodbye(0),
    ]


@BOTH
def test_our_client_reads_what_the_server_writes(version: Version) -> None:
    answers = connack(version, Reason.SUCCESS) + suback(version, b"\0\1", [1, Reason.NOT_AUTHORIZED])
    answers += unsuback(version, b"\0\2", [Reason.SUCCESS])
    new = version is Version.V5
    assert Decoder(version, max_packet_bytes=1000).feed(answers).control == [
        Connack(session_present=False, code=0),
        Suback(1, (1, 0x87 if new else 0x80)),
        Unsuback(2, (0,) if new else ()),
    ]


def test_pubacks_stay_in_order_when_some_refuse() -> None:
    found = Decoder(Version.V5, max_packet_bytes=99).feed(pubacks_refusing([b"\0\1", b"\0\2", b"\0\3"], {b"\0\2"}))
    assert found.control == [Puback(1), Puback(2, Reason.NOT_AUTHORIZED), Puback(3)]


def hello(old: bytes = b"", new: bytes = b"") -> bytes:
    """A CONNECT in which something is not as it was."""
    body = HELLO[2:].replace(old, new) if old else HELLO[2:] + new
    return bytes([0x10, len(body)]) + body


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (b"\xc0\0", "no CONNECT"),
        (b"\x11\0", "no CONNECT"),
        (b"\x10\0", "cut off"),
        (b"\x10\xff\xff\xff\xff\x7f", "longer than four bytes"),
        (b"\x10\x80\x80\x40", "CONNECT of 1048576 bytes"),
        (hello(b"MQTT", b"MQTx"), "protocol 'MQTx'"),
        (hello(b"MQTT\4", b"MQTT\6"), "level 6"),
        (hello(b"MQTT\4\2", b"MQTT\4\3"), "flags 0x03"),
        (hello(b"MQTT\4\2", b"MQTT\4\x1e"), "flags 0x1e"),
        (hello(b"MQTT\4\2", b"MQTT\4\x22"), "flags 0x22"),
        (hello(b"MQTT\4\2", b"MQTT\4\x42"), "password and no user"),
        (hello(b"MQTT\4\2\0\x1e", b"MQTT\5\2\0\x1e\x50"), "properties are longer"),
        (hello(new=b"x"), "longer than its fields"),
        (hello(b"\0\1d", b"\0\2d"), "cut off"),
        (hello(b"\0\1d", b"\0\1\xff"), "not UTF-8"),
        (hello(b"\0\1d", b"\0\1\0"), "null character"),
    ],
)
def test_what_is_no_connect_is_refused(packet: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        ConnectReader(max_packet_bytes=1 << 19).feed(packet)


@pytest.mark.parametrize(
    ("version", "packet", "code", "message"),
    [
        (Version.V311, HELLO.hex(), 0x82, "type 1 is not"),
        (Version.V311, "20020000", 0x82, "type 2 is not"),
        (Version.V5, "34060001610001" + "00", 0x9B, "quality"),
        (Version.V311, "3606000161000178", 0x81, "quality"),
        (Version.V311, "30020000", 0x81, "topic ''"),
        (Version.V311, "800600010001612000", 0x81, "reserved flags"),
        (Version.V311, "82020001", 0x81, "0 topic filters"),
        (Version.V311, "8206000100016103", 0x81, "options 0x03"),
        (Version.V311, "8206000100016104", 0x81, "options 0x04"),
        (Version.V5, "820700010000016131", 0x81, "options 0x31"),
        (Version.V311, "8206000000016101", 0x81, "packet id 0"),
        (Version.V311, "82050001000261", 0x81, "cut off"),
        (Version.V311, "a2020001", 0x81, "0 topic filters"),
        (Version.V311, "50020001", 0x82, "type 5"),
        (Version.V311, "60020001", 0x82, "type 6"),
        (Version.V5, "f000", 0x82, "type 15"),
        (Version.V311, "c00100", 0x81, "with a body"),
        (Version.V311, "e00100", 0x81, "with a body"),
        (Version.V5, "e003000000", 0x81, "too many"),
        (Version.V311, "400100", 0x81, "PUBACK of 1"),
        (Version.V5, "30ffff40", 0x95, "at most"),
    ],
)
def test_what_a_client_may_not_send_is_refused_with_a_reason(
    version: Version, packet: str, code: int, message: str
) -> None:
    with pytest.raises(ProtocolError, match=message) as refused:
        reader(version, 1000).feed(bytes.fromhex(packet))
    assert refused.value.code == code


@BOTH
@given(kind=st.integers(0, 255), body=st.binary(max_size=60), cut=st.integers(0, 60))
@example(kind=0x82, body=b"\0\1\0\1a", cut=2)
@settings(max_examples=600, deadline=None)
def test_noise_in_a_packet_of_any_type_raises_nothing_but_protocol_error(
    version: Version, kind: int, body: bytes, cut: int
) -> None:
    packet = bytes([kind, len(body)]) + body
    server = reader(version)
    try:
        for chunk in (packet[:cut], packet[cut:]):
            server.feed(chunk)
    except ProtocolError:
        return
    assert server.feed(b"\xc0\0").control == [Pingreq()], "whatever was accepted was accepted whole"


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_a_connect_with_flipped_bytes_is_read_or_refused(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from(list(Version)))
    packet = bytearray(connect(version=version, client_id="dev", clean_start=True, keep_alive_seconds=9, username="u"))
    for at in data.draw(st.lists(st.integers(0, len(packet) - 1), max_size=4)):
        packet[at] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        ConnectReader(max_packet_bytes=1000).feed(bytes(packet))


@given(st.lists(st.binary(max_size=40), max_size=5))
@settings(max_examples=200, deadline=None)
def test_noise_instead_of_a_connect_is_refused_or_waited_for(chunks: list[bytes]) -> None:
    first = ConnectReader(max_packet_bytes=1000)
    with suppress(ProtocolError):
        for chunk in chunks:
            assert first.feed(chunk) is None
