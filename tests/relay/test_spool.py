"""The spool on a real disk: torn tails, flipped bits, retention, a full disk."""

import asyncio
import errno
import os
import resource
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_manager.domain.payload import Record
from router_manager.relay.segment import frame, parse
from router_manager.relay.spool import Cursor, Spool
from tests.relay.support import record

MARK = b"\x01\x02\x03\x04"


def plain(records: list[Record]) -> list[tuple[int, int, str, bytes]]:
    return [(one.id, one.ingested_ns, one.topic, one.payload) for one in records]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.log"))


async def append(spool: Spool, *payloads: bytes, topic: str = "a/b") -> list[Record]:
    records = [record(spool.next_id + n, payload, topic=topic) for n, payload in enumerate(payloads)]
    spool.accept(records)
    await spool.flush()
    return records


async def read_all(spool: Spool, from_id: int = 1, topics: Collection[str] = ("a/b",)) -> list[Record]:
    found: list[Record] = []
    cursor, next_id = spool.seek(from_id), from_id
    while next_id < spool.head:
        page = await spool.read(cursor, from_id=next_id, topics=topics)
        found += page.records
        assert (page.cursor, page.next_id) != (cursor, next_id), "a read always gets on"
        cursor, next_id = page.cursor, page.next_id
    return found


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.binary(max_size=50)), max_size=9
    )
)
@settings(max_examples=50)
def test_records_are_read_as_they_were_framed(messages: list[tuple[str, bytes]]) -> None:
    records = [record(n + 1, payload, topic=topic, at_ns=-n) for n, (topic, payload) in enumerate(messages)]
    data = frame(records, mark=MARK)
    parsed = parse(data, mark=MARK, final=True)
    assert plain(parsed.records) == plain(records)
    assert (parsed.end, parsed.damage) == (len(data), [])


def test_a_torn_tail_at_any_byte_leaves_the_whole_records() -> None:
    records = [record(n, b"payload-%d" % n) for n in range(1, 5)]
    data = frame(records, mark=MARK)
    ends = [len(frame(records[:n], mark=MARK)) for n in range(5)]
    for cut in range(len(data) + 1):
        parsed = parse(data[:cut], mark=MARK, final=True)
        whole = max(n for n in range(5) if ends[n] <= cut)
        assert plain(parsed.records) == plain(records[:whole])
        assert parsed.end == ends[whole]


