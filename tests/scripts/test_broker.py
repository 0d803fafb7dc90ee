"""The broker: a real mosquitto that keeps sessions and messages over restarts."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from scripts.testbed.broker import Broker
from scripts.testbed.processes import ChildFailedError

pytestmark = pytest.mark.broker


class Session:
    """A persistent MQTT session, with the payloads that it was given."""

    def __init__(self, broker: Broker) -> None:
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="relay", clean_session=False)
        self.received: list[bytes] = []
        self.changed = threading.Condition()
        self.connected = threading.Event()
        self.subscribed = threading.Event()
        self.client.on_connect = lambda *_: self.connected.set()
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert self.connected.wait(30)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        with self.changed:
            self.received.append(bytes(message.payload))
            self.changed.notify_all()

    def subscribe(self, topic: str) -> None:
        self.client.subscribe(topic, qos=1)
        assert self.subscribed.wait(30)

    def await_messages(self, number: int) -> list[bytes]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.received) >= number, timeout=30), self.received
        return self.received

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def queue_one(broker: Broker) -> None:
    """Leaves a session that is away, for which one message waits."""
    relay = Session(broker)
    relay.subscribe("sensors/#")
    relay.close()
    publisher = mqtt.Client(CallbackAPIVersion.VERSION2)
    publisher.connect("127.0.0.1", broker.port)
    publisher.loop_start()
    publisher.publish("sensors/tile-01", "reading", qos=1).wait_for_publish(30)
    publisher.disconnect()
    publisher.loop_stop()


def test_each_broker_has_a_port_of_its_own(broker: Broker, tmp_path: Path) -> None:
    with Broker(tmp_path / "another") as another:
        assert another.port != broker.port
        assert another.url == f"mqtt://127.0.0.1:{another.port}"


@pytest.mark.parametrize("end", [Broker.stop, Broker.restart])
def test_what_waits_for_a_session_outlives_an_orderly_restart(broker: Broker, end: Callable[[Broker], None]) -> None:
    queue_one(broker)
    port = broker.port
    end(broker)
    broker.restart()
    assert broker.port == port
    session = Session(broker)
    assert session.await_messages(1) == [b"reading"]
    session.close()


def test_what_waits_for_a_session_is_saved_at_once_and_outlives_sigkill(broker: Broker, tmp_path: Path) -> None:
    queue_one(broker)
    database = tmp_path / "broker" / "mosquitto.db"
    deadline = time.monotonic() + 30
    while not (database.exists() and b"reading" in database.read_bytes()):
        assert time.monotonic() < deadline, "not saved"
        time.sleep(0.02)
    broker.kill()
    broker.restart()
    session = Session(broker)
    assert session.await_messages(1) == [b"reading"]
    session.close()


def test_a_port_that_is_taken_is_an_error_that_names_it(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(ChildFailedError, match=f"port {broker.port} of 127.0.0.1 is taken"):
        Broker(tmp_path / "another", port=broker.port)


def test_no_broker_is_left_at_the_end(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as own:
        pid = own.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
