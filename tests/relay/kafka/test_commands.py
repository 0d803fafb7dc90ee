"""Records of a Kafka topic become messages on devices' command topics: at the broker, and at the listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from crds.models.addresses import Kafka as Address
from crds.models.delivery import Endpoint
from router_manager.domain.table import Table
from router_manager.relay.engine import Relay
from router_manager.relay.kafka.commands import Commands
from router_manager.relay.metrics import RelayCollector
from scripts.testbed.broker import Broker
from scripts.testbed.kafka import Kafka
from tests.relay.kafka.support import clusters, create, exits, relay, write
from tests.relay.listener.devices import connected, listening, port_of
from tests.relay.support import route, session_of, table, until

pytestmark = [pytest.mark.broker, pytest.mark.kafka]
UEIDS = {("test", "device-1"): "01" + "ab" * 16, ("test", "device-2"): "01" + "cd" * 16}
Heard = list[tuple[str, bytes]]
Records = list[tuple[bytes, bytes, dict[str, bytes]]]


@asynccontextmanager
async def hearing(port: int) -> AsyncIterator[Heard]:
    """Everything that is said to devices of a broker."""
    heard: Heard = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="devices")
    client.on_message = lambda _, __, message: heard.append((message.topic, bytes(message.payload)))
    subscribed: list[object] = []
    client.on_subscribe = lambda *_: subscribed.append(1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        await until(client.is_connected)
        client.subscribe("device/+/command", qos=1)
        await until(lambda: subscribed)
        yield heard
    finally:
        await asyncio.to_thread(client.loop_stop)


@asynccontextmanager
async def commanding(running: Relay, kafka: Kafka, served: Table) -> AsyncIterator[Commands]:
    commands = Commands(clusters(kafka.address), node="edge-1", send=running.command)
    commands.serve(served)
    commands.know(UEIDS)
    task = asyncio.create_task(commands.run())
    try:
        yield commands
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def served(kafka: Kafka, topic: str) -> Table:
    address = Address(bootstrap_servers=(kafka.address,), topic=f"{topic}-readings", commands_from=topic)
    return table(route(Endpoint(name="kafka", kafka=address)))


async def begun(kafka: Kafka, topic: str, heard: Heard) -> None:
    """Until what is said is heard: a new reader starts with what comes after it."""
    while not heard:
        await write(kafka, topic, [(b"device-1", b"first", {})])
        await asyncio.sleep(0.2)
    await write(kafka, topic, [(b"device-1", b"begun", {})])
    await until(lambda: heard[-1][1] == b"begun")
    heard.clear()


async def test_commands_reach_devices_of_the_route_alone_and_in_order(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic, partitions=2)
    async with (
        hearing(broker.port) as heard,
        relay(tmp_path / "state", broker.port, to=exits(kafka.address)) as running,
        commanding(running, kafka, served(kafka, topic)) as commands,
    ):
        await until(lambda: session_of(running).connected)
        async with asyncio.timeout(30):
            await begun(kafka, topic, heard)
        said: Records = [(b"device-1", b"%d" % number, {}) for number in range(50)]
        await write(kafka, topic, [(b"device-2", b"of no route", {}), (b"\xff", b"of nobody", {}), *said])
        await until(lambda: len(heard) >= 50)
        assert heard == [(f"device/{UEIDS['test', 'device-1']}/command", b"%d" % number) for number in range(50)]
        assert commands.dropped == 0


async def test_what_was_said_while_the_relay_was_away_is_carried_out_when_it_is_back(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    wanted = served(kafka, topic)
    async with (
        hearing(broker.port) as heard,
        relay(tmp_path / "state", broker.port, to=exits(kafka.address)) as running,
    ):
        await until(lambda: session_of(running).connected)
        async with commanding(running, kafka, wanted), asyncio.timeout(30):
            await begun(kafka, topic, heard)
        await write(kafka, topic, [(b"device-1", b"while away", {})])
        async with commanding(running, kafka, wanted):
            await until(lambda: heard)
        assert [payload for _, payload in heard] == [b"while away"]


async def test_a_device_at_the_listener_has_its_commands_and_one_that_is_away_costs_them(
    tmp_path: Path, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    ueid = UEIDS["test", "device-1"]
    async with (
        listening(tmp_path, broker=False) as running,
        commanding(running, kafka, served(kafka, topic)) as commands,
    ):
        async with connected(port_of(running), client_id=ueid) as device, asyncio.timeout(30):
            device.paho.subscribe(f"device/{ueid}/command", qos=1)
            await until(lambda: device.subscribed)
            await begun(kafka, topic, device.heard)
            await write(kafka, topic, [(b"device-1", b"%d" % number, {}) for number in range(20)])
            await until(lambda: len(device.heard) >= 20)
        assert device.heard == [(f"device/{ueid}/command", b"%d" % number) for number in range(20)]
        assert commands.dropped == 0
        await write(kafka, topic, [(b"device-1", b"nobody is there", {})])
        await until(lambda: commands.dropped == 1)
        told = {
            each.name: each.samples[0].value for each in RelayCollector(running, commands).collect() if each.samples
        }
        assert told["fluidos_edge_relay_commands_delivered"] == commands.delivered >= 20
        assert told["fluidos_edge_relay_commands_dropped"] == 1
