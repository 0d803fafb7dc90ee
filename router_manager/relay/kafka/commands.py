"""Commands from Kafka to devices: of the topics that routes name, and to the devices that those routes read alone.

Each edge relay reads all of a topic, as a group of its own, and takes what is for devices of its node. A command is
done with when the broker, or the device's connection to the listener, has it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import structlog
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from crds.kube.watch import Key
from crds.models.addresses import Kafka
from router_manager.domain.batching import backoff_seconds
from router_manager.domain.table import Route, Table, Way, ways
from router_manager.relay.kafka.cluster import Cluster, Clusters
from router_manager.relay.mqtt.connection import ConnectionLostError
from spire.identity import Identity

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 30.0

Send = Callable[[str, bytes], Awaitable[bool]]
"""Hands a payload to a device's topic; whether anybody takes it. Raises ConnectionLostError."""


class Commands:
    """Keeps one reader for each topic that commands come from."""

    def __init__(self, clusters: Clusters, *, node: str, send: Send) -> None:
        """Prepare.

        Args:
            clusters: that may be dialled.
            node: whose devices are served; names the group.
            send: to a device.
        """
        self.delivered = self.dropped = 0
        self._clusters = clusters
        self._group = f"fluidos-edge-commands-{node}"
        self._send = send
        self._table = Table()
        self._ueids: Mapping[Key, str] = {}
        self._changed = asyncio.Event()
        self._known: dict[tuple[Cluster, str], dict[str, set[str]]] = {}

    def serve(self, table: Table) -> None:
        """From now on these routes count."""
        # Most have no commands, and what a way holds of filters and forms takes time to make.
        self._table = table.model_copy(update={"routes": tuple(filter(_commanding, table.routes))})
        self._changed.set()

    def know(self, ueids: Mapping[Key, str]) -> None:
        """From now on these are the devices of the node, by namespace and name."""
        self._ueids = ueids
        self._changed.set()

    async def run(self) -> None:
        """Read until cancelled."""
        readers: dict[tuple[Cluster, str], asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                self._known = self._wanted(ways(self._table).values())
                for topic in readers.keys() - self._known.keys():
                    readers.pop(topic).cancel()
                for topic in self._known.keys() - readers.keys():
                    readers[topic] = group.create_task(self._read(topic))
                await self._changed.wait()

    def _wanted(self, served: Iterable[Way]) -> dict[tuple[Cluster, str], dict[str, set[str]]]:
        """By place that commands come from: by key of the record, the topics that they go to."""
        found: dict[tuple[Cluster, str], dict[str, set[str]]] = {}
        for way in served:
            address = way.target.address
            if not isinstance(address, Kafka) or address.commands_from is None:
                continue
            try:
                cluster = self._clusters.of(way)
            except OSError as error:
                log.warning("commands are not read", route=str(way.route), target=way.target.name, reason=str(error))
                continue
            devices = found.setdefault((cluster, address.commands_from), {})
            for feed in way.feeds.values():
                ueid = self._ueids.get((way.route.namespace, feed.source.device))
                if ueid is not None:
                    devices.setdefault(feed.source.device, set()).add(f"device/{ueid}/command")
        return found

    async def _read(self, place: tuple[Cluster, str]) -> None:
        """One topic, for as long as a route names it; a new identity is shown by a new reader."""
        attempt = 0
        with ThreadPoolExecutor(1, "kafka-commands") as thread:
            while True:
                identity = self._clusters.identity
                try:
                    await self._follow(place, identity, thread)
                    attempt = 0
                except KafkaException as error:
                    log.warning("cannot read commands", topic=place[1], reason=error.args[0].str())
                    await asyncio.sleep(backoff_seconds(attempt, jitter=random.random()))  # noqa: S311 - guards nothing
                    attempt += 1

    async def _follow(self, place: tuple[Cluster, str], identity: Identity | None, thread: ThreadPoolExecutor) -> None:
        cluster, topic = place
        loop = asyncio.get_running_loop()
        settings = {"group.id": self._group, "enable.auto.offset.store": False, "auto.commit.interval.ms": 100}
        consumer = Consumer(cluster.configuration(identity) | settings)
        consumer.subscribe([topic], on_assign=_from_now_on)
        try:
            while identity == self._clusters.identity:
                message = await loop.run_in_executor(thread, consumer.poll, _POLL_SECONDS)
                if message is None:
                    continue
                if (error := message.error()) is not None:
                    raise KafkaException(error)
                await self._carry_out(message, self._known.get(place, {}))
                with suppress(KafkaException):  # another process of this node has the partition by now
                    consumer.store_offsets(message)
        finally:
            await loop.run_in_executor(thread, consumer.close)

    async def _carry_out(self, message: Message, devices: Mapping[str, set[str]]) -> None:
        key, payload = message.key(), message.value()
        name = key.decode(errors="replace") if isinstance(key, bytes) else ""
        for topic in devices.get(name, ()):
            taken = await self._sent(topic, payload if isinstance(payload, bytes) else b"")
            self.delivered += taken
            self.dropped += not taken
            if not taken:
                log.warning("a command is dropped: its device is not here", device=name)

    async def _sent(self, topic: str, payload: bytes) -> bool:
        attempt = 0
        while True:
            try:
                return await self._send(topic, payload)
            except ConnectionLostError:
                await asyncio.sleep(backoff_seconds(attempt, jitter=random.random()))  # noqa: S311 - as above
                attempt += 1


def _commanding(route: Route) -> bool:
    return any(isinstance(target.address, Kafka) and target.address.commands_from for target in route.targets)


def _from_now_on(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    """Called back: what was said before anybody listened is no command of now. From then on none is passed over."""
    found = consumer.committed(partitions, timeout=_ANSWER_SECONDS)
    new = [each for each in found if each.offset < 0]
    for each in new:
        _, each.offset = consumer.get_watermark_offsets(each, timeout=_ANSWER_SECONDS)
    if new:
        consumer.commit(offsets=new, asynchronous=False)
    consumer.assign(found)
