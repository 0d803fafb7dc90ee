"""The simulated leaf devices: what they send, and that they know what the broker took."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from scripts.simulator.readings import SimulatedSensor, Source, member_name
from scripts.simulator.recordings import Recording, Row
from scripts.testbed.broker import Broker
from scripts.testbed.manifests import REPOSITORY

NOW = datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC)
ROWS = (Row({"temperature": 4.0, "humidity": 60.0}, "2013-01-01"), Row({"temperature": 5.0}))


def sensor(*types: str) -> SimulatedSensor:
    return SimulatedSensor(device="board-1", sensor="hts221", broker="mqtt://127.0.0.1:1", topic="a/b", types=types)


def sent(source: Source, number: int) -> dict[str, Any]:
    reading: dict[str, Any] = json.loads(source.message(number, now=NOW).payload)
    return reading


def test_a_reading_has_an_id_a_time_and_what_the_sensor_measures() -> None:
    source = Source(sensor("Humidity", "Temperature"), Recording(name="x", rows=ROWS, selective=True))
    assert sent(source, 7) == {
        "id": "board-1-7",
        "device": "board-1",
        "sensor": "hts221",
        "sentAt": "2026-11-21T10:00:00.123456Z",
        "recordedAt": "2013-01-01",
        "humidity": 60.0,
        "temperature": 4.0,
        "value": 60.0,
    }


def test_rows_without_the_sensors_value_are_passed_over_and_the_recording_starts_again() -> None:
    source = Source(sensor("Humidity"), Recording(name="x", rows=ROWS, selective=True))
    assert [sent(source, n)["value"] for n in range(3)] == [60.0, 60.0, 60.0]


def test_an_own_recording_is_sent_whole() -> None:
    source = Source(sensor("CO2"), Recording(name="x", rows=ROWS))
    reading = sent(source, 1)
    assert (reading["temperature"], reading["humidity"], reading["value"]) == (4.0, 60.0, 4.0)


def test_a_column_is_found_by_the_type_in_any_case() -> None:
    rows = (Row({"a": 1.0, "windspeed": 9.0}),)
    assert sent(Source(sensor("WindSpeed"), Recording(name="x", rows=rows)), 1)["value"] == 9.0


@pytest.mark.parametrize(
    ("sensor_type", "member"), [("WindSpeed", "windSpeed"), ("Wind speed", "windSpeed"), ("Humidity", "humidity")]
)
def test_members_are_in_camel_case(sensor_type: str, member: str) -> None:
    assert member_name(sensor_type) == member


def simulator(devices: list[dict[str, Any]], *flags: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.simulator", "--devices", "-", *flags],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(json.dumps(devices).encode())
    process.stdin.close()
    process.stdin = None
    return process


def devices(broker: str, count: int) -> list[dict[str, Any]]:
    return [
        {"device": f"board-{n}", "sensor": "x", "types": ["Pressure"], "topic": f"sensor/{n}", "broker": broker}
        for n in range(count)
    ]


class Subscriber:
    """All payloads of a broker, by topic."""

    def __init__(self, broker: Broker, *, first: int) -> None:
        self.payloads: list[tuple[str, dict[str, Any]]] = []
        self.some = threading.Event()
        self._first = first
        ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._client.subscribe("#", qos=1)
        assert ready.wait(10)

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self.payloads.append((message.topic, json.loads(message.payload)))
        if len(self.payloads) == self._first:
            self.some.set()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.broker
def test_every_acknowledged_id_is_logged_with_its_topic_and_arrives(broker: Broker, tmp_path: Path) -> None:
    subscriber = Subscriber(broker, first=150)
    log = tmp_path / "acknowledged"
    process = simulator(devices(broker.url, 3), "--rate", "500", "--messages", "50", "--acknowledged", str(log))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out) == {"sent": 150, "acknowledged": 150}
    logged = {tuple(line.split()) for line in log.read_text().splitlines()}
    assert logged == {(f"sensor/{n}", f"board-{n}-{number}") for n in range(3) for number in range(50)}
    assert subscriber.some.wait(20)
    subscriber.close()
    assert {(topic, payload["id"]) for topic, payload in subscriber.payloads} == logged


@pytest.mark.broker
def test_an_endless_one_ends_on_sigterm_with_everything_acknowledged(broker: Broker) -> None:
    subscriber = Subscriber(broker, first=20)
    process = simulator(devices(broker.url, 2), "--rate", "100", "--first", "1000")
    assert subscriber.some.wait(30)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    subscriber.close()
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["sent"] == result["acknowledged"] >= 20
    assert min(int(payload["id"].rsplit("-", 1)[1]) for _, payload in subscriber.payloads) == 1000


@pytest.mark.broker
def test_a_broker_that_restarts_is_given_what_it_missed(broker: Broker, tmp_path: Path) -> None:
    subscriber = Subscriber(broker, first=20)
    log = tmp_path / "acknowledged"
    process = simulator(devices(broker.url, 1), "--rate", "50", "--messages", "150", "--acknowledged", str(log))
    assert subscriber.some.wait(30)
    subscriber.close()
    broker.restart()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out) == {"sent": 150, "acknowledged": 150}
    assert len(set(log.read_text().splitlines())) == 150


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "1 to 10000"),
        ([{"device": "x"}], r"devices\[0\].sensor"),
        (devices("http://127.0.0.1:1", 1), r"devices\[0\].broker"),
        ([*devices("mqtt://127.0.0.1:1", 1), {**devices("mqtt://127.0.0.1:1", 1)[0], "station": "SFO"}], "station"),
    ],
)
def test_bad_devices_are_named(entries: list[dict[str, Any]], said: str) -> None:
    process = simulator(entries)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert re.search(said, err.decode())
