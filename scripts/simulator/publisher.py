"""One connection to one broker, QoS 1: what the broker acknowledged is what the system owes.

paho runs in a thread of its own and sends again after a reconnect; here its acknowledgements are counted.
"""

from __future__ import annotations

import ssl
import time
from collections import deque
from typing import Final
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from crds.errors import Retryable
from scripts.simulator.readings import Message

WINDOW: Final = 1000
CONNECT_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.002


class Publisher:
    """Publishes to one broker, with at most `WINDOW` messages on the way.

    Args:
        broker: `mqtt://host:port`, or `mqtts://` with a context.
        context: shows who publishes.
    """

    patient = True
    """Whether readings wait for the broker; those of a device that has no memory for them do not."""

    def __init__(self, broker: str, *, context: ssl.SSLContext | None = None, client_id: str = "") -> None:
        url = urlsplit(broker)
        assert url.hostname and url.port  # noqa: S101, PT018 - the pattern of SimulatedSensor.broker
        self._broker = broker
        self._address = (url.hostname, url.port)
        self._waiting: dict[int, Message] = {}
        self._answered: deque[int] = deque()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        if context is not None:
            self._client.tls_set_context(context)
        self._client.max_inflight_messages_set(WINDOW)
        self._client.reconnect_delay_set(min_delay=1, max_delay=5)
        self._client.on_publish = self._on_publish

    def start(self) -> None:
        """Connect.

        Raises:
            Retryable: nobody answers within ten seconds.
        """
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                self._client.connect(*self._address, keepalive=30)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Retryable(f"{self._broker}: {error}") from error
                time.sleep(0.2)
        self._client.loop_start()

    def settle(self) -> None:
        """Wait until it is known whether it can publish: here it is when `start` returns."""

    def _on_publish(
        self, _client: paho.Client, _data: object, mid: int, _code: ReasonCode, _properties: Properties
    ) -> None:
        # May run before publish() has returned the same number, and under paho's own lock: only note it.
        self._answered.append(mid)

    @property
    def full(self) -> bool:
        """Whether the window is full: another message has to wait."""
        return len(self._waiting) >= WINDOW

    def publish(self, message: Message) -> bool:
        """Hand one message to the broker, or keep it until there is one again; False where it is not sent at all."""
        sent = self._client.publish(message.sensor.topic, message.payload, qos=1)
        self._waiting[sent.mid] = message
        return True

    def acknowledged(self) -> list[Message]:
        """Messages that the broker has taken since the last call."""
        return [self._waiting.pop(self._answered.popleft()) for _ in range(len(self._answered))]

    def close(self) -> None:
        """End the connection in order."""
        self._client.disconnect()
        self._client.loop_stop()
