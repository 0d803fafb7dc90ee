"""Edge relays put each reading into Kafka once; deliver relays, as many as wanted, serve the routes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from router_manager.domain.site import collected, site_topic
from router_manager.domain.table import Route
from router_manager.relay.engine import Relay
from router_manager.relay.kafka.cluster import Cluster
from router_manager.relay.kafka.source import KafkaSource, SiteSettings
from router_manager.relay.metrics import RelayCollector
from router_manager.relay.targets.exits import Exits
from scripts.testbed.broker import Broker
from scripts.testbed.kafka import Kafka
from tests.relay.kafka.support import create, endpoint, exits, headers, read, relay, write
from tests.relay.support import (
    LIMIT_SECONDS,
    LOOPBACK,
    Target,
    numbered,
    publish_all,
    route,
    serving,
    status,
    table,
    until,
)
from tests.relay.support import endpoint as web

pytestmark = [pytest.mark.broker, pytest.mark.kafka]
DEVICES = 12


@asynccontextmanager
async def delivering(
    state: Path, kafka: Kafka, topic: str, *routes: Route, drain_seconds: float = 10.0
) -> AsyncIterator[Relay]:
    """One of the deliver relays of a site, which takes a share of the topic."""
    # Nothing that a busy machine delays may look like a fault: it would show readings again.
    site = SiteSettings(
        cluster=Cluster(servers=(kafka.address,), plain=True),
        topic=topic,
        group=topic,
        session_seconds=45.0,
        drain_seconds=drain_seconds,
    )
    to = Exits(LOOPBACK, timeout_seconds=LIMIT_SECONDS)
    async with Relay(state=state, session=None, exits=to, site=site) as running:
        running.apply(table(*routes))
        await until(lambda: running.ready, what="membership")
        yield running
        await running.drain(drain_seconds)


def site_of(running: Relay) -> KafkaSource:
    assert running.site is not None
    return running.site


def _at_site(one: Route) -> Route:
    """As a deliver relay sees the route of an edge relay."""
    sources = [each.model_copy(update={"topic": site_topic(each.topic, node=each.node)}) for each in one.sources]
    return one.model_copy(update={"sources": tuple(sources)})


def reading(number: int, *, of: int = 0) -> tuple[bytes, bytes, dict[str, bytes]]:
    """As an edge relay writes it."""
    headers = {"node": b"edge-1", "topic": b"device/%d" % of, "ingested-ns": b"%d" % number}
    return b"device-%d" % of, orjson.dumps({"id": number, "of": of}), headers


def spread(numbers: Iterable[int]) -> list[tuple[bytes, bytes, dict[str, bytes]]]:
    return [reading(number, of=number % DEVICES) for number in numbers]


def of_all(target: Target) -> Route:
    return route(web(target), topics=[site_topic(f"device/{number}", node="edge-1") for number in range(DEVICES)])


def order_kept(target: Target) -> bool:
    by_device = defaultdict(list)
    for each in target.accepted:
        by_device[each["of"]].append(each["id"])
    return all(several == sorted(several) for several in by_device.values())


async def test_a_reading_is_written_once_and_served_to_every_route_with_the_time_of_the_edge(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    async with (
        serving(Target()) as one,
        serving(Target()) as two,
        relay(tmp_path / "edge", broker.port, to=exits(kafka.address)) as edge,
    ):
        routes = [route(web(one, envelope=True)), route(web(two), uid="route-2")]
        edge.apply(collected(table(*routes), into=endpoint(kafka.address, topic)))
        await until(lambda: edge.ready)
        await publish_all(broker.port, numbered(range(200)))
        written = await read(kafka, topic, ids=set(range(200)))
        assert len(written) == 200, "two routes, and one record"
        at_site = [_at_site(each) for each in routes]
        async with delivering(tmp_path / "deliver", kafka, topic, *at_site):
            await until(lambda: len(one.accepted) >= 200 and len(two.accepted) >= 200)
    assert two.ids == list(range(200))
    assert [each["reading"]["id"] for each in one.accepted] == list(range(200))
    arrived = headers(written[0])["ingested-ns"]
    assert one.accepted[0]["ingestedAt"].endswith(f"{int(arrived) % 1_000_000_000:09d}Z")


async def test_relays_come_and_go_and_every_reading_arrives_once_and_in_order(
    tmp_path: Path, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic, partitions=4)
    async with serving(Target()) as target:
        async with delivering(tmp_path / "one", kafka, topic, of_all(target)) as one:
            await write(kafka, topic, spread(range(2000)))
            await until(lambda: len(target.accepted) >= 500)
            async with delivering(tmp_path / "two", kafka, topic, of_all(target)) as two:
                await write(kafka, topic, spread(range(2000, 4000)))
                await until(
                    lambda: len(site_of(one).partitions) == 2 == len(site_of(two).partitions), what="equal shares"
                )
                await write(kafka, topic, spread(range(4000, 6000)))
                await until(lambda: len(target.accepted) >= 6000)
            await until(lambda: len(site_of(one).partitions) == 4, what="all partitions back")
            await write(kafka, topic, spread(range(6000, 7000)))
            await until(lambda: len(target.accepted) >= 7000)
        assert sorted(target.ids) == list(range(7000))
        assert order_kept(target)


async def test_what_is_spooled_is_not_read_again_and_what_is_not_is(tmp_path: Path, kafka: Kafka, topic: str) -> None:
    await create(kafka, topic)
    async with serving(Target(always=status(503, Retry_After="0"))) as target:
        async with delivering(tmp_path / "one", kafka, topic, of_all(target), drain_seconds=0.5) as one:
            await write(kafka, topic, spread(range(300)))
            await until(lambda: one.spool.head == 301, what="300 records on disk")
        async with delivering(tmp_path / "two", kafka, topic, of_all(target)) as two:
            await write(kafka, topic, spread(range(300, 400)))
            await until(lambda: two.spool.head == 101, what="100 records on disk")
            target.always = None
            await until(lambda: len(target.accepted) >= 100)
        async with delivering(tmp_path / "one", kafka, topic, of_all(target)):
            await until(lambda: len(target.accepted) >= 400)
        assert sorted(target.ids) == list(range(400))


async def test_records_of_others_are_passed_over_and_counted(tmp_path: Path, kafka: Kafka, topic: str) -> None:
    await create(kafka, topic)
    strange = [(b"x", b"{}", {}), (b"x", b"{}", {"node": b"\xff", "topic": b"t", "ingested-ns": b"1"})]
    async with serving(Target()) as target, delivering(tmp_path / "one", kafka, topic, of_all(target)) as one:
        await write(kafka, topic, [*strange, *spread(range(50))])
        await until(lambda: len(target.accepted) >= 50)
        assert site_of(one).malformed == 2
        told = {each.name: each.samples[0].value for each in RelayCollector(one).collect() if each.samples}
        assert told["fluidos_edge_relay_site_malformed"] == 2
        assert told["fluidos_edge_relay_site_partitions"] == 3


async def test_a_killed_cluster_costs_no_reading_and_doubles_none(
    tmp_path: Path, broker: Broker, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic)
    async with (
        serving(Target()) as target,
        relay(tmp_path / "edge", broker.port, to=exits(kafka.address, timeout_seconds=0.5)) as edge,
        delivering(tmp_path / "deliver", kafka, topic, _at_site(route(web(target)))),
    ):
        edge.apply(collected(table(route(web(target))), into=endpoint(kafka.address, topic)))
        await until(lambda: edge.ready)
        await publish_all(broker.port, numbered(range(1000)))
        await until(lambda: len(target.accepted) >= 200)
        await asyncio.to_thread(kafka.kill)
        await publish_all(broker.port, numbered(range(1000, 2000)))
        await asyncio.to_thread(kafka.restart)
        await publish_all(broker.port, numbered(range(2000, 3000)))
        await until(lambda: len(target.accepted) >= 3000, limit=90)
    assert target.ids == list(range(3000))
