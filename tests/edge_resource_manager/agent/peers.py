"""Who is around an edge agent: a site with its broker, devices on MQTT, and an issuer that answers as it is told."""

from __future__ import annotations

import asyncio
import queue
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from aiohttp import web
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from scripts.testbed.broker import Broker, BrokerTls
from spire.domain.authorization import any_known, under
from spire.domain.spiffe_id import SpiffeId
from spire.helper import files
from spire.identity import FixedIdentity, Identity, Svid
from spire.tls import client_context, peer_of, server_context
from tests.spire.pki import Ca, bundles_of

NODE = "edge-1"
UEID = "01" + "a1" * 16
OTHER_UEID = "01" + "b2" * 16
NOT_AUTHORIZED = 135
SECONDS = 15.0


@dataclass
class Station:
    """One node's broker, and the authority of its cluster."""

    directory: Path
    node: str = NODE
    ca: Ca = field(default_factory=lambda: Ca.of("provider.test"))
    foreign: Ca = field(default_factory=lambda: Ca.of("consumer.test"))

    def __post_init__(self) -> None:
        self.tls = BrokerTls(data=self.directory / "data", onboarding=self.directory / "onboarding", node=self.node)
        self.certify(self.ca)
        self.broker = Broker(self.directory / "broker", autosave_changes=100, tls=self.tls)

    def certify(self, ca: Ca) -> None:
        """What the workload helper does for the broker."""
        svid = ca.svid(f"/broker/{self.node}", common_name=f"broker.{self.node}")
        for folder in (self.tls.data, self.tls.onboarding):
            files.write(folder, Identity(svid=svid, bundles=bundles_of(self.ca, self.foreign)))

    def workload(self, kind: str) -> Identity:
        """Of a process of this node: `agent`, `relay`, `mapper`."""
        svid = self.ca.svid(f"/{kind}/{self.node}", common_name=f"{kind}.{self.node}")
        return Identity(svid=svid, bundles=bundles_of(self.ca, self.foreign))

    def device(self, ueid: str = UEID, *, ca: Ca | None = None) -> Svid:
        """As the issuer of a trust domain makes it, ours by default."""
        return (ca or self.ca).svid(f"/device/{ueid}/app/weather", common_name=ueid)

    def client(self, svid: Svid | None = None, **arguments: Any) -> Client:
        """A connection with an SVID to the broker, or to onboarding without one."""
        return Client(
            self.broker.url if svid else self.broker.onboarding_url,
            bundles=bundles_of(self.ca, self.foreign),
            svid=svid,
            **arguments,
        )


class Client:
    """Any MQTT client, as blocking as a small device."""

    def __init__(
        self, url: str, *, bundles: Any, svid: Svid | None = None, client_id: str = "", clean: bool = True
    ) -> None:
        self.connected: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.gone: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.messages: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._acknowledged: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._subscribed: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._url, self._clean = urlsplit(url), clean
        client = self.mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        client.tls_set_context(_context(bundles, svid))
        client.tls_insecure_set(True)
        client.reconnect_delay_set(60, 60)
        client.on_socket_open = _without_delay
        client.on_connect = lambda _c, _d, flags, code, _p: self.connected.put((code.value, flags.session_present))
        client.on_disconnect = lambda _c, _d, _f, code, _p: self.gone.put(code)
        client.on_message = lambda _c, _d, message: self.messages.put((message.topic, bytes(message.payload)))
        client.on_publish = lambda _c, _d, _mid, code, _p: self._acknowledged.put(code.value)
        client.on_subscribe = lambda _c, _d, _mid, codes, _p: self._subscribed.put(codes[0].value)

    def __enter__(self) -> Self:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no type for it
        properties.SessionExpiryInterval = 0 if self._clean else 3600
        self.mqtt.connect(self._url.hostname or "", self._url.port or 0, clean_start=self._clean, properties=properties)
        self.mqtt.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()

    def answered(self) -> tuple[int, bool]:
        """Reason code of the CONNACK, and whether there was a session."""
        answer: tuple[int, bool] = self.connected.get(timeout=SECONDS)
        return answer

    def publish(self, topic: str, payload: bytes = b"reading") -> int:
        """At QoS 1; the reason code of the acknowledgement: 0 delivered, 16 to nobody, 135 not allowed."""
        self.mqtt.publish(topic, payload, qos=1)
        return self._acknowledged.get(timeout=SECONDS)

    def may_publish(self, topic: str) -> bool:
        return self.publish(topic) != NOT_AUTHORIZED

    def may_subscribe(self, topic: str) -> bool:
        self.mqtt.subscribe(topic, qos=1)
        return self._subscribed.get(timeout=SECONDS) != NOT_AUTHORIZED

    def message(self) -> tuple[str, bytes]:
        return self.messages.get(timeout=SECONDS)

    def cut(self) -> Any:
        """Waits until the broker ended the connection."""
        return self.gone.get(timeout=SECONDS)


def _without_delay(_client: Any, _data: Any, opened: Any) -> None:
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _context(bundles: Any, svid: Svid | None) -> ssl.SSLContext:
    if svid is not None:
        return client_context(FixedIdentity(Identity(svid=svid, bundles=bundles)), authorize=under("/broker"))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # what it says is what is tested, not whom to
    return context


class ScriptedIssuer:
    """Issuer's HTTP calls, with the answers that a test gives: (status, body) by call."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {"challenge": (200, b"\xa0challenge"), "evidence": (200, b"svid")}
        self.calls: list[tuple[str, str, bytes, SpiffeId | None]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.url = ""

    async def _call(self, request: web.Request) -> web.Response:
        call, ueid = request.match_info["call"], request.match_info["ueid"]
        self.calls.append((call, ueid, await request.read(), peer_of(request.transport)))
        await self.hold.wait()
        status, body = self.answers[call]
        return web.Response(status=status, body=body, content_type="application/cbor")

    @asynccontextmanager
    async def serve(self, identity: Identity) -> AsyncIterator[ScriptedIssuer]:
        """HTTPS with this identity until the end of the block."""
        app = web.Application()
        app.router.add_post("/v1/devices/{ueid}/{call}", self._call)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        context = server_context(FixedIdentity(identity), authorize=any_known(), client_certificates="optional")
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            self.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()
