"""Kafka targets: one record a reading, by one idempotent producer for all lanes to a cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

import confluent_kafka

from crds.models.addresses import Kafka
from crds.models.delivery import Compression, Endpoint
from router_manager.domain.batching import Answer, Failure
from router_manager.domain.table import RouteName
from router_manager.relay.kafka.cluster import Cluster, Clusters
from router_manager.relay.kafka.messages import messages
from router_manager.relay.kafka.producer import Delivery, Producer
from router_manager.relay.targets.base import Batch
from spire.identity import Identity

_CLOSE_SECONDS = 2.0
_LEAVE_SECONDS = 1.0

_Lane: TypeAlias = tuple[RouteName, str, bool]
"""Route, target, and whether it is a replay: that is no part of the lane's order, and does not end its flight."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """What is on its way for a lane: a try after a time-out waits for it, and sends nothing twice."""

    key: str
    target: Endpoint
    place: tuple[Cluster, Compression]
    producer: Producer
    delivery: Delivery


class KafkaExit:
    """See Exit."""

    def __init__(self, clusters: Clusters, *, timeout_seconds: float = 10.0) -> None:
        """Prepare.

        Args:
            clusters: that may be dialled.
            timeout_seconds: after which a lane says that it waits.
        """
        self._clusters = clusters
        self._timeout = timeout_seconds
        self._made_for: Identity | None = None
        self._producers: dict[tuple[Cluster, Compression], Producer] = {}
        self._flights: dict[_Lane, _Flight] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, batch: Batch) -> Answer:
        """See Exit."""
        address = batch.way.address
        assert isinstance(address, Kafka)  # noqa: S101 - Exits hands over by type
        self._renew()
        lane = batch.way.route, batch.way.target.name, batch.replayed
        try:
            place = self._clusters.of(batch.way), batch.way.target.compression
            producer = self._producer(*place)
        except OSError as error:
            return Failure(str(error))
        except confluent_kafka.KafkaException as error:
            return Failure(f"Kafka: {error.args[0].str()}")
        flight = self._flights.get(lane)
        if flight is not None and (flight.key, flight.target) != (batch.key, batch.way.target):
            # The route has changed: what has not left yet must not.
            flight.producer.purge()
            flight = None
        if flight is None:
            if producer.full:
                return Failure("Kafka: too much is on its way to this cluster")
            delivery = producer.produce(address.topic, messages(batch.way, batch.records, batch.parts))
            flight = self._flights[lane] = _Flight(batch.key, batch.way.target, place, producer, delivery)
        elif flight.place != place and flight.place in self._producers:
            # The credential has changed: the one of before may never be let in.
            self._retire(flight.place)
        return await self._landed(lane, flight)

    async def close(self) -> None:
        """See Exit."""
        self._retire(*self._producers)
        await asyncio.gather(*self._closing)

    async def _landed(self, lane: _Lane, flight: _Flight) -> Answer:
        answered = flight.delivery.answered
        try:
            async with asyncio.timeout(self._timeout):
                answer = await asyncio.shield(answered)
        except TimeoutError:
            return Failure(flight.producer.problem or "Kafka: the cluster did not answer in time")
        except asyncio.CancelledError:
            # The route is gone. What a healthy cluster has not acknowledged a moment later must not leave any more.
            del self._flights[lane]
            loop = asyncio.get_running_loop()
            loop.call_later(_LEAVE_SECONDS, lambda: None if answered.done() else flight.producer.purge())
            raise
        del self._flights[lane]
        return Failure(flight.producer.problem) if flight.producer.fatal and isinstance(answer, Failure) else answer

    def _producer(self, cluster: Cluster, compression: Compression) -> Producer:
        key = cluster, compression
        if key in self._producers and not self._producers[key].works():
            self._retire(key)
        if key not in self._producers:
            codec = {"compression.type": compression.lower()}
            self._producers[key] = Producer(cluster.configuration(self._made_for) | codec)
        return self._producers[key]

    def _renew(self) -> None:
        """A producer shows one certificate all its life."""
        identity = self._clusters.identity
        if identity != self._made_for:
            self._retire(*self._producers)
            self._made_for = identity

    def _retire(self, *keys: tuple[Cluster, Compression]) -> None:
        """Let producers end: what is on its way arrives, or is sent again by the next one."""
        for key in keys:
            task = asyncio.create_task(self._producers.pop(key).close(_CLOSE_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
