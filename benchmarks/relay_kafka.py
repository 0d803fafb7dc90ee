"""From the broker to Kafka, one record a message: the relay against reading alone and producing alone."""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import confluent_kafka
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.relay_engines import Relay, route
from benchmarks.relay_stage import TOPICS, Size, Stage
from benchmarks.report import Figure, spread
from benchmarks.usage import cpu_seconds
from crds.models.addresses import Kafka as KafkaAddress
from crds.models.delivery import Endpoint
from scripts.testbed.kafka import Kafka
from scripts.testbed.processes import Child

_LIMIT_SECONDS: Final = 60.0
_PARTITIONS: Final = 3
# Clients of librdkafka say on stderr that a cluster has gone, also when it is stopped in order.
_QUIET: Final = {"log_level": 2}
_ID: Final = re.compile(rb'"id":(\d+)')


def figures(size: Size) -> list[Figure]:
    """CPU for a message, and every id read back from the topic."""
    count = size.pick(short=40_000, full=100_000)
    relay, read, produce = [], [], []
    lost = twice = 0
    with tempfile.TemporaryDirectory(prefix="bench-kafka-") as folder:
        directory = Path(folder)
        with Kafka(directory / "kafka") as kafka, Stage(directory) as stage:
            for repetition in range(size.repetitions):
                topic = _Topic(kafka.address, f"relay-{repetition}")
                relay.append(_relay(stage, kafka.address, topic, count))
                ids = topic.ids()
                lost += count - len(set(ids))
                twice += len(ids) - len(set(ids))
                read.append(_reading(stage, count))
                other = _created(kafka.address, f"alone-{repetition}")
                with _alone(stage, "produce", kafka.address, other, str(count)) as child:
                    produce.append(_said(child))
                print(
                    f"{repetition + 1}/{size.repetitions} Kafka      relay {relay[-1]:.1f} us CPU a message, "
                    f"reading alone {read[-1]:.1f}, producing alone {produce[-1]:.1f}",
                    flush=True,
                )
    ours, *halves = (statistics.median(some) for some in (relay, read, produce))
    return [
        Figure(
            key="kafkaCpuOfHalves",
            text="CPU a message to Kafka, times that of reading alone and producing alone",
            value=ours / sum(halves),
            goal=1.3,
            holds="at most",
            peer=f"{spread(relay)} us; reading {spread(read)}, producing {spread(produce)}",
        ),
        Figure(
            key="kafkaLost",
            text="messages lost on the way to Kafka",
            value=lost,
            goal=0,
            holds="at most",
            peer=f"{twice} came twice",
        ),
    ]


def _relay(stage: Stage, address: str, topic: _Topic, count: int) -> float:
    end = Endpoint(name="kafka", kafka=KafkaAddress(bootstrap_servers=(address,), topic=topic.name))
    relay = Relay(routes=(route("bench", TOPICS, [end]),), flags=("--allow-kafka", address))
    with stage.broker() as broker, stage.running(relay, broker) as child:
        before = cpu_seconds(child.pid)
        stage.publish(broker.port, "-count", str(count))
        limit = time.monotonic() + _LIMIT_SECONDS
        while topic.records() < count and time.monotonic() < limit:
            time.sleep(0.1)
        return (cpu_seconds(child.pid) - before) * 1e6 / count


def _reading(stage: Stage, count: int) -> float:
    with stage.broker() as broker, _alone(stage, "read", str(broker.port), str(count)) as child:
        child.wait_until(lambda: "ready" in child.tail(), what="its subscription", limit=20)
        stage.publish(broker.port, "-count", str(count))
        return _said(child)


def _alone(stage: Stage, *words: str) -> Child:
    return stage.child(f"alone-{words[0]}", sys.executable, "-m", "benchmarks.relay_alone", *words)


def _said(child: Child) -> float:
    if child.wait(limit=2 * _LIMIT_SECONDS) != 0:
        sys.exit(f"{child.name} failed:\n{child.tail()}")
    return float(child.tail().split()[-1])


def _created(address: str, topic: str) -> str:
    """A topic of its own for each run."""
    admin = AdminClient({"bootstrap.servers": address, **_QUIET})
    admin.create_topics([NewTopic(topic, num_partitions=_PARTITIONS)])[topic].result(_LIMIT_SECONDS)
    return topic


class _Topic:
    """What one holds."""

    def __init__(self, address: str, name: str) -> None:
        self.name = _created(address, name)
        self._consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": address, "group.id": name, "enable.auto.commit": False, **_QUIET}
        )
        self._parts = [confluent_kafka.TopicPartition(name, number, 0) for number in range(_PARTITIONS)]

    def records(self) -> int:
        """How many."""
        marks = [self._consumer.get_watermark_offsets(part, timeout=_LIMIT_SECONDS) for part in self._parts]
        return sum(high for _, high in marks)

    def ids(self) -> list[int]:
        """Of all records."""
        self._consumer.assign(self._parts)
        records: list[confluent_kafka.Message] = []
        due = self.records()
        while len(records) < due and (some := self._consumer.consume(10_000, timeout=_LIMIT_SECONDS)):
            records += some
        self._consumer.close()
        return [int(found[1]) for record in records if (found := _ID.search(record.value() or b""))]
