"""The same bridge as people write it with paho: QoS 1, batches over one kept connection, acknowledged after the 2xx.

The peer of the relay's figures; it has no spool, no routes and no filters, which all speaks in its favour.
`python -m benchmarks.relay_peer BROKER_PORT SINK_PORT`.
"""

from __future__ import annotations

import http.client
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

_BATCH = 500
_AGE_SECONDS = 0.02


def main(broker_port: int, sink_port: int) -> None:
    """Bridge until killed."""
    target = http.client.HTTPConnection("127.0.0.1", sink_port, timeout=10)
    batch: list[mqtt.MQTTMessage] = []
    since = 0.0

    def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        nonlocal since
        if not batch:
            since = time.monotonic()
        batch.append(message)
        if len(batch) >= _BATCH:
            flush()

    def flush() -> None:
        body = b"[" + b",".join([message.payload for message in batch]) + b"]"
        target.request("POST", "/", body, {"Content-Type": "application/json"})
        answer = target.getresponse()
        answer.read()
        if answer.status == 200:
            for message in batch:
                client.ack(message.mid, message.qos)
            batch.clear()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="paho-bridge", clean_session=False, manual_ack=True)
    client.on_message = on_message
    client.on_connect = lambda client, *_: client.subscribe("sensors/#", qos=1)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.connect("127.0.0.1", broker_port)
    while True:
        client.loop(timeout=_AGE_SECONDS)
        if batch and time.monotonic() - since >= _AGE_SECONDS:
            flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
