"""Where a target's records come from: a queue in memory while it keeps up, the spool on disk while it does not.

A lane is one (route, target). All lanes share the records; a queue holds references, within a bound for all of them
together. A lane whose queue is full, or that starts behind the spool's end, reads pages from disk until it has caught
up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping

from router_manager.domain.payload import Record
from router_manager.domain.table import Feed
from router_manager.relay.spool import Cursor, Spool

_MAX_QUEUED_RECORDS = 4096
_CROWDED_RECORDS = 500
_RECORD_BYTES = 200
"""About what a record takes beside its payload."""


class Memory:
    """What all queues together may hold."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0


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
        self.feeds = feeds
        self._spool = spool
        self._memory = memory
        self._queue: deque[Record] = deque()
        self._arrived = asyncio.Event()
        self.drained = asyncio.Event()
        """Set while there is nothing to deliver."""
        self._owed: int | None = None
        """The first record that was taken and is not delivered."""
        self._next_id = min(position, spool.next_id)
        """While behind: the first record that was not yet read."""
        self._behind = spool.seek(self._next_id) if self._next_id < spool.next_id else None

    @property
    def position(self) -> int:
        """Every record below is delivered, dead, filtered or of other lanes."""
        if self._owed is not None:
            return self._owed
        if self._queue:
            return self._queue[0].id
        return self._spool.next_id if self._behind is None else self._next_id

    @property
    def backlog(self) -> int:
        """Records up to the spool's end; while behind those of other topics count as well."""
        return len(self._queue) + (0 if self._behind is None else self._spool.next_id - self._next_id)

    @property
    def crowded(self) -> bool:
        """There is no point in waiting for more records to make a batch of."""
        return self._behind is not None or len(self._queue) >= _CROWDED_RECORDS

    def push(self, record: Record) -> None:
        """A record of one of the lane's topics was appended to the spool."""
        if self._behind is not None:
            return
        queue, memory = self._queue, self._memory
        size = len(record.payload) + _RECORD_BYTES
        if len(queue) >= _MAX_QUEUED_RECORDS or memory.used + size > memory.max_bytes:
            self._next_id = record.id
            self._behind = self._spool.seek(record.id)
        else:
            memory.used += size
            queue.append(record)
        if self.drained.is_set():
            self.drained.clear()
            self._arrived.set()

    async def wait(self) -> None:
        """Until there is a record; reads from disk while the lane is behind."""
        while not self._queue:
            if self._behind is not None:
                await self._read_page(self._behind)
            else:
                self._arrived.clear()
                self.drained.set()
                await self._arrived.wait()

    def take(self, *, records: int, size_bytes: int) -> list[Record]:
        """The next records within the bounds; one at least, unless none of those at hand is for this lane."""
        queue, feeds, memory = self._queue, self.feeds, self._memory
        taken: list[Record] = []
        size = 0
        while queue and len(taken) < records:
            record = queue[0]
            length = len(record.payload)
            size += length
            if taken and size > size_bytes:
                break
            queue.popleft()
            memory.used -= length + _RECORD_BYTES
            feed = feeds.get(record.topic)
            if feed is not None and record.id >= feed.since:
                taken.append(record)
        self._owed = taken[0].id if taken else None
        return taken

    def advance(self, position: int) -> None:
        """All taken records below `position` are done, others are not."""
        self._owed = position

    def settle(self) -> None:
        """All taken records are done."""
        self._owed = None

    def rewind(self) -> None:
        """Hand out again what was taken and is not done."""
        position = self.position
        self.close()
        self._owed = None
        self._next_id = position
        self._behind = self._spool.seek(position) if position < self._spool.next_id else None

    def close(self) -> None:
        """Give the memory back."""
        self._memory.used -= sum(len(record.payload) + _RECORD_BYTES for record in self._queue)
        self._queue.clear()

    async def _read_page(self, cursor: Cursor) -> None:
        page = await self._spool.read(cursor, from_id=self._next_id, topics=self.feeds)
        self._next_id = page.next_id
        # A page counts as memory, but is not refused: who waits for the memory of others may wait for ever.
        self._memory.used += sum(len(record.payload) + _RECORD_BYTES for record in page.records)
        self._queue.extend(page.records)
        # No await between the end of the read and here: what is appended from now on is pushed.
        self._behind = page.cursor if page.next_id < self._spool.next_id else None
