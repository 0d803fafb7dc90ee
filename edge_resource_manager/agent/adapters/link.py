"""One MQTT connection to a broker, kept up by paho's own thread; messages arrive on the event loop.

The thread waits for nobody: when `MAX_WAITING` messages wait for the loop, more are dropped and counted, because behind
an onboarding broker anybody may write as much as he likes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.enums import CallbackAPIVersion

from crds.errors import Retryable
from edge_resource_manager.agent.metrics import CONNECTED, DROPPED

log = structlog.get_logger(__name__)

MAX_WAITING: Final = 512
MAX_QUEUED: Final = 2048
CONNECT_SECONDS: Final = 5.0
KEEP_ALIVE_SECONDS: Final = 20
LONGEST_PAUSE_SECONDS: Final = 8


class Link:
    """A connection that comes back.

    Args:
        name: what logs and metrics call the broker.
        url: `mqtts://host:port`.
        client_id: where the broker does not set it, nobody must be able to guess it: who knows it takes it over.
        context: of TLS, which knows the broker by its SPIFFE ID.
        topics: what is subscribed at each connection.
        receive: gets topic and payload, on the event loop.
        on_change: called on the event loop, with True when all of `topics` are subscribed and False when that ended.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        client_id: str,
        context: ssl.SSLContext,
        topics: Sequence[str],
        receive: Callable[[str, bytes], None],
        on_change: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.connected = False
        self._url = urlsplit(url)
        self._topics = topics
        self._receive = receive
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._room = threading.BoundedSemaphore(MAX_WAITING)
        client = self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5, reconnect_on_failure=True
        )
        client.tls_set_context(context)
        # It would compare the certificate with the host's name, which no SVID has.
        client.tls_insecure_set(True)  # noqa: FBT003 - paho's signature
        client.connect_timeout = CONNECT_SECONDS
        client.max_queued_messages_set(MAX_QUEUED)
        # Without jitter: there is one agent a broker, nobody to keep out of step with.
        client.reconnect_delay_set(1, LONGEST_PAUSE_SECONDS)
        client.on_socket_open = self._socket_opened
        client.on_connect = self._answered
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        client.on_disconnect = self._disconnected
        client.on_connect_fail = self._failed

    async def __aenter__(self) -> Self:
        CONNECTED.labels(self.name).set(0)
        self._client.connect_async(self._url.hostname or "", self._url.port or 8883, keepalive=KEEP_ALIVE_SECONDS)
        self._client.loop_start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.disconnect()
        # Waits for the thread, which waits at most for a connection that is being made.
        await asyncio.to_thread(self._client.loop_stop)
        self._down()

    def send(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        """Hand a message to paho's thread.

        Raises:
            Retryable: not connected, or too many wait.
        """
        if not self.connected:
            raise Retryable(f"no connection to the {self.name} broker")
        if self._client.publish(topic, payload, qos).rc != mqtt.MQTT_ERR_SUCCESS:
            raise Retryable(f"the {self.name} broker does not take a message")

    def _up(self) -> None:
        self._turn(connected=True)

    def _down(self) -> None:
        self._turn(connected=False)

    def _turn(self, *, connected: bool) -> None:
        if connected == self.connected:
            return
        self.connected = connected
        CONNECTED.labels(self.name).set(connected)
        log.info("connected" if connected else "disconnected", broker=self.name)
        self._on_change(connected)

    def _hand_over(self, function: Callable[..., object], *arguments: object) -> None:
        """From paho's thread, which may outlive the loop by a moment."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _take(self, topic: str, payload: bytes) -> None:
        self._room.release()
        self._receive(topic, payload)

    def _subscribe(self, client: mqtt.Client) -> None:
        client.subscribe([(topic, 1) for topic in self._topics])

    # What follows runs in paho's thread.

    def _socket_opened(self, _client: mqtt.Client, _data: Any, opened: Any) -> None:
        # An answer would wait 40 ms for the acknowledgement of what went before.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _answered(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            log.warning("connection refused", broker=self.name, code=str(code))
        else:
            self._subscribe(client)

    def _subscribed(self, client: mqtt.Client, _data: Any, _mid: int, codes: Any, _properties: Any) -> None:
        refused = [topic for topic, code in zip(self._topics, codes, strict=False) if code.is_failure]
        if refused:
            log.error("subscriptions refused", broker=self.name, topics=refused)
            self._hand_over(lambda: self._loop.call_later(LONGEST_PAUSE_SECONDS, self._subscribe, client))
        else:
            self._hand_over(self._up)

    def _message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        if message.retain:  # of an earlier life of somebody
            DROPPED.labels("retained").inc()
        elif not self._room.acquire(blocking=False):
            DROPPED.labels("crowd").inc()
        else:
            self._hand_over(self._take, message.topic, bytes(message.payload))

    def _disconnected(self, _client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        log.warning("connection lost", broker=self.name, code=str(code))
        self._hand_over(self._down)

    def _failed(self, _client: mqtt.Client, _data: Any) -> None:
        log.warning("no connection", broker=self.name, host=self._url.hostname, port=self._url.port)
