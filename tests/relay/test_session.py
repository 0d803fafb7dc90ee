"""The MQTT session against mosquitto, and against brokers that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from router_manager.relay.mqtt.client import Session, SessionSettings
from router_manager.relay.mqtt.connection import Connection
from router_manager.relay.mqtt.packets import Control, Publish, Received, Version, connect, publish
from scripts.testbed.broker import Broker
from tests.relay.support import publish_all, until

BOTH = pytest.mark.parametrize("version", list(Version))
pytestmark = pytest.mark.broker


class Inbox:
    """Takes all, and acknowledges unless told otherwise."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.messages: list[Publish] = []
        self.acknowledge = acknowledge
        self.connections: list[Connection] = []

    def receive(self, connection: Connection, received: Received[Control]) -> None:
        self.messages += received.publishes
        self.connections.append(connection)
        if self.acknowledge:
            connection.acknowledge(received.packet_ids)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


@asynccontextmanager
async def running(session: Session) -> AsyncIterator[None]:
    task = asyncio.create_task(session.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def open_session(
    port: int, inbox: Inbox, version: Version = Version.V5, lost: Callable[[str, bool], None] | None = None, **more: Any
) -> Session:
    settings = SessionSettings(host="127.0.0.1", port=port, client_id="session-under-test", version=version, **more)
    return Session(settings, inbox, on_lost=lost or (lambda *_: None))


@BOTH
async def test_messages_of_wanted_topics_arrive_in_order(broker: Broker, version: Version) -> None:
    inbox = Inbox()
    session = open_session(broker.port, inbox, version)
    session.want(frozenset({"a/b"}))
    async with running(session):
        await until(lambda: session.ready)
        await publish_all(broker.port, [("a/b", b"%d" % n) for n in range(500)] + [("other", b"no")])
        await until(lambda: len(inbox.messages) >= 500)
    assert inbox.payloads == [b"%d" % n for n in range(500)]


@BOTH
async def test_the_broker_keeps_what_comes_while_the_session_is_away(broker: Broker, version: Version) -> None:
    first, second = Inbox(), Inbox()
    session = open_session(broker.port, first, version)
    session.want(frozenset({"a/b"}))
    async with running(session):
        await until(lambda: session.ready)
    await publish_all(broker.port, [("a/b", b"while away")])
    session = open_session(broker.port, second, version)
    session.want(frozenset({"a/b"}))
    async with running(session):
        await until(lambda: second.messages)
    assert second.payloads == [b"while away"]


@BOTH
async def test_what_was_not_acknowledged_comes_again(broker: Broker, version: Version) -> None:
    first, second = Inbox(acknowledge=False), Inbox()
    session = open_session(broker.port, first, version)
    session.want(frozenset({"a/b"}))
    async with running(session):
        await until(lambda: session.ready)
        await publish_all(broker.port, [("a/b", b"1"), ("a/b", b"2")])
        await until(lambda: len(first.messages) == 2)
    session = open_session(broker.port, second, version)
    async with running(session):
        await until(lambda: len(second.messages) == 2)
    assert second.payloads == [b"1", b"2"]


@BOTH
async def test_topics_come_and_go_without_a_reconnect(broker: Broker, version: Version) -> None:
    inbox, losses = Inbox(), []
    session = open_session(broker.port, inbox, version, lost=lambda *loss: losses.append(loss))
    async with running(session):
        for topics in ({f"t/{n}" for n in range(450)}, {"t/1", "new"}):
            session.want(frozenset(topics))
            await until(lambda: session.ready)
        await until(lambda: session._subscribed == {"t/1", "new"})
        await publish_all(broker.port, [("t/1", b"1"), ("t/2", b"2"), ("new", b"3")])
        await until(lambda: len(inbox.messages) == 2)
    assert inbox.payloads == [b"1", b"3"]
    assert losses == []


async def test_topics_of_an_earlier_life_are_unsubscribed_when_they_show(broker: Broker) -> None:
    session = open_session(broker.port, Inbox())
    session.want(frozenset({"old"}))
    async with running(session):
        await until(lambda: session.ready)
    inbox = Inbox()
    session = open_session(broker.port, inbox)
    async with running(session):
        await until(lambda: session.ready)
        await publish_all(broker.port, [("old", b"1")])
        await until(lambda: inbox.messages)
        inbox.connections[-1].stray("old")
        await until(lambda: "old" not in session._subscribed)
        await publish_all(broker.port, [("old", b"2")])
        session.want(frozenset({"new"}))
        await until(lambda: session.ready)
        await publish_all(broker.port, [("new", b"3")])
        await until(lambda: len(inbox.messages) == 2)
    assert inbox.payloads == [b"1", b"3"]


async def test_retained_copies_are_not_asked_for(broker: Broker) -> None:
    """They are older than the subscription."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    writer.write(connect(version=Version.V311, client_id="", clean_start=True, keep_alive_seconds=0))
    await reader.readexactly(4)
    writer.write(publish(version=Version.V311, topic="a/b", payload=b"old", packet_id=1, retain=True))
    await reader.readexactly(4)
    inbox = Inbox()
    session = open_session(broker.port, inbox)
    session.want(frozenset({"a/b"}))
    async with running(session):
        await until(lambda: session.ready)
        await publish_all(broker.port, [("a/b", b"new")])
        await until(lambda: inbox.messages)
    assert inbox.payloads == [b"new"]
    writer.close()


async def test_the_session_comes_back_after_the_broker_was_killed(broker: Broker) -> None:
    inbox, losses = Inbox(), []
    session = open_session(broker.port, inbox, lost=lambda *loss: losses.append(loss))
    session.want(frozenset({"a/b"}))
    async with running(session):
        await until(lambda: session.ready)
        broker.kill()
        await until(lambda: not session.connected)
        await asyncio.to_thread(broker.restart)
        await until(lambda: session.ready)
        await publish_all(broker.port, [("a/b", b"after")])
        await until(lambda: inbox.messages)
    assert inbox.payloads == [b"after"]
    assert losses


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def fake_broker(*scripts: Script) -> AsyncIterator[int]:
    """Serves one script a connection; the last one again and again."""
    left = list(scripts)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = left.pop(0) if len(left) > 1 else left[0]
        try:
            await script(reader, writer)
            await reader.read()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


CONNACK = bytes.fromhex("2003000000")


def saying(data: bytes, *, connack: bytes = CONNACK) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(connack + data)

    return script


@pytest.mark.parametrize(
    ("data", "malformed"),
    [
        pytest.param(bytes.fromhex("3000"), True, id="malformed packet"),
        pytest.param(bytes.fromhex("9004000a0001"), True, id="answer that was not asked for"),
        pytest.param(bytes.fromhex("e0018e"), False, id="taken over"),
    ],
)
async def test_a_broker_that_misbehaves_is_left_and_tried_again(data: bytes, malformed: bool) -> None:
    losses: list[tuple[str, bool]] = []
    async with fake_broker(saying(data), saying(b"")) as port:
        session = open_session(port, Inbox(), lost=lambda *loss: losses.append(loss))
        async with running(session):
            await until(lambda: losses and session.connected)
    assert losses[0][1] is malformed


async def test_a_refused_session_is_told_and_tried_again() -> None:
    losses: list[tuple[str, bool]] = []
    async with fake_broker(saying(b"", connack=bytes.fromhex("2003008700")), saying(b"")) as port:
        session = open_session(port, Inbox(), lost=lambda *loss: losses.append(loss))
        async with running(session):
            await until(lambda: losses and session.connected)
    assert losses[0][0] == "the broker refused the session with code 0x87"


async def test_a_refused_subscription_is_told_and_asked_for_again() -> None:
    asked = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.read(1000)
        writer.write(CONNACK)
        while True:
            packet = await reader.read(1000)
            if not packet:
                return
            if (at := packet.find(b"\x82")) >= 0:  # it may follow a ping in the same read
                asked += 1
                writer.write(b"\x90\x04" + packet[at + 2 : at + 4] + (b"\0\x87" if asked == 1 else b"\0\1"))
            if packet.startswith(b"\xc0"):
                writer.write(b"\xd0\0")

    async with fake_broker(script) as port:
        session = open_session(port, Inbox(), keep_alive_seconds=1)
        session.want(frozenset({"a/b"}))
        async with running(session):
            await until(lambda: session.refused == {"a/b"} and not session.ready)
            await until(lambda: session.ready)
    assert asked == 2


async def test_a_broker_that_does_not_answer_pings_is_left() -> None:
    losses: list[tuple[str, bool]] = []
    async with fake_broker(saying(b"")) as port:
        session = open_session(port, Inbox(), keep_alive_seconds=1, lost=lambda *loss: losses.append(loss))
        async with running(session):
            await until(lambda: losses)
    assert losses[0][0] == "the broker does not answer pings"


async def test_a_paused_connection_reads_nothing_and_is_kept(broker: Broker) -> None:
    inbox, losses = Inbox(), []
    session = open_session(broker.port, inbox, keep_alive_seconds=1, lost=lambda *loss: losses.append(loss))
    session.want(frozenset({"a/b"}))
    async with running(session):
        await until(lambda: session.ready)
        await publish_all(broker.port, [("a/b", b"1")])
        await until(lambda: inbox.messages)
        inbox.connections[-1].pause()
        await publish_all(broker.port, [("a/b", b"2")])
        await asyncio.sleep(2.5)  # longer than the broker waits for a client that is silent
        assert inbox.payloads == [b"1"]
        inbox.connections[-1].resume()
        await until(lambda: len(inbox.messages) == 2)
    assert losses == []
