"""What a deliver relay does with records of the site's topic, whoever wrote them and whatever room there is."""

from pathlib import Path

import pytest
from confluent_kafka import Message

from router_manager.domain.table import Feed
from router_manager.relay.ingest import Ingest
from router_manager.relay.kafka.cluster import Cluster
from router_manager.relay.kafka.source import KafkaSource, SiteSettings
from router_manager.relay.lane import Lane, Memory
from router_manager.relay.spool import Spool
from tests.relay.support import source

TOPIC = "edge-1/a/b"


class Site:
    """A source that is not connected, the spool behind it, and a lane that wants its readings."""

    def __init__(self, spool: Spool) -> None:
        self.spool, self.ingest = spool, Ingest(spool)
        feeds = {TOPIC: Feed(source=source(TOPIC), since=0)}
        self.ingest.serve({TOPIC: [Lane(spool=spool, memory=Memory(1 << 20), feeds=feeds, position=1)]})
        settings = SiteSettings(cluster=Cluster(servers=("127.0.0.1:1",), plain=True), topic="site", group="group")
        self.source = KafkaSource(settings, self.ingest, delivered=self.ingest.drained)

    def take(self, *moments: bytes | None) -> None:
        self.source._hand_on([message(number, moment) for number, moment in enumerate(moments)])


def message(offset: int, moment: bytes | None) -> Message:
    headers: list[tuple[str, str | bytes | None]] = [("node", b"edge-1"), ("topic", b"a/b"), ("ingested-ns", moment)]
    return Message(topic="site", partition=0, offset=offset, key=b"device-1", value=b"1", headers=headers)


async def test_a_spool_without_room_makes_the_source_wait(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, max_bytes=0)
    site = Site(spool)
    site.take(b"1")
    site.take(b"2")
    assert not site.source.open.is_set()
    assert [one.ingested_ns for one in spool.tail] == [1, 2]
    spool.close()


@pytest.mark.parametrize("moment", [b"9223372036854775808", b"-1", b"9" * 30, b"now", None])
async def test_a_time_that_is_none_costs_its_record_alone(tmp_path: Path, moment: bytes | None) -> None:
    spool = Spool.open(tmp_path)
    site = Site(spool)
    site.take(b"1", moment, b"9223372036854775807")
    assert site.source.malformed == 1
    await spool.flush()
    assert spool.head == 3
    spool.close()
