"""What the relay reads of devices, brokers, targets and its own disk, for a fuzzer, with what has to hold besides."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from crds.models.dataroute import ResolvedSource
from crds.models.shaping import LineProtocol, Shape
from crds.predicate import compile_predicate
from router_manager.domain.encoding import Form, Writer
from router_manager.domain.payload import NOT_JSON, Record
from router_manager.domain.shaping import Unencodable
from router_manager.relay.http1.answers import NotHttpError, ReplyReader
from router_manager.relay.listener.decoder import ConnectReader, ServerReader
from router_manager.relay.mqtt.decoder import Decoder, PacketReader
from router_manager.relay.mqtt.packets import (
    ProtocolError,
    Version,
    connect,
    pubacks,
    publish,
    subscribe,
    unsubscribe,
)
from router_manager.relay.mqtt.properties import SESSION_EXPIRY_INTERVAL
from router_manager.relay.positions import PositionFile
from router_manager.relay.segment import MARK_BYTES, frame, parse

_LIMIT_BYTES = 4096
_MARK = bytes(range(1, MARK_BYTES + 1))
_SOURCE = ResolvedSource(flavor="f", device="d", sensor="s", node="n", topic="a/b", unit="Cel")
_PAYLOAD = b'{"t":21.5,"at":{"x":[1,2]},"ts":1700000000}'
_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
)
Reader = Callable[[Version], PacketReader[Any]]


def targets() -> dict[str, tuple[Callable[[bytes], object], tuple[bytes, ...]]]:
    """By name, what takes the bytes and good input to start from."""
    packets = tuple(bytes([version]) + _conversation(version) for version in Version)
    introductions = tuple(
        connect(
            version=version,
            client_id="d",
            clean_start=True,
            keep_alive_seconds=9,
            properties={SESSION_EXPIRY_INTERVAL: 1},
            username="u",
            password=b"p",
        )
        for version in Version
    )
    answers = (b"\x04\x20\x02\x00\x00\x90\x03\x00\x01\x01\xd0\x00", b"\x05\x20\x03\x00\x00\x00\x40\x02\x00\x01")
    records = frame([Record(number, number, "a/b", _PAYLOAD) for number in range(1, 4)], mark=_MARK)
    shapes = (b'{"keep":["/t","/at/x/0"],"rename":[{"field":"/t","to":"f"}]}', b'{"convert":[{"field":"/t","to":"K"}]}')
    return {
        "http_answer": (_answer, _ANSWERS),
        "mqtt_connect": (_introduction, introductions),
        "mqtt_of_brokers": (lambda data: _packets(data, _client), packets + answers),
        "mqtt_of_devices": (lambda data: _packets(data, _server), packets),
        "position": (_position, (_position_file(),)),
        "predicate": (_predicate, (b'payload.t > 20 && has(payload.at) || payload.s == "on"\n' + _PAYLOAD,)),
        "shape": (_shape, tuple(shape + b"\n" + _PAYLOAD for shape in shapes)),
        "spool_segment": (_segment, (records,)),
    }


def _conversation(version: Version) -> bytes:
    return b"".join(
        [
            publish(version=version, topic="a/b", payload=b"1", packet_id=1),
            publish(version=version, topic="a/b", payload=b""),
            subscribe(version=version, packet_id=2, topics=["a/+", "#"]),
            unsubscribe(version=version, packet_id=3, topics=["a/+"]),
            pubacks([b"\0\1"]),
        ]
    )


def _client(version: Version) -> PacketReader[Any]:
    return Decoder(version, max_packet_bytes=_LIMIT_BYTES)


def _server(version: Version) -> PacketReader[Any]:
    return ServerReader(version, max_packet_bytes=_LIMIT_BYTES)


def _packets(data: bytes, reader: Reader) -> None:
    """However the bytes are cut, the same is read."""
    version, data = Version.V5 if data[:1] == b"\x05" else Version.V311, data[1:]
    middle = len(data) // 2
    assert _read(reader(version), data) == _read(reader(version), data[:middle], data[middle:])


def _read(reader: PacketReader[Any], *pieces: bytes) -> object:
    try:
        received = [reader.feed(piece) for piece in pieces]
    except ProtocolError:
        return None
    return [item for one in received for item in one.publishes], [item for one in received for item in one.control]


def _introduction(data: bytes) -> None:
    ConnectReader(max_packet_bytes=_LIMIT_BYTES).feed(data)


def _answer(data: bytes) -> None:
    """A byte at a time the same is read, as far as it is an answer."""
    whole = ReplyReader().feed(data)
    if whole is None or not whole.reusable:
        return
    reader = ReplyReader()
    replies = [reply for at in range(len(data)) if (reply := reader.feed(data[at : at + 1])) is not None]
    assert replies == [whole]


def _segment(data: bytes) -> None:
    """Reading in pieces finds the same records as reading at once."""
    whole = parse(data, mark=_MARK, final=True)
    assert whole.end <= len(data)
    first = parse(data[: len(data) // 2], mark=_MARK, final=False)
    rest = parse(data[first.end :], mark=_MARK, final=True)
    assert [one.id for one in whole.records] == [one.id for one in first.records + rest.records]


def _position(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        position = PositionFile(Path(file.name)).read()
    assert position is not None
    assert position >= 0


def _position_file() -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        lane = PositionFile(Path(file.name))
        lane.write(7)
        lane.write(8)
        return Path(file.name).read_bytes()


def _predicate(data: bytes) -> None:
    expression, _, payload = data.partition(b"\n")
    value = Record(1, 1, "a/b", payload).value
    predicate = compile_predicate(expression.decode("utf-8", "replace"))
    if value is not NOT_JSON:
        assert predicate.holds(value) in {True, False, None}


def _shape(data: bytes) -> None:
    """What is written is JSON, and a line is one line."""
    spec, _, payload = data.partition(b"\n")
    try:
        shape = Shape.model_validate_json(spec)
    except ValidationError:
        return
    record = Record(1, 1, "a/b", payload)
    written = Writer(Form(shape=shape, envelope=True), _SOURCE).write(record)
    if not isinstance(written, Unencodable):
        orjson.loads(written)
    line = Writer(Form(shape=shape, line=LineProtocol()), _SOURCE).write(record)
    if not isinstance(line, Unencodable):
        assert line.count(b"\n") == 1
        line.decode()


REFUSALS = (ProtocolError, NotHttpError)
