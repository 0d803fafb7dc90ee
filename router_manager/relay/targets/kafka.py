"""Kafka targets: one record a reading, by one idempotent producer for all lanes to a cluster.

librdkafka dials by itself, wherever a cluster's brokers say that they are. So none is dialled that the operator has
not named.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import confluent_kafka

from crds.egress import EgressPolicy
from crds.models.addresses import Kafka
from crds.models.delivery import Compression, Endpoint
from router_manager.domain.batching import Answer, Failure
from router_manager.domain.peers import Certified
from router_manager.domain.table import RouteName, Way
from router_manager.relay.kafka.cluster import Cluster
from router_manager.relay.kafka.messages import messages
from router_manager.relay.kafka.producer import Delivery, Producer
from router_manager.relay.targets.base import Batch
from router_manager.relay.targets.credentials import CredentialError, Credentials
from spire.identity import Identity, IdentitySource

_CLOSE_SECONDS = 2.0
_LEAVE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Flight:
    """What is on its way for a lane: a try after a time-out waits for it, and sends nothing twice."""

    key: str
    target: Endpoint
    producer: Producer
    delivery: Delivery


class KafkaExit:
    """See Exit."""

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        identity: IdentitySource | None = None,
        credentials: Credentials | None = None,
        roots: str | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        """Prepare.

        Args:
            policy: which clusters may be dialled.
            identity: of the relay; None is `--insecure`.
            credentials: that routes may name; SCRAM-SHA-512 beside the certificate.
            roots: PEM, of clusters whose route says nothing of them.
            timeout_seconds: after which a lane says that it waits.
        """
        self._policy = policy
        self._source = identity
        self._credentials = credentials or Credentials(None)
        self._roots = roots
        self._timeout = timeout_seconds
        self._made_for: Identity | None = None
        self._producers: dict[tuple[Cluster, Compression], Producer] = {}
        self._flights: dict[tuple[RouteName, str], _Flight] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, batch: Batch) -> Answer:
        """See Exit."""
        address = batch.way.target.address
        assert isinstance(address, Kafka)  # noqa: S101 - Exits hands over by type
        refusal = self._policy.kafka_refusal(address.bootstrap_servers)
        if refusal is not None:
            return Failure(refusal)
        self._renew()
        lane = batch.way.route, batch.way.target.name
        flight = self._flights.get(lane)
        if flight is not None and (flight.key, flight.target) != (batch.key, batch.way.target):
            # The route has changed: what has not left yet must not.
            flight.producer.purge()
            flight = None
        if flight is None:
            try:
                producer = self._producer(self._cluster(batch, address), batch.way.target.compression)
            except CredentialError as error:
                return Failure(str(error))
            except confluent_kafka.KafkaException as error:
                return Failure(f"Kafka: {error.args[0].str()}")
            if producer.full:
                return Failure("Kafka: too much is on its way to this cluster")
            delivery = producer.produce(address.topic, messages(batch.way, batch.records, batch.parts))
            flight = self._flights[lane] = _Flight(batch.key, batch.way.target, producer, delivery)
        return await self._landed(lane, flight)

    async def close(self) -> None:
        """See Exit."""
        self._retire(*self._producers)
        await asyncio.gather(*self._closing)

    async def _landed(self, lane: tuple[RouteName, str], flight: _Flight) -> Answer:
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
        return answer

    def _cluster(self, batch: Batch, address: Kafka) -> Cluster:
        peer = batch.way.peer
        roots = peer.roots if isinstance(peer, Certified) else self._roots
        plain = roots is None and (self._source is None or self._policy.plain_http)
        return Cluster(servers=address.bootstrap_servers, roots=roots, plain=plain, user=self._user(batch.way))

    def _user(self, way: Way) -> tuple[str, str] | None:
        credential = self._credentials.of(way)
        if credential is None:
            return None
        if credential.username is None or credential.password is None:
            raise CredentialError(f"credential {way.target.credential}: Kafka wants username and password")
        return credential.username, credential.password

    def _producer(self, cluster: Cluster, compression: Compression) -> Producer:
        key = cluster, compression
        if key in self._producers and self._producers[key].fatal:
            self._retire(key)
        if key not in self._producers:
            codec = {"compression.type": compression.lower()}
            self._producers[key] = Producer(cluster.configuration(self._made_for) | codec)
        return self._producers[key]

    def _renew(self) -> None:
        """A producer shows one certificate all its life."""
        identity = None if self._source is None else self._source.current
        if identity != self._made_for:
            self._retire(*self._producers)
            self._made_for = identity

    def _retire(self, *keys: tuple[Cluster, Compression]) -> None:
        """Let producers end: what is on its way arrives, or is sent again by the next one."""
        for key in keys:
            task = asyncio.create_task(self._producers.pop(key).close(_CLOSE_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
