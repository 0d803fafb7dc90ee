"""Where a target's records come from: a queue in memory while it keeps up, the spool on disk while it does not.

A lane is one (route, target). Lanes share records, and the lists that they arrive in; all queues together have one
bound. A lane whose queue is full, or that starts behind, reads pages from disk until it has caught up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence

from router_manager.domain.payload import Record
from router_manager.domain.table import Feed
from router_manager.relay.spool import Cursor, Spool

_RECORD_BYTES = 500
"""About what a record takes beside its payload, with what was read from that."""
_MAX_AHEAD = 500
"""How far a lane may be ahead of the disk: so many records at most come twice when the relay dies."""


class Chunk:
    """Records that came together, in order; nobody changes them. Lanes share chunks, and memory counts each once."""

    __slots__ = ("held_bytes", "holders", "payload_bytes", "records")

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.payload_bytes = sum([len(record.payload) for record in records])
        self.held_bytes = self.payload_bytes + len(records) * _RECORD_BYTES
        self.holders = 0


class Memory:
    """What all queues together may hold."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0

    def has_room(self, chunk: Chunk) -> bool:
        """Whether one more lane may hold a chunk."""
        return chunk.holders > 0 or self.used + chunk.held_bytes <= self.max_bytes

    def hold(self, chunk: Chunk) -> None:
        """A lane has it in its queue."""
        if not chunk.holders:
            self.used += chunk.held_bytes
        chunk.holders += 1

    def release(self, chunk: Chunk) -> None:
        """A lane has it no longer."""
        chunk.holders -= 1
        if not chunk.holders:
            self.used -= chunk.held_bytes


