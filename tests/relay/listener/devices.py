"""Devices of the listener's tests: paho in its own thread, and bare sockets that say what no client would."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from router_manager.domain.admission import Grant, Grants, accounts_only
from router_manager.relay.engine import Bounds, Relay
from router_manager.relay.listener.limits import Limits
from router_manager.relay.listener.server import ListenSettings, Secured
from router_manager.relay.mqtt.client import SessionSettings
from router_manager.relay.mqtt.packets import Version, connect
from router_manager.relay.targets.exits import Exits
from spire.identity import FixedIdentity, Identity
from spire.tls import server_context, show
from tests.relay.support import LIMIT_SECONDS, LOOPBACK, until
from tests.spire.pki import Ca

OWN, OTHER = Ca.of("provider.test"), Ca.of("consumer.test")
NODE = "edge-1"
UEID, SECOND = "01" + "ab" * 16, "01" + "cd" * 16
RELAY = OWN.trust_domain.spiffe_id("relay", NODE)
LIMITS = Limits(per_second=1e6, burst=1e6)
NOWHERE = SessionSettings(host="127.0.0.1", port=9, client_id="relay-under-test")


def device(ueid: str = UEID, ca: Ca = OWN) -> Identity:
    return ca.identity(f"/device/{ueid}/app/meter", knows=[OTHER, OWN])


def granting(**topics: tuple[str, ...]) -> Grants:
    return Grants(accounts={name: Grant(topics=frozenset(several)) for name, several in topics.items()})


def secured() -> Secured:
    source = FixedIdentity(OWN.identity(f"/relay/{NODE}", knows=[OTHER]))
    authorize = accounts_only(trust_domain=OWN.trust_domain, node=NODE)
    return Secured(tls=server_context(source, authorize=authorize), trust_domain=OWN.trust_domain, node=NODE)


@asynccontextmanager
async def listening(
    state: Path,
    *,
    grants: Grants | None = None,
    limits: Limits = LIMITS,
    connections: int = 64,
    broker: bool = True,
    **bounds: Any,
) -> AsyncIterator[Relay]:
    """A relay whose broker is away, or that has none. With `grants` devices have to prove who they are."""
    proof = None if grants is None else secured()
    settings = ListenSettings(host="127.0.0.1", port=0, secured=proof, limits=limits, connections=connections)
    exits = Exits(LOOPBACK, timeout_seconds=2.0)
    session = NOWHERE if broker else None
    async with Relay(state=state, session=session, exits=exits, bounds=Bounds(**bounds), listen=settings) as running:
        if grants is not None:
            running.permit(grants)
        await until(lambda: port_of(running))
        yield running


def port_of(running: Relay) -> int:
    assert running.listener is not None
    return running.listener.port


def as_people_do(identity: Identity) -> ssl.SSLContext:
    """What a device's MQTT library does: a certificate, a key, and the CA of its site."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for root in identity.bundles[OWN.trust_domain]:
        context.load_verify_locations(cadata=root)
    show(context, identity.svid)
    return context


class Device:
    """paho, with what it was told."""

    def __init__(
        self,
        port: int,
        *,
        identity: Identity | None = None,
        version: Version = Version.V311,
        client_id: str = "device",
        will: str | None = None,
        receive_maximum: int | None = None,
        keep_alive: int = 60,
        window: int = 100,
        reconnect: bool = False,
    ) -> None:
        protocol = MQTTProtocolVersion.MQTTv5 if version is Version.V5 else MQTTProtocolVersion.MQTTv311
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, reconnect_on_failure=reconnect
        )
        self.paho.max_inflight_messages_set(window)
        self.paho.reconnect_delay_set(1, 1)
        self.answers: list[str] = []
        self.ended: list[str] = []
        self.acknowledged: dict[int, str] = {}
        self.subscribed: list[list[str]] = []
        self.heard: list[tuple[str, bytes]] = []
        self.properties: Any = None
        self.paho.on_connect = self._connected
        self.paho.on_disconnect = lambda _c, _u, _f, reason, _p: self.ended.append(str(reason))
        self.paho.on_publish = lambda _c, _u, mid, reason, _p: self.acknowledged.update({mid: str(reason)})
        self.paho.on_subscribe = lambda _c, _u, _m, codes, _p: self.subscribed.append([str(code) for code in codes])
        self.paho.on_message = lambda _c, _u, message: self.heard.append((message.topic, bytes(message.payload)))
        if identity is not None:
            self.paho.tls_set_context(as_people_do(identity))
            self.paho.tls_insecure_set(True)
        if will is not None:
            self.paho.will_set(will, b'{"id":-1}', qos=1)
        properties = None
        if receive_maximum is not None:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's lacks annotations
            properties.ReceiveMaximum = receive_maximum
        self._connect: Callable[[], Any] = lambda: self.paho.connect(
            "127.0.0.1", port, keepalive=keep_alive, properties=properties
        )

    def _connected(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, properties: Any) -> None:
        self.answers.append(str(reason))
        self.properties = properties

    async def connect(self) -> str:
        """The answer, or how it ended without one."""
        await asyncio.to_thread(self._connect)
        self.paho.loop_start()
        await until(lambda: self.answers or self.ended, what="an answer to CONNECT")
        return self.answers[0] if self.answers else self.ended[0]

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        return self.paho.publish(topic, payload, qos=qos, retain=retain).mid

    def stop(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()

    def vanish(self) -> None:
        """Close the socket without a word."""
        sock = self.paho.socket()
        assert sock is not None
        sock.close()
        self.paho.loop_stop()


@asynccontextmanager
async def connected(port: int, **settings: Any) -> AsyncIterator[Device]:
    found = Device(port, **settings)
    assert await found.connect() == "Success"
    try:
        yield found
    finally:
        await asyncio.to_thread(found.stop)


class Bare:
    """A socket that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self.reader.readexactly(size)

    async def to_end(self) -> bytes:
        """All that comes until the connection ends."""
        async with asyncio.timeout(LIMIT_SECONDS):
            try:
                return await self.reader.read(-1)
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def bare(port: int, *, version: Version | None = Version.V311, client_id: str = "bare") -> AsyncIterator[Bare]:
    """With a version it has introduced itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = Bare(reader, writer)
    try:
        if version is not None:
            writer.write(connect(version=version, client_id=client_id, clean_start=True, keep_alive_seconds=0))
            head = await found.read(2)
            assert (head[0], (await found.read(head[1]))[:2]) == (0x20, b"\0\0")
        yield found
    finally:
        writer.close()