def test_a_flipped_bit_costs_the_record_that_it_is_in() -> None:
    records = [record(n, b"payload-%d" % n) for n in range(1, 6)]
    data = frame(records, mark=MARK)
    ends = [len(frame(records[:n], mark=MARK)) for n in range(6)]
    for bit in range(ends[3] * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        hit = next(n for n in range(5) if bit // 8 < ends[n + 1])
        parsed = parse(bytes(flipped), mark=MARK, final=True)
        assert plain(parsed.records) == plain(records[:hit] + records[hit + 1 :])
        assert parsed.damage == [(ends[hit], ends[hit + 1] - ends[hit])]


@given(cut=st.integers(0, 400), mark=st.binary(min_size=4, max_size=4))
@settings(max_examples=50)
def test_a_record_hidden_in_a_payload_is_never_read(cut: int, mark: bytes) -> None:
    forged = frame([record(999, b"forged", topic="other")], mark=mark)
    data = frame([record(1, forged * 5), record(2)], mark=MARK)
    parsed = parse(data[:cut], mark=MARK, final=False)
    assert [one.id for one in parsed.records] in ([], [1], [1, 2])


async def test_what_was_appended_is_there_after_a_restart(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    records = await append(spool, b"1", b"2") + await append(spool, b"3")
    spool.close()
    again = Spool.open(tmp_path)
    assert (again.identity, again.head, again.next_id) == (spool.identity, 4, 4)
    assert plain(await read_all(again)) == plain(records)
    assert plain(await read_all(again, 3)) == plain(records[2:])
    again.close()


async def test_a_torn_tail_is_cut_and_its_ids_go_on(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    records = await append(spool, b"1", b"2")
    await append(spool, b"3" * 100)
    spool.close()
    (segment,) = segments(tmp_path)
    os.truncate(segment, segment.stat().st_size - 1)
    again = Spool.open(tmp_path)
    assert again.head == 3
    records += await append(again, b"new")
    assert plain(await read_all(again)) == plain(records)
    again.close()


async def test_damage_is_reported_once_and_the_rest_is_delivered(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, segment_bytes=1)
    records = [one for n in range(4) for one in await append(spool, b"%d" % n * 50)]
    damaged = segments(tmp_path)[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    for _ in range(2):
        assert plain(await read_all(spool)) == plain(records[:1] + records[2:])
    assert spool.damaged == 1
    spool.close()


async def test_a_segment_that_is_gone_costs_its_records_only(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, segment_bytes=1)
    records = [one for n in range(3) for one in await append(spool, b"%d" % n)]
    segments(tmp_path)[1].unlink()
    assert plain(await read_all(spool)) == plain([records[0], records[2]])
    assert spool.damaged == 1
    spool.close()


async def test_readers_see_only_the_topics_that_they_want(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    await append(spool, b"1", topic="a")
    wanted = await append(spool, b"2", topic="b")
    await append(spool, b"3", topic="c")
    assert plain(await read_all(spool, topics={"b"})) == plain(wanted)
    spool.close()


async def test_pages_grow_for_records_that_are_larger(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    records = await append(spool, b"x" * 3_000_000, b"small", b"y" * 500_000)
    assert plain(await read_all(spool)) == plain(records)
    spool.close()


async def test_seek_starts_near_the_record(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    for _ in range(20):
        await append(spool, b"x" * 100_000)
    cursor = spool.seek(18)
    assert cursor.offset > 1_400_000
    assert (await read_all(spool, 18))[0].id == 18
    spool.close()


async def test_segments_go_when_all_have_passed_them_but_not_the_last(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, segment_bytes=1)
    for n in range(4):
        await append(spool, b"%d" % n)
    spool.release(3)
    assert [int(path.stem) for path in segments(tmp_path)] == [3, 4]
    spool.release(100)
    (last,) = segments(tmp_path)
    assert spool.size == last.stat().st_size
    assert spool.first_id == 4
    assert spool.seek(1) == Cursor(4, 0)
    spool.close()
    again = Spool.open(tmp_path)
    assert again.head == 5
    again.close()


async def test_the_bound_is_on_all_segments_together(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, segment_bytes=1, max_bytes=250)
    full = []
    for _ in range(2):
        await append(spool, b"x" * 100)
        full.append(spool.full)
    spool.release(2)
    assert [*full, spool.full] == [False, True, False]
    spool.close()


async def test_the_newest_segments_within_a_share_are_found(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, segment_bytes=1, max_bytes=1000)
    for _ in range(4):
        await append(spool, b"x" * 63)
    one = spool.size // 4
    shares = (0, one, 2 * one - 1, 2 * one, 3 * one, 4 * one, 1000)
    assert [spool.newest(share) for share in shares] == [4, 4, 4, 3, 2, 1, 1]
    spool.close()


async def test_a_disk_that_others_fill_leaves_less_to_the_spool(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    spool = Spool.open(tmp_path, reserve_bytes=disk.f_blocks * disk.f_frsize)
    await append(spool, b"1")
    assert (spool.full, spool.obstacle) == (True, "the disk is full")
    spool.close()
    spool = Spool.open(tmp_path, max_bytes=1)
    assert (spool.full, spool.obstacle) == (True, "the spool is full: a target is behind")
    spool.close()


async def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on the size of files is as near to a full disk as an account without root gets."""
    spool = Spool.open(tmp_path)
    kept = await append(spool, b"kept")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = [record(spool.next_id, b"x" * 100_000)]
    spool.accept(large)
    resource.setrlimit(resource.RLIMIT_FSIZE, (spool.size + 5_000, hard))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is asked below
            await spool.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    (segment,) = segments(tmp_path)
    assert segment.stat().st_size == spool.size
    assert (spool.head, spool.tail) == (large[0].id, large)
    await spool.flush()
    assert plain(await read_all(spool)) == plain(kept + large)
    spool.close()


async def test_a_failed_write_that_cannot_be_undone_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool.open(tmp_path)
    kept = await append(spool, b"kept")

    def broken(file: Any, *arguments: Any) -> None:
        if arguments[1:]:
            write(file, *arguments)
        raise OSError(errno.EIO, "disk")

    late = [record(spool.next_id, b"late")]
    spool.accept(late)
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", broken)
    monkeypatch.setattr(os, "truncate", broken)
    with pytest.raises(OSError, match="disk"):
        await spool.flush()
    monkeypatch.undo()
    await spool.flush()
    assert plain(await read_all(spool)) == plain(kept + late)
    assert (spool.damaged, segments(tmp_path)[0].stat().st_size) == (0, spool.size)
    spool.close()


@pytest.mark.parametrize("content", ["nonsense", "\xff", None], ids=["nonsense", "no ASCII", "lost"])
async def test_records_are_read_although_the_identity_is_lost(tmp_path: Path, content: str | None) -> None:
    spool = Spool.open(tmp_path, segment_bytes=1)
    records = await append(spool, b"1") + await append(spool, b"2")
    spool.close()
    (tmp_path / "id").unlink() if content is None else (tmp_path / "id").write_text(content, "latin-1")
    for damaged in (1, 0):
        again = Spool.open(tmp_path, segment_bytes=1)
        assert again.damaged == damaged
        assert again.identity != spool.identity, "or targets would take new batches for old ones"
        assert plain(await read_all(again)) == plain(records)
        again.close()


async def test_no_id_is_used_again_behind_a_segment_that_cannot_be_read(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, segment_bytes=1)
    records = await append(spool, b"1") + await append(spool, b"2")
    spool.close()
    (last,) = segments(tmp_path)[1:]
    last.rename(tmp_path / "moved")
    (tmp_path / "not-there").symlink_to("/proc/self/mem")
    (tmp_path / "not-there").rename(last)  # its first bytes cannot be read: EIO
    again = Spool.open(tmp_path)
    assert (again.damaged, again.head > records[-1].id) == (1, True)
    new = await append(again, b"3")
    assert plain(await read_all(again)) == plain(records[:1] + new)
    again.close()


async def test_ages_of_an_earlier_life_are_those_of_its_files(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, segment_bytes=1)
    for n in range(3):
        await append(spool, b"%d" % n)
    spool.close()
    now = segments(tmp_path)[0].stat().st_mtime
    for path, age in zip(segments(tmp_path), (300, 200, 100), strict=True):
        os.utime(path, (now - age, now - age))
    again = Spool.open(tmp_path)
    assert [(end, round(age, -2)) for end, age in again.ages()] == [(2, 300), (3, 200), (4, 100)]
    again.close()


async def test_lanes_that_come_by_together_read_a_page_once_and_get_their_own(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    records = [record(n, b"x%d" % n, topic=f"topic/{n % 7}") for n in range(1, 300)]
    spool.accept(records)
    await spool.flush()
    lanes = [read_all(spool, topics={f"topic/{n % 7}", f"topic/{(n + 3) % 7}", "nobody's"}) for n in range(20)]
    found = await asyncio.gather(*lanes)
    for n, own in enumerate(found):
        assert plain(own) == plain([one for one in records if int(one.topic[-1]) in (n % 7, (n + 3) % 7)])
    assert len({id(one) for own in found for one in own}) == len(records)
    assert plain(await read_all(spool, from_id=200, topics={"topic/1"})) == plain(
        [one for one in records if one.id >= 200 and one.topic == "topic/1"]
    )
    spool.close()


async def test_a_page_that_was_let_go_while_it_was_read_is_no_damage(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, segment_bytes=100)
    for n in range(10):
        await append(spool, b"%d" % n * 90)
    cursor = spool.seek(1)
    reading = asyncio.create_task(spool.read(cursor, from_id=spool.head, topics={"a/b"}))
    spool.release(spool.head)
    page = await reading
    assert (page.records, page.damaged, spool.damaged) == ([], 0, 0)
    spool.close()
