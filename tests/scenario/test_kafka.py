"""The main job with Kafka in between: the node's relay collects, a deliver relay serves the routes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.testbed.kafka import Kafka
from tests.relay.kafka.support import BROKERS, create, tls_files
from tests.scenario.world import FLEET, LIMIT, World

pytestmark = pytest.mark.kafka
TOPIC, DELIVER = "site", "scenario-provider-deliver"


@contextmanager
def kafka_between(world: World, directory: Path) -> Iterator[None]:
    """Edge and deliver relay, over mutual TLS to a cluster that knows the provider's relays; at the end as before."""
    assert world.provider.identities is not None
    relay = world.process("provider relay")
    roots = directory / "kafka.pem"
    roots.write_bytes(BROKERS.pem)
    with Kafka(directory, tls=replace(tls_files(directory), roots=world.provider.identities.bundle, users=())) as kafka:
        asyncio.run(create(kafka, TOPIC))
        site = ("--kafka-topic", TOPIC, "--kafka-roots", roots)
        flags = world.crew.arguments(relay)
        of_edge = dict(zip(flags[::2], flags[1::2], strict=True))
        for name in ("--broker", "--listen", "--state-dir", "--metrics-port"):
            del of_edge[name]
        shared = [word for pair in of_edge.items() for word in pair]
        own = ("--state-dir", directory / "deliver", "--from-kafka", kafka.tls_address)
        world.crew.start_probed(DELIVER, "router_manager.relay", *shared, *site, *own)
        world.crew.kill(relay)
        world.crew.start_again(relay, *site, "--to-kafka", kafka.tls_address)
        world.crew.wait_ready(limit=LIMIT)
        try:
            yield
        finally:
            world.crew.kill(relay)
            world.crew.start_again(relay)
            world.crew.dismiss(DELIVER)
            world.crew.wait_ready(limit=LIMIT)


def test_readings_reach_every_endpoint_by_way_of_kafka_also_when_the_deliver_relay_dies(
    world: World, tmp_path: Path
) -> None:
    before = world.objects()
    with kafka_between(world, tmp_path):
        with world.flow(*FLEET) as flow:
            world.crew.kill(DELIVER)
            world.wait_taken(flow)
            world.crew.start_again(DELIVER)
            world.wait_flowing(*flow.targets, more=20)
        # Posted but not noted, read but not committed.
        assert world.wait_delivered(flow) <= 3
    assert world.objects() == before
