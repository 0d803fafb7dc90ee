"""A lane hands out what its route may have, in order, from memory or from disk."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_manager.domain.payload import Record
from router_manager.domain.table import Feed
from router_manager.relay.lane import Chunk, Lane, Memory
from router_manager.relay.spool import Spool
from tests.relay.support import record, source


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    own = Spool.open(tmp_path, segment_bytes=2000)
    yield own
    own.close()


def feeds(**since: int) -> dict[str, Feed]:
    return {topic: Feed(source=source(topic), since=mark) for topic, mark in since.items()}


async def append(spool: Spool, count: int, topic: str = "a", payload: bytes = b"x") -> list[Record]:
    records = accept(spool, count, topic, payload)
    await spool.flush()
    return records


def accept(spool: Spool, count: int, topic: str = "a", payload: bytes = b"x") -> list[Record]:
    records = [record(spool.next_id + n, payload, topic=topic) for n in range(count)]
    spool.accept(records)
    return records


def push(lane: Lane, records: list[Record]) -> None:
    lane.push(Chunk(records))


async def take_all(lane: Lane, count: int, *, records: int = 7) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            await lane.wait()
            found += [one.id for one in lane.take(records=records, size_bytes=1000)]
            lane.settle()
    return found


async def test_a_lane_starts_with_its_position_and_catches_up_from_disk(spool: Spool) -> None:
    await append(spool, 100)
    lane = Lane(spool=spool, memory=Memory(1 << 20), feeds=feeds(a=0), position=31)
    assert lane.position == 31
    assert await take_all(lane, 70) == list(range(31, 101))
    assert lane.position == 101
    push(lane, await append(spool, 3))
    assert lane.backlog == 3
    assert await take_all(lane, 3) == [101, 102, 103]


async def test_a_lane_that_caught_up_takes_what_is_not_yet_on_disk_and_then_what_comes(spool: Spool) -> None:
    await append(spool, 10)
    accept(spool, 10)
    lane = Lane(spool=spool, memory=Memory(1 << 20), feeds=feeds(a=0), position=6)
    found = await take_all(lane, 15)
    push(lane, accept(spool, 5))
    assert found + await take_all(lane, 5) == list(range(6, 26))
    assert lane.position == 11, "what a power cut would take is owed"
    await spool.flush()
    assert lane.position == 26


async def test_a_lane_gets_nothing_from_before_its_topic_was_its(spool: Spool) -> None:
    await append(spool, 5, "a")
    await append(spool, 5, "b")
    await append(spool, 5, "c")
    lane = Lane(spool=spool, memory=Memory(1 << 20), feeds=feeds(a=3, b=10), position=1)
    assert await take_all(lane, 4) == [3, 4, 5, 10]


async def test_records_of_a_source_that_went_are_not_handed_out(spool: Spool) -> None:
    lane = Lane(spool=spool, memory=Memory(1 << 20), feeds=feeds(a=0, b=0), position=1)
    push(lane, await append(spool, 2, "a"))
    push(lane, await append(spool, 2, "b"))
    lane.configure(feeds(b=0))
    assert await take_all(lane, 2) == [3, 4]


async def test_an_idle_lane_holds_no_segment_back(spool: Spool) -> None:
    lane = Lane(spool=spool, memory=Memory(1 << 20), feeds=feeds(a=0), position=1)
    await append(spool, 500, "other")
    assert lane.position == 501


async def test_what_is_taken_is_owed_until_it_is_done(spool: Spool) -> None:
    lane = Lane(spool=spool, memory=Memory(1 << 20), feeds=feeds(a=0), position=1)
    push(lane, await append(spool, 10))
    lane.take(records=4, size_bytes=1000)
    assert lane.position == 1
    lane.advance(3)
    assert lane.position == 3
    lane.settle()
    assert lane.position == 5


async def test_a_rewound_lane_hands_out_again_what_was_owed(spool: Spool) -> None:
    lane = Lane(spool=spool, memory=Memory(1 << 20), feeds=feeds(a=0), position=1)
    push(lane, await append(spool, 10))
    lane.take(records=4, size_bytes=1000)
    lane.advance(3)
    lane.rewind()
    assert await take_all(lane, 8) == list(range(3, 11))


async def test_what_is_shed_comes_from_disk(spool: Spool) -> None:
    memory = Memory(1 << 20)
    lane = Lane(spool=spool, memory=memory, feeds=feeds(a=0), position=1)
    push(lane, await append(spool, 10))
    push(lane, accept(spool, 5))
    assert [one.id for one in lane.take(records=4, size_bytes=1000)] == [1, 2, 3, 4]
    lane.shed()
    assert (memory.used, lane.position, lane.backlog) == (0, 1, 11)
    push(lane, accept(spool, 5))
    lane.settle()
    assert await take_all(lane, 16) == list(range(5, 21))


async def test_memory_is_bounded_and_given_back(spool: Spool) -> None:
    memory = Memory(10_000)
    lanes = [Lane(spool=spool, memory=memory, feeds=feeds(a=0), position=1) for _ in range(3)]
    for _ in range(50):
        records = await append(spool, 5)
        for lane in lanes:
            push(lane, records)
    assert memory.used <= 10_000
    for lane in lanes:
        assert await take_all(lane, 250) == list(range(1, 251))
    assert memory.used == 0
    push(lanes[0], await append(spool, 5))
    lanes[0].close()
    push(lanes[0], await append(spool, 5))
    assert memory.used == 0


async def test_drained_is_said_only_when_there_is_nothing(spool: Spool) -> None:
    lane = Lane(spool=spool, memory=Memory(1 << 20), feeds=feeds(a=0), position=1)
    waiting = asyncio.create_task(lane.wait())
    async with asyncio.timeout(10):
        await lane.drained.wait()
    push(lane, await append(spool, 1))
    assert not lane.drained.is_set()
    async with asyncio.timeout(10):
        await waiting
    assert not lane.drained.is_set()


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 10), max_size=10),
    records=st.integers(1, 12),
    size_bytes=st.integers(1, 100),
)
@settings(max_examples=100, deadline=None)
def test_batches_keep_order_and_bounds(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cuts: list[int], records: int, size_bytes: int
) -> None:
    own = Spool.open(tmp_path_factory.mktemp("spool"))
    memory = Memory(1 << 20)
    lane = Lane(spool=own, memory=memory, feeds=feeds(a=0), position=1)
    pending = [record(n + 1, b"x" * size, topic="a") for n, size in enumerate(sizes)]
    own.accept(pending)
    while pending:
        cut = cuts.pop() if cuts else len(pending)
        push(lane, pending[:cut])
        pending = pending[cut:]
    found: list[int] = []
    while batch := lane.take(records=records, size_bytes=size_bytes):
        assert len(batch) <= records
        assert len(batch) == 1 or sum(len(one.payload) for one in batch) <= size_bytes
        found += [one.id for one in batch]
    assert found == list(range(1, len(sizes) + 1))
    assert memory.used == 0
    own.close()


async def test_what_several_lanes_hold_counts_once(spool: Spool) -> None:
    memory = Memory(100_000)
    lanes = [Lane(spool=spool, memory=memory, feeds=feeds(a=0), position=1) for _ in range(10)]
    chunk = Chunk(accept(spool, 30))
    for lane in lanes:
        lane.push(chunk)
    assert memory.used == chunk.held_bytes
    for lane in lanes[1:]:
        assert await take_all(lane, 30) == list(range(1, 31))
    assert memory.used == chunk.held_bytes, "one lane has it still"
    lanes[0].close()
    assert memory.used == 0


async def test_a_lane_whose_target_takes_nothing_holds_no_memory_from_then_on(spool: Spool) -> None:
    memory = Memory(1 << 20)
    lane = Lane(spool=spool, memory=memory, feeds=feeds(a=0), position=1)
    push(lane, await append(spool, 1))
    lane.take(records=10, size_bytes=1000)
    lane.shed()
    push(lane, await append(spool, 50))
    push(lane, accept(spool, 5))
    assert (memory.used, lane.position, lane.backlog) == (0, 1, 55)
    lane.settle()
    assert await take_all(lane, 55) == list(range(2, 57))
