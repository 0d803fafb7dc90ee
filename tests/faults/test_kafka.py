"""SIGKILL with Kafka in between: the cluster, the relay that writes to it and the one that reads from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from crds.models.addresses import Kafka as Address
from crds.models.delivery import Endpoint
from router_manager.domain.site import collected, site_topic
from scripts.testbed.kafka import Kafka
from tests.faults.site import LIMIT_SECONDS, TOPICS, Publisher, Relay, Sink, Site, strike
from tests.relay.support import route, table

pytestmark = pytest.mark.kafka


@dataclass(frozen=True, slots=True)
class Cluster:
    kafka: Kafka

    def kill(self) -> None:
        self.kafka.kill()

    def start(self) -> None:
        self.kafka.restart()


@contextmanager
def chain(directory: Path, kafka: Kafka) -> Iterator[tuple[Site, Relay]]:
    """Devices, edge relay, Kafka, deliver relay, target; the relay of the Site is the edge's, the other the deliver."""
    into = Endpoint(name="kafka", kafka=Address(bootstrap_servers=(kafka.address,), topic="readings"))
    topic = ("--kafka-topic", "readings", "--allow-kafka", kafka.address)
    with ExitStack() as stack:
        sink = Sink(directory)
        stack.callback(sink.kill)
        target = Endpoint(name="target", url=sink.url)
        deliver = Relay(
            directory / "there",
            table(route(target, topics=[site_topic(each, node="edge-1") for each in TOPICS])),
            logs=directory / "there",
            broker=None,
            listen_rate=None,
            flags=("--from-kafka", kafka.address, *topic),
        )
        stack.callback(deliver.kill)
        edge = Relay(
            directory,
            collected(table(route(target, topics=TOPICS)), into=into),
            logs=directory,
            flags=("--to-kafka", kafka.address, *topic),
        )
        stack.callback(edge.kill)
        # The topic comes into being with the first reading, and the deliver relay becomes ready with it.
        edge.child.wait_until(edge.serves, what="its route", limit=LIMIT_SECONDS)
        publisher = Publisher(directory, edge.port)
        stack.callback(publisher.child.kill)
        running = Site(relay=edge, sink=sink, publisher=publisher)
        running.moves(what="the first delivery")
        yield running, deliver


@pytest.mark.timeout(600)
def test_a_killed_kafka_and_killed_relays_on_both_sides_of_it_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with Kafka(tmp_path / "kafka") as kafka, chain(tmp_path, kafka) as (running, deliver):
        kills = strike(Cluster(kafka), running, "kafka")
        kills += strike(running.relay, running, "edge relay")
        kills += strike(deliver, running, "deliver relay")
        running.settle(faults=kills)
