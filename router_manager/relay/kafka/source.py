"""A Kafka topic as a way into the relay: what edge relays wrote there, as a member of a consumer group.

The thread of its own fetches, since librdkafka blocks. Offsets are committed when the spool has the records. Before a
partition goes to another member what was taken of it is delivered, as far as targets take it within a limit: so a
device's readings keep their order across the change.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from router_manager.domain.batching import backoff_seconds
from router_manager.domain.site import site_topic
from router_manager.relay.ingest import Ingest
from router_manager.relay.kafka.cluster import Cluster
from router_manager.relay.kafka.messages import INGESTED, NODE, TOPIC
from router_manager.relay.mqtt.packets import Publish, Received
from spire.identity import Identity, IdentitySource

log = structlog.get_logger(__name__)

_BATCH = 1000
_POLL_SECONDS = 0.2
_COMMITTED_SECONDS = 30.0

SETTINGS: dict[str, Any] = {
    "enable.auto.offset.store": False,
    "auto.commit.interval.ms": 100,
    # A new group owes what was written before its first member came.
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    # A heartbeat's answer says that others come or go.
    "heartbeat.interval.ms": 2_000,
    # One whose disk is full for so long leaves its partitions to others.
    "max.poll.interval.ms": 300_000,
    "queued.max.messages.kbytes": 16 << 10,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """What is read.

    Attributes:
        cluster: where.
        topic: of the site.
        group: whose members share the topic's partitions.
        identity: shown to the cluster; None is `--insecure`.
        session_seconds: after which a member that was killed is missed.
        drain_seconds: how long targets may take for what was read of a partition before another member gets it.
    """

    cluster: Cluster
    topic: str
    group: str
    identity: IdentitySource | None = None
    session_seconds: float = 6.0
    drain_seconds: float = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """Records of one fetch. See Source of the ingest."""

    source: KafkaSource
    offsets: list[TopicPartition]

    def acknowledge(self, packet_ids: list[bytes]) -> None:
        """See Source."""
        del packet_ids
        self.source.store(self.offsets)

    def pause(self) -> None:
        """See Source."""
        self.source.open.clear()

    def resume(self) -> None:
        """See Source."""
        self.source.open.set()

    def stray(self, topic: str) -> None:
        """See Source: other members may want it, at other times."""


class KafkaSource:
    """A member of the group. `run` reads."""

    def __init__(self, settings: SiteSettings, ingest: Ingest, *, delivered: Callable[[], Awaitable[None]]) -> None:
        """Prepare.

        Args:
            settings: what is read.
            ingest: takes the records.
            delivered: until the targets have all that the ingest took.
        """
        self.open = asyncio.Event()
        """Cleared while the ingest can take no more."""
        self.open.set()
        self.partitions: set[int] = set()
        """Those of this member."""
        self.malformed = 0
        self.ready = False
        """It belongs to the group; there may be more members than partitions."""
        self._problem = ""
        self._settings = settings
        self._ingest = ingest
        self._delivered = delivered
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "kafka-read")
        self._revoked: set[int] = set()
        self._on_disk: dict[int, int] = {}
        """By partition the offset after the last record that the spool has."""
        self._consumer: Consumer | None = None
        self._shut = False

    def shut(self) -> None:
        """Take nothing more."""
        self._shut = True

    def store(self, offsets: list[TopicPartition]) -> None:
        """These are on disk; committed soon."""
        self._on_disk |= {each.partition: each.offset for each in offsets}
        if self._consumer is not None:
            with suppress(KafkaException):  # the partition is another's by now, who reads them again
                self._consumer.store_offsets(offsets=offsets)

    async def run(self) -> None:
        """Read until cancelled; a new identity is shown by a new member."""
        attempt = 0
        while True:
            identity = self._identity
            try:
                await self._belong(identity)
            except KafkaException as error:
                self._note(error.args[0])
                await asyncio.sleep(backoff_seconds(attempt, jitter=random.random()))  # noqa: S311 - guards nothing
                attempt += 1

    @property
    def _identity(self) -> Identity | None:
        source = self._settings.identity
        return None if source is None else source.current

    async def _belong(self, identity: Identity | None) -> None:
        settings = self._settings
        membership = {
            "group.id": settings.group,
            "session.timeout.ms": round(1000 * settings.session_seconds),
            "error_cb": self._note,
        }
        consumer = Consumer(SETTINGS | membership | settings.cluster.configuration(identity))
        consumer.subscribe([settings.topic], on_assign=self._assigned, on_revoke=self._give_up, on_lost=self._lost)
        self._consumer = consumer
        try:
            while identity == self._identity:
                await self.open.wait()
                messages = await self._loop.run_in_executor(self._thread, self._fetch, consumer)
                if messages and not self._shut:
                    self._hand_on(messages)
        finally:
            await self._loop.run_in_executor(self._thread, consumer.close)
            self._consumer, self.ready = None, False
            self.partitions.clear()

    def _fetch(self, consumer: Consumer) -> list[Message]:
        """In the thread, where also the group's callbacks come."""
        first = consumer.poll(_POLL_SECONDS)
        if first is None:
            return []
        self._revoked.clear()
        found = [first, *consumer.consume(_BATCH - 1, 0)]
        # What was at hand of a partition that went to another member is read by that one.
        return [message for message in found if message.partition() not in self._revoked] if self._revoked else found

    def _hand_on(self, messages: Sequence[Message]) -> None:
        publishes, times = [], []
        offsets: dict[int, int] = {}
        for message in messages:
            if (error := message.error()) is not None:
                self._note(error)
                continue
            offsets[message.partition() or 0] = (message.offset() or 0) + 1
            try:
                headers = dict(cast("list[tuple[str, bytes]]", message.headers() or []))
                topic = site_topic(headers[TOPIC].decode(), node=headers[NODE].decode())
                times.append(_nanoseconds(headers[INGESTED]))
            except (KeyError, ValueError, TypeError, AttributeError):  # a header may also be null
                self.malformed += 1
                continue
            publishes.append(Publish(topic, bytes(message.value() or b""), retained=False))
        topic = self._settings.topic
        taken = _Taken(self, [TopicPartition(topic, number, offset) for number, offset in offsets.items()])
        self._ingest.receive(taken, Received(publishes, [], [], times))

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Called back; goes on where the group is, or where the spool is if a crash of the cluster cost the commit."""
        found = consumer.committed(partitions, timeout=_COMMITTED_SECONDS) if partitions else []
        for each in found:
            each.offset = max(each.offset, self._on_disk.get(each.partition, each.offset))
        consumer.incremental_assign(found)
        self._problem, self.ready = "", True
        self.partitions |= {each.partition for each in partitions}
        log.info("partitions of the site", partitions=sorted(self.partitions))

    def _give_up(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Called back before others get them."""
        self._lost(consumer, partitions)
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Called back when others have them already."""
        gone = {each.partition for each in partitions}
        self._revoked |= gone
        self.partitions -= gone

    async def _finish(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._ingest.drained()
                await self._delivered()

    def _note(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - says no more than what it says of each
            return
        problem = error.str().partition(" (after ")[0]
        if problem != self._problem:
            log.warning("reading from Kafka is disturbed", reason=problem)
        self._problem = problem


def _nanoseconds(header: bytes) -> int:
    """What the spool can write; who may write into the topic is not asked by the relay."""
    ns = int(header)
    if not 0 <= ns < 2**63:
        raise ValueError(f"{INGESTED} is not between 0 and 2^63")
    return ns