class Lane:
    """Hands out records in order, each at least once. For one consumer."""

    def __init__(self, *, spool: Spool, memory: Memory, feeds: Mapping[str, Feed], position: int) -> None:
        """Start with the record `position`.

        Args:
            spool: of the relay.
            memory: shared by all lanes.
            feeds: by topic.
            position: id of the first record that is owed.
        """
        self.drained = asyncio.Event()
        """Set while there is nothing to deliver."""
        self.damaged = 0
        """Places of the spool that could not be read, and may have held records of the lane."""
        self._spool = spool
        self._memory = memory
        self._queue: deque[Chunk] = deque()
        self._ahead: deque[tuple[int, int]] = deque()
        """Batches that were taken before they were on disk: last id, and how many."""
        self._ahead_records = 0
        self._begun = 0
        """Records of the first chunk that have been taken."""
        self._queued = 0
        self._arrived = asyncio.Event()
        self._closed = False
        self._owed: int | None = None
        """The first record that was taken and is not done."""
        self._owed_ns = 0
        """When that was read."""
        self._next_id = min(position, spool.next_id)
        """While behind: the first record that was not yet read."""
        self._behind = self._place(self._next_id)
        self.configure(feeds)

    def configure(self, feeds: Mapping[str, Feed]) -> None:
        """Take other feeds. Records that were there before are looked at one by one when they are taken."""
        self._feeds = feeds
        self._vet_below = self._spool.next_id

    @property
    def position(self) -> int:
        """Every record below is on disk, and delivered, dead, filtered or of other lanes."""
        if self._owed is not None:
            position = self._owed
        elif self._queue:
            position = self._first.id
        else:
            position = self._spool.next_id if self._behind is None else self._next_id
        return min(position, self._spool.head)

    @property
    def backlog(self) -> int:
        """Records still to be delivered; while behind those of other topics count as well."""
        return self._queued + (0 if self._behind is None else self._spool.next_id - self._next_id)

    @property
    def backlog_bytes(self) -> int:
        """What the lane holds back of the spool."""
        return self._spool.bytes_from(self.position)

    @property
    def ahead(self) -> int:
        """Records that were taken, and are not yet on disk."""
        head = self._spool.head
        while self._ahead and self._ahead[0][0] < head:
            self._ahead_records -= self._ahead.popleft()[1]
        return self._ahead_records

    @property
    def oldest_ns(self) -> int | None:
        """When the first of the records that are not done was read; None where none is at hand."""
        if self._owed is not None:
            return self._owed_ns
        return self._first.ingested_ns if self._queue else None

    def push(self, chunk: Chunk) -> None:
        """Records of the lane's topics, which the spool has accepted."""
        if self._behind is not None or self._closed:
            return
        if self._memory.has_room(chunk):
            self._enqueue(chunk)
        else:
            self._next_id = chunk.records[0].id
            self._behind = self._spool.seek(self._next_id)
        self.drained.clear()
        self._arrived.set()

    async def wait(self) -> None:
        """Until there is a record; reads from disk while the lane is behind."""
        while not self._queue or self.ahead >= _MAX_AHEAD:
            if self._queue:
                await self._spool.flushed.wait()
            elif self._behind is not None:
                await self._read_page(self._behind)
            else:
                self._arrived.clear()
                self.drained.set()
                await self._arrived.wait()

    def take(self, *, records: int, size_bytes: int) -> list[Record]:
        """The next records within the bounds; at least one, unless none of those at hand is for this lane."""
        taken: list[Record] = []
        size = 0
        records = max(1, min(records, _MAX_AHEAD - self.ahead))
        while self._queue and len(taken) < records:
            chunk = self._queue[0]
            part, part_bytes = chunk.records, chunk.payload_bytes
            if self._begun or len(taken) + len(part) > records or size + part_bytes > size_bytes:
                part = part[self._begun : self._begun + records - len(taken)]
                sizes = [len(record.payload) for record in part]
                while size + sum(sizes) > size_bytes and len(taken) + len(sizes) > 1:
                    sizes = sizes[: len(sizes) // 2]  # halves are near enough: large readings are rare
                part, part_bytes = part[: len(sizes)], sum(sizes)
            size += part_bytes
            taken += part
            self._begun += len(part)
            if self._begun < len(chunk.records):
                break
            self._memory.release(self._queue.popleft())
            self._begun = 0
        self._queued -= len(taken)
        if taken and taken[-1].id >= self._spool.head:
            self._ahead.append((taken[-1].id, len(taken)))
            self._ahead_records += len(taken)
        self._owed, self._owed_ns = (taken[0].id, taken[0].ingested_ns) if taken else (None, 0)
        if taken and taken[0].id < self._vet_below:
            feeds = self._feeds
            return [record for record in taken if (feed := feeds.get(record.topic)) and record.id >= feed.since]
        return taken

    def advance(self, position: int) -> None:
        """All taken records below `position` are done, others are not."""
        self._owed = position

    def settle(self) -> None:
        """All taken records are done."""
        self._owed = None

    def shed(self) -> None:
        """Leave to the disk what is queued, and what comes: the target takes nothing now, others need the memory."""
        if self._queue or self._behind is None:
            self._next_id = self._first.id if self._queue else self._spool.next_id
            self._behind = self._spool.seek(self._next_id)
            self._clear()

    def rewind(self) -> None:
        """Hand out again what was taken and is not done."""
        self._next_id = self.position
        self._behind = self._place(self._next_id)
        self._clear()
        self._owed = None

    def close(self) -> None:
        """Take no more, and give the memory back."""
        self._closed = True
        self._clear()
        self.drained.set()

    @property
    def _first(self) -> Record:
        return self._queue[0].records[self._begun]

    def _place(self, position: int) -> Cursor | None:
        return self._spool.seek(position) if position < self._spool.next_id else None

    def _enqueue(self, chunk: Chunk) -> None:
        self._queue.append(chunk)
        self._queued += len(chunk.records)
        self._memory.hold(chunk)

    def _clear(self) -> None:
        for chunk in self._queue:
            self._memory.release(chunk)
        self._queue.clear()
        self._queued = self._begun = 0

    async def _read_page(self, cursor: Cursor) -> None:
        if self._next_id >= self._spool.head:
            # All of the disk is read. No await from here on: what comes next is pushed.
            self._behind = None
            records = [one for one in self._spool.tail if one.id >= self._next_id and one.topic in self._feeds]
        else:
            page = await self._spool.read(cursor, from_id=self._next_id, topics=self._feeds)
            self._next_id, self._behind = page.next_id, page.cursor
            self.damaged += page.damaged
            records = page.records
        if records and not self._closed:
            # A page counts as memory but is not refused: who waits for the memory of others may wait for ever.
            self._enqueue(Chunk(records))
