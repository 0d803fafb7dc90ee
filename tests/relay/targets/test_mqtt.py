"""MQTT targets: real mosquittos, and brokers that misbehave."""

import asyncio
import getpass
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from crds.egress import EgressPolicy
from crds.models.addresses import Mqtt
from crds.models.delivery import Endpoint
from router_manager.domain.batching import Failure, Receipts
from router_manager.domain.table import Way
from router_manager.relay.mqtt.client import Session, SessionSettings
from router_manager.relay.targets.credentials import Credentials
from router_manager.relay.targets.exits import Exits
from scripts.testbed.broker import SEARCH_PATH, Broker
from scripts.testbed.processes import Child, accepts, free_port
from spire.helper import files
from spire.identity import FixedIdentity
from tests.relay.support import LOOPBACK, numbered, publish_all, record, relay, route, serve, until
from tests.relay.targets.support import batch, batch_of, credential, way_to
from tests.relay.test_session import Inbox, running
from tests.spire.pki import Ca

pytestmark = pytest.mark.broker
BOTH = pytest.mark.parametrize("version", ["3.1.1", "5"])


def to_broker(port: int, **values: Any) -> Endpoint:
    address = {"url": f"mqtt://127.0.0.1:{port}", "topic": "plant/{device}/{topic}", **values.pop("address", {})}
    return Endpoint.model_validate({"name": "target", "mqtt": Mqtt(**address), **values})


@contextmanager
def mosquitto(directory: Path, *lines: str) -> Iterator[int]:
    port = free_port()
    configuration = directory / "mosquitto.conf"
    configuration.write_text("\n".join([f"listener {port} 127.0.0.1", f"user {getpass.getuser()}", *lines, ""]))
    command = [shutil.which("mosquitto", path=SEARCH_PATH) or "mosquitto", "-v", "-c", str(configuration)]
    with Child(name="mosquitto", command=command, directory=directory) as child:
        child.wait_until(lambda: accepts(port), what="the broker", limit=10)
        yield port


def add_user(path: Path, name: str, password: str) -> None:
    program = shutil.which("mosquitto_passwd", path=SEARCH_PATH) or "mosquitto_passwd"
    subprocess.run([program, "-c", "-b", str(path), name, password], check=True)


@asynccontextmanager
async def listening(port: int, topic: str = "#") -> AsyncIterator[Inbox]:
    inbox = Inbox()
    session = Session(SessionSettings(host="127.0.0.1", port=port, client_id="listener"), inbox)
    session.want(frozenset([topic]))
    async with running(session):
        await until(lambda: session.ready, what="subscription")
        yield inbox


@BOTH
async def test_each_reading_is_a_message_and_order_is_kept(broker: Broker, version: str) -> None:
    exits = Exits(LOOPBACK)
    async with listening(broker.port, "plant/#") as inbox:
        way = way_to(to_broker(broker.port, address={"version": version}), topics=["a/b", "c"])
        payloads = [b"%d" % number for number in range(2000)]
        assert await exits.send(batch(way, *payloads)) == Receipts()
        assert await exits.send(batch(way, b"", b"\xff", topic="c")) == Receipts()
        await until(lambda: len(inbox.messages) == 2002)
        assert inbox.payloads == [*payloads, b"", b"\xff"]
        assert {message.topic for message in inbox.messages} == {"plant/device-1/a/b", "plant/device-1/c"}
    await exits.close()


async def test_lanes_to_one_broker_share_a_connection(tmp_path: Path) -> None:
    exits = Exits(LOOPBACK)
    with mosquitto(tmp_path, "allow_anonymous true") as port:
        async with listening(port, "plant/#") as inbox:
            ways = [way_to(to_broker(port, address={"topic": f"plant/{number}"})) for number in range(5)]
            answers = await asyncio.gather(*(exits.send(batch(way, *[b"1"] * 100)) for way in ways))
            assert answers == [Receipts()] * 5
            await until(lambda: len(inbox.messages) == 500)
        await exits.close()
        log = (tmp_path / "mosquitto.log").read_text()
        assert log.count("as relay-") == 1


