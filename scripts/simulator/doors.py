"""The two ways in which a device reaches whoever attests it: HTTP to the issuer, MQTT by way of the edge agent."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from crds.errors import Retryable
from scripts.simulator.identity import MAX_ANSWER, Answer
from spire.domain.authorization import exactly, in_domain
from spire.domain.ueid import Ueid
from spire.helper.issuer import Roots
from spire.tls import anonymous_client_context

LIMIT_SECONDS: Final = 10.0
HELLOS: Final = 5
React: TypeAlias = Callable[[bytes], bytes | Answer]


def attest(url: str, *, bundle: Path, ueid: Ueid, react: React) -> Answer:
    """Ask for an SVID once; blocks for some seconds at most.

    Args:
        url: `https://` of the issuer or `mqtts://` of a broker's listener for devices without an identity.
        bundle: the roots by which either is known, in PEM.
        ueid: who asks.
        react: what the device makes of a message.

    Raises:
        Retryable: nobody answers who can be believed.
        Malformed: the answer makes no sense.
    """
    domain, roots = Roots(bundle, None).read()
    known = {domain: roots}
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 0
    try:
        if address.scheme == "https":
            context = anonymous_client_context(known, authorize=exactly(domain.spiffe_id("issuer")))
            return _over_http(host, port, context=context, ueid=ueid, react=react)
        context = anonymous_client_context(known, authorize=in_domain(domain, path="/broker/"))
        return _over_mqtt(host, port, context=context, ueid=ueid, react=react)
    except (OSError, HTTPException, Empty) as error:
        raise Retryable(f"{url}: {error or 'no answer'}") from error


def _over_http(host: str, port: int, *, context: ssl.SSLContext, ueid: Ueid, react: React) -> Answer:
    connection = HTTPSConnection(host, port, context=context, timeout=LIMIT_SECONDS)

    def post(step: str, body: bytes) -> bytes:
        connection.request(
            "POST", f"/v1/devices/{ueid}/{step}", body=body, headers={"Content-Type": "application/cbor"}
        )
        response = connection.getresponse()
        answer = response.read(MAX_ANSWER)
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Retryable(f"the issuer answers {response.status}")
        return answer

    try:
        return _converse(react, first=post("challenge", b""), ask=lambda evidence: post("evidence", evidence))
    finally:
        connection.close()


def _over_mqtt(host: str, port: int, *, context: ssl.SSLContext, ueid: Ueid, react: React) -> Answer:
    topic = f"attest/{ueid}"
    subscribed = Event()
    challenges, answers = SimpleQueue[bytes](), SimpleQueue[bytes]()
    # Without a session: an answer to a question of an earlier connection must not be taken for one of this.
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=str(ueid), clean_session=True)
    client.tls_set_context(context)

    def on_connect(*_: Any) -> None:
        client.subscribe([(f"{topic}/challenge", 1), (f"{topic}/svid", 1)])

    def on_subscribe(*_: Any) -> None:
        subscribed.set()

    def on_answer(_client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        answers.put(bytes(message.payload))
        challenges.put(bytes(message.payload))  # a refusal may come instead of a challenge

    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.message_callback_add(f"{topic}/challenge", lambda *given: challenges.put(bytes(given[2].payload)))
    client.message_callback_add(f"{topic}/svid", on_answer)
    client.connect_timeout = LIMIT_SECONDS
    client.connect(host, port, keepalive=30)
    client.loop_start()

    def challenge() -> bytes:
        if not subscribed.wait(LIMIT_SECONDS):
            raise Empty
        for _ in range(HELLOS):
            client.publish(f"{topic}/hello", b"", qos=1)
            # An agent that is just coming back has not heard it.
            with suppress(Empty):
                return challenges.get(timeout=LIMIT_SECONDS / HELLOS)
        raise Empty

    def ask(evidence: bytes) -> bytes:
        client.publish(f"{topic}/evidence", evidence, qos=1)
        return answers.get(timeout=LIMIT_SECONDS)

    try:
        return _converse(react, first=challenge(), ask=ask)
    finally:
        client.disconnect()
        client.loop_stop()


def _converse(react: React, *, first: bytes, ask: Callable[[bytes], bytes]) -> Answer:
    """A challenge, evidence, the answer; or a refusal at once."""
    reaction = react(first)
    if isinstance(reaction, bytes):
        reaction = react(ask(reaction))
    if isinstance(reaction, bytes):
        raise Retryable("another challenge instead of an answer")
    return reaction
