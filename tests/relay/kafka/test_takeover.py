"""A deliver relay that is killed: another of its group goes on, and what the killed one's disk holds waits for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from scripts.testbed.kafka import Kafka
from tests.faults.site import Relay as Process
from tests.relay.kafka.support import create, write
from tests.relay.kafka.test_site import delivering, of_all, order_kept, site_of, spread
from tests.relay.support import Target, serving, table, until

pytestmark = pytest.mark.kafka


async def test_a_killed_deliver_relay_is_replaced_by_another_of_its_group_and_no_reading_is_lost(
    tmp_path: Path, kafka: Kafka, topic: str
) -> None:
    await create(kafka, topic, partitions=4)
    flags = ("--from-kafka", kafka.address, "--kafka-topic", topic, "--kafka-group", topic)
    # Each delivers to a target of its own: across the two of them nobody promises an order.
    async with serving(Target()) as of_killed, serving(Target()) as of_other:
        killed = Process(tmp_path, table(of_all(of_killed)), logs=tmp_path, broker=None, listen_rate=None, flags=flags)
        try:
            async with delivering(tmp_path / "other", kafka, topic, of_all(of_other)) as other:
                await until(lambda: len(site_of(other).partitions) == 2, what="half of the partitions")
                await write(kafka, topic, spread(range(3000)))
                await until(lambda: len(of_killed.accepted) >= 300)
                await asyncio.to_thread(killed.kill)
                await write(kafka, topic, spread(range(3000, 5000)))
                await until(lambda: len(site_of(other).partitions) == 4, what="all partitions")
                # Nobody waits for the one that is gone, but what only its disk has.
                await until(lambda: {*range(3000, 5000)} <= set(of_other.ids))
                await asyncio.to_thread(killed.start)
                await until(lambda: {*of_killed.ids, *of_other.ids} >= {*range(5000)}, what="all ids")
        finally:
            await asyncio.to_thread(killed.kill)
    assert order_kept(of_other)
    assert max(Counter(of_other.ids).values()) == 1
    first_seen = Target(accepted=list({each["id"]: each for each in of_killed.accepted}.values()))
    assert order_kept(first_seen), "what it delivered before it could note so comes again"