async def test_what_a_broker_forbids_or_cannot_take_is_told_and_the_rest_delivered(tmp_path: Path) -> None:
    (tmp_path / "acl").write_text("topic read #\ntopic write plant/device-1/a/b\n")
    exits = Exits(LOOPBACK)
    with mosquitto(tmp_path, "allow_anonymous true", f"acl_file {tmp_path}/acl", "max_packet_size 2000") as port:
        async with listening(port) as inbox:
            way = way_to(to_broker(port), topics=["a/b", "c"])
            records = [record(1), record(2, topic="c"), record(3, b"x" * 3000), record(4, b"last")]
            answer = await exits.send(batch_of(way, records))
            await until(lambda: len(inbox.messages) == 2)
            assert inbox.payloads == [b'{"v":1}', b"last"]
    await exits.close()
    assert answer == Receipts(
        ((1, "PUBACK 0x87 (not authorized)"), (2, "a packet of 3034 bytes: the broker takes 2000"))
    )


async def test_topics_of_the_brokers_own_are_not_written_to(broker: Broker) -> None:
    exits = Exits(LOOPBACK)
    way = way_to(to_broker(broker.port, address={"topic": "{topic}"}), topics=["$SYS/x"])
    answer = await exits.send(batch(way, b"1", topic="$SYS/x"))
    await exits.close()
    assert answer == Receipts(((0, "topic $SYS/x: those with $ are the broker's own"),))


@BOTH
async def test_a_credential_is_shown_to_the_broker(tmp_path: Path, version: str) -> None:
    exits = Exits(LOOPBACK, credentials=Credentials(tmp_path))
    add_user(tmp_path / "users", "relay", "s3cret")
    with mosquitto(tmp_path, "allow_anonymous false", f"password_file {tmp_path}/users") as port:
        way = way_to(to_broker(port, address={"version": version}, credential="mine"))
        credential(tmp_path, origin=f"mqtt://127.0.0.1:{port}", username="relay", password="wrong")
        refused = await exits.send(batch(way, b"1"))
        assert isinstance(refused, Failure)
        assert "not authorized" in refused.reason
        credential(tmp_path, origin=f"mqtt://127.0.0.1:{port}", username="relay", password="s3cret")
        assert await exits.send(batch(way, b"1")) == Receipts()
        await exits.close()


async def test_a_broker_that_dies_and_comes_back_gets_all(tmp_path: Path, broker: Broker) -> None:
    with Broker(tmp_path / "theirs") as theirs:
        async with relay(tmp_path / "state", broker.port) as edge:
            await serve(edge, route(to_broker(theirs.port)))
            async with listening(theirs.port, "plant/#") as inbox:
                await publish_all(broker.port, numbered(range(300)))
                await until(lambda: len(inbox.messages) == 300)
                theirs.kill()
                await publish_all(broker.port, numbered(range(300, 600)))
                theirs.restart()
                wanted = {payload for _, payload in numbered(range(600))}
                await until(lambda: wanted <= set(inbox.payloads))


OWN, OTHER = Ca.of("provider.test"), Ca.of("consumer.test")
RELAY = FixedIdentity(OWN.identity("/relay/edge-1", knows=[OTHER]))


