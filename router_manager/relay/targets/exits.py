"""All the ways out of one relay."""

from __future__ import annotations

from crds.egress import EgressPolicy
from crds.models.addresses import InfluxDB, Kafka, Mqtt
from router_manager.domain.batching import Answer
from router_manager.relay.contexts import Contexts
from router_manager.relay.kafka.cluster import Clusters
from router_manager.relay.targets.base import Batch, Exit
from router_manager.relay.targets.bodies import Bodies
from router_manager.relay.targets.credentials import Credentials
from router_manager.relay.targets.http import HttpExit, Poster
from router_manager.relay.targets.influxdb import InfluxExit
from router_manager.relay.targets.kafka import KafkaExit
from router_manager.relay.targets.mqtt import MqttExit
from spire.identity import IdentitySource


class Exits:
    """An Exit for every kind of address: it hands each batch to the one that knows."""

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        identity: IdentitySource | None = None,
        credentials: Credentials | None = None,
        kafka_roots: str | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        """Prepare; nothing is dialled before there is something to send.

        Args:
            policy: where targets may be.
            identity: of the relay; None is `--insecure`.
            credentials: that routes may name.
            kafka_roots: PEM, of Kafka brokers where the route names none.
            timeout_seconds: for one answer of a target.
        """
        credentials = credentials or Credentials(None)
        contexts, bodies = Contexts(identity, policy), Bodies()
        self.clusters = Clusters(policy=policy, source=identity, credentials=credentials, roots=kafka_roots)
        """Of Kafka, that routes may name."""
        poster = Poster(policy, contexts, timeout_seconds=timeout_seconds)
        self._exits: dict[type, Exit] = {
            str: HttpExit(poster, bodies, credentials),
            InfluxDB: InfluxExit(poster, bodies, credentials),
            Mqtt: MqttExit(policy, contexts, credentials, timeout_seconds=timeout_seconds),
            Kafka: KafkaExit(self.clusters, timeout_seconds=timeout_seconds),
        }

    async def send(self, batch: Batch) -> Answer:
        """See Exit."""
        return await self._exits[type(batch.way.address)].send(batch)

    async def close(self) -> None:
        """See Exit."""
        for one in self._exits.values():
            await one.close()
