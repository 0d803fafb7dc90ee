"""What Kafka's tests meet outside: clients that are not ours, on the other side of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import orjson
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from confluent_kafka.cimpl import NewTopic
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from crds.egress import EgressPolicy
from crds.models.addresses import Kafka as Address
from crds.models.delivery import Endpoint
from router_manager.relay.engine import Bounds, Relay
from router_manager.relay.kafka.cluster import Clusters
from router_manager.relay.mqtt.client import SessionSettings
from router_manager.relay.targets.credentials import Credentials
from router_manager.relay.targets.kafka import KafkaExit
from scripts.testbed.certificates import Authority
from scripts.testbed.kafka import Kafka, KafkaTls
from spire.identity import FixedIdentity, certificates_pem
from tests.relay.support import LIMIT_SECONDS
from tests.spire.pki import Ca

RELAYS = Ca.of("provider.test")
BROKERS = Authority.new("kafka.test", now=datetime.now(UTC))
ROOTS = BROKERS.pem.decode()
MEMBER, STRANGER = "relay.edge-1", "relay.edge-2"


def tls_files(directory: Path) -> KafkaTls:
    """What a broker needs that knows the relays of `RELAYS`; of them it lets one do something."""
    issued = BROKERS.server("kafka", hosts=["127.0.0.1"], now=datetime.now(UTC))
    # Kafka reads PKCS#8 alone.
    key = load_pem_private_key(issued.key, password=None)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate, roots = directory / "broker.pem", directory / "relays.pem"
    certificate.write_bytes(text + issued.certificate + BROKERS.pem)
    roots.write_text(certificates_pem([RELAYS.root]))
    return KafkaTls(certificate=certificate, roots=roots, users=(f"User:CN={MEMBER}",))


def endpoint(kafka: str, topic: str, name: str = "kafka", **values: Any) -> Endpoint:
    return Endpoint(name=name, kafka=Address(bootstrap_servers=(kafka,), topic=topic), **values)


def exits(
    *servers: str,
    identity: FixedIdentity | None = None,
    credentials: Path | None = None,
    timeout_seconds: float = 5.0,
) -> KafkaExit:
    return KafkaExit(clusters(*servers, identity=identity, credentials=credentials), timeout_seconds=timeout_seconds)


def clusters(*servers: str, identity: FixedIdentity | None = None, credentials: Path | None = None) -> Clusters:
    """That a relay may dial."""
    policy = EgressPolicy.parse(kafka=servers)
    return Clusters(policy=policy, source=identity, credentials=Credentials(credentials))


@asynccontextmanager
async def relay(state: Path, port: int, *, to: KafkaExit, **bounds: Any) -> AsyncIterator[Relay]:
    session = SessionSettings(host="127.0.0.1", port=port, client_id="relay-under-test")
    async with Relay(state=state, session=session, exits=to, bounds=Bounds(**bounds)) as running:
        yield running


async def create(kafka: Kafka, topic: str, *, partitions: int = 3, settings: dict[str, str] | None = None) -> None:
    """A topic, and clients that have heard of it."""

    def ask() -> None:
        admin = AdminClient({"bootstrap.servers": kafka.address})
        admin.create_topics([NewTopic(topic, partitions, 1, config=settings or {})])[topic].result(LIMIT_SECONDS)

    await asyncio.to_thread(ask)


async def allow(kafka: Kafka, principal: str, topic: str) -> None:
    """Let a client write to a topic."""
    rights = AclOperation.WRITE, AclPermissionType.ALLOW
    acl = AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, f"User:{principal}", "*", *rights)
    admin = AdminClient({"bootstrap.servers": kafka.address})
    await asyncio.to_thread(lambda: admin.create_acls([acl])[acl].result(LIMIT_SECONDS))


async def enrol(kafka: Kafka, name: str, password: str) -> None:
    """A user that signs in by SCRAM."""
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    user = UserScramCredentialUpsertion(name, how, password.encode())
    admin = AdminClient({"bootstrap.servers": kafka.address})
    await asyncio.to_thread(lambda: admin.alter_user_scram_credentials([user])[name].result(LIMIT_SECONDS))


async def write(kafka: Kafka, topic: str, records: Iterable[tuple[bytes, bytes, dict[str, bytes]]]) -> None:
    """Key, value and headers; returns when the cluster has them."""

    def produce() -> None:
        producer = Producer({"bootstrap.servers": kafka.address, "enable.idempotence": True})
        for key, value, headers in records:
            producer.produce(topic, value, key, headers=list(headers.items()))
        assert producer.flush(LIMIT_SECONDS) == 0

    await asyncio.to_thread(produce)


async def read(kafka: Kafka, topic: str, *, ids: set[int], partitions: int = 3) -> list[Message]:
    """All of a topic from its beginning, until these ids are among it; partition by partition in order."""

    def consume() -> list[Message]:
        consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": "tests", "enable.auto.commit": False})
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        found: list[Message] = []
        missing = set(ids)
        idle = 0
        try:
            while missing or idle < 2:
                some = consumer.consume(1000, timeout=1.0 if missing else 0.25)
                idle = 0 if some else idle + 1
                assert idle * 1.0 < LIMIT_SECONDS, f"{len(missing)} of {len(ids)} ids did not arrive"
                for message in some:
                    if (error := message.error()) is not None:
                        raise KafkaException(error)
                    found.append(message)
                    missing.discard(identifier(message))
        finally:
            consumer.close()
        return found

    return await asyncio.to_thread(consume)


def identifier(message: Message) -> int:
    """The id in a reading."""
    value = orjson.loads(message.value() or b"null")
    return int(value["id"]) if isinstance(value, dict) and "id" in value else -1


def headers(message: Message) -> dict[str, bytes]:
    """By name, as bytes."""
    listed = cast("list[tuple[str, bytes]]", message.headers() or [])
    return dict(listed)