@contextmanager
def their_broker(directory: Path) -> Iterator[int]:
    files.write(directory / "tls", OTHER.identity("/endpoint/plant/broker"))
    (directory / "roots.pem").write_text(ssl.DER_cert_to_PEM_cert(OWN.root))
    tls = ("cafile ../roots.pem", "certfile svid.pem", "keyfile key.pem", "require_certificate true")
    with mosquitto(directory / "tls", *tls, "allow_anonymous true") as port:
        yield port


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ({}, None),
        ({"spiffeID": "spiffe://consumer.test/endpoint/plant/broker"}, None),
        ({"spiffeID": "spiffe://consumer.test/endpoint/plant/other"}, "spiffe://consumer.test/endpoint/plant/broker"),
    ],
)
async def test_broker_and_relay_prove_who_they_are(
    tmp_path: Path, expected: dict[str, str], problem: str | None
) -> None:
    exits = Exits(LOOPBACK, identity=RELAY)
    with their_broker(tmp_path) as port:
        endpoint = to_broker(port, address={"url": f"mqtts://127.0.0.1:{port}"}, **expected)
        answer = await exits.send(batch(way_to(endpoint, trust_domain="consumer.test"), b"1"))
        await exits.close()
    if problem is None:
        assert answer == Receipts()
    else:
        assert isinstance(answer, Failure)
        assert problem in answer.reason


async def test_plain_mqtt_and_forbidden_addresses_are_not_dialled(broker: Broker) -> None:
    way = way_to(to_broker(broker.port))
    for exits, why in ((Exits(LOOPBACK, identity=RELAY), "plain MQTT"), (Exits(EgressPolicy()), "egress policy")):
        answer = await exits.send(batch(way, b"1"))
        await exits.close()
        assert isinstance(answer, Failure)
        assert why in answer.reason


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[Way]:
    """A broker that says the next of these after each packet that it reads, then nothing more; b"" ends it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            _, length = await reader.readexactly(2)
            await reader.readexactly(length)
            writer.write(answer)
        if answers[-1:] != (b"",):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield way_to(to_broker(server.sockets[0].getsockname()[1]))


ACCEPTED = bytes.fromhex("2003000000")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((), "did not answer in time"),
        ((ACCEPTED,), "does not acknowledge"),
        ((b"",), "closed"),
        ((b"HTTP/1.1 400 Bad Request\r\n" + b"x" * 100,), "malformed packet"),
        ((bytes.fromhex("2003008700"),), "0x87 (not authorized)"),
        ((bytes.fromhex("20020001"),), "0x01 (unsupported protocol version)"),
        ((bytes.fromhex("20050000022400"),), "QoS 0 alone"),
        ((ACCEPTED + bytes.fromhex("e0028b00"),), "ended the connection: 0x8b"),
        ((ACCEPTED + bytes.fromhex("40020009"),), "Puback that was not asked for"),
        ((ACCEPTED + ACCEPTED,), "Connack that was not asked for"),
        ((ACCEPTED, bytes.fromhex("4003000197")), "0x97 (quota exceeded)"),
        ((ACCEPTED, bytes.fromhex("e0029505")), "malformed packet"),
    ],
)
async def test_brokers_that_misbehave_get_it_again(answers: tuple[bytes, ...], expected: str) -> None:
    async with answering(*answers) as way:
        exits = Exits(LOOPBACK, timeout_seconds=1.0)
        answer = await exits.send(batch(way, b"1"))
        await exits.close()
    assert isinstance(answer, Failure)
    assert expected in answer.reason


async def test_a_broker_that_never_ends_its_handshake_is_given_up() -> None:
    async with answering() as plain:
        address = plain.target.location.replace("mqtt://", "mqtts://")
        exits = Exits(LOOPBACK, identity=RELAY, timeout_seconds=1.0)
        answer = await exits.send(batch(way_to(to_broker(0, address={"url": address})), b"1"))
        await exits.close()
    assert answer == Failure("the broker did not answer in time")


async def test_a_broker_with_a_small_window_is_not_overrun() -> None:
    window_of_one = bytes.fromhex("20060000032100 01".replace(" ", ""))
    acknowledged = bytes.fromhex("40020001")
    async with answering(window_of_one, acknowledged, acknowledged, acknowledged) as way:
        exits = Exits(LOOPBACK)
        assert await exits.send(batch(way, b"1", b"2", b"3")) == Receipts()
        await exits.close()
