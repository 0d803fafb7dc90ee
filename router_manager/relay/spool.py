"""What the relay has taken responsibility for: a log on disk, in segments that go when every lane has passed them.

A record may be acknowledged to its source when the flush after it has returned.
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_right
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from router_manager.domain.payload import Record
from router_manager.relay.identity_file import spool_identity, sync_directory
from router_manager.relay.pages import Contents, Pages
from router_manager.relay.segment import LEAST_RECORD_BYTES, MARK_BYTES, Damage, Parsed, frame, parse

log = structlog.get_logger(__name__)

_PAGE_BYTES = 64 << 10
"""A page is parsed, and delivered, in a few tenths of a millisecond: no longer, for the sake of the live lanes."""
_INDEX_BYTES = 256 << 10
_LEAST_SEGMENTS = 8
"""What is given back is given back by the segment: a small spool has small ones."""
_SUFFIX = ".log"
_DURABLY = os.O_WRONLY | os.O_DSYNC
"""Each write is on disk when it returns, as by fdatasync, without a second wait for the interpreter in between."""


class Cursor(NamedTuple):
    """A place where a record starts."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one read found.

    Attributes:
        records: the wanted ones.
        cursor: where the next read goes on.
        next_id: every record below has been read, and was handed over if it is wanted.
        damaged: places that could not be read, whosever records were there.
    """

    records: list[Record]
    cursor: Cursor
    next_id: int
    damaged: int = 0


class Limits(NamedTuple):
    """Bytes: of a segment, about; of all together; that others are to have of the disk."""

    segment_bytes: int
    max_bytes: int
    reserve_bytes: int


@dataclass(slots=True)
class _Segment:
    first_id: int
    path: Path
    size: int
    marks: list[tuple[int, int]] = field(default_factory=list)
    """Sparse index: (id, offset) of records about every 256 KiB."""


class Spool:
    """Segmented, checksummed, append-only; one task flushes. Made by `open`."""

    def __init__(
        self, *, directory: Path, identity: str, segments: list[_Segment], next_id: int, limits: Limits
    ) -> None:
        self.identity = identity
        self.head = next_id
        """One more than the last record that is on disk."""
        self.next_id = next_id
        """One more than the last record that was accepted."""
        self.tail: list[Record] = []
        """What is between: accepted, and not yet on disk."""
        self.flushed = asyncio.Event()
        """Wakes whoever waits for `head` to grow, each time that it did."""
        self.damaged = 0
        """Places that could not be read."""
        self.size = sum(segment.size for segment in segments)
        self._directory = directory
        self._mark = bytes.fromhex(identity)[:MARK_BYTES]
        self._segments = segments
        self._limits = limits
        self.capacity = limits.max_bytes
        """What the spool may take, as far as the disk has room for it."""
        self._reported: set[tuple[int, int]] = set()
        self._file: int | None = None
        self._writer = ThreadPoolExecutor(1, "spool-write")
        self._pages = Pages()

    @classmethod
    def open(
        cls, directory: Path, *, segment_bytes: int = 16 << 20, max_bytes: int = 4 << 30, reserve_bytes: int = 0
    ) -> Spool:
        """Open or create; cuts a torn tail.

        Args:
            directory: of this spool alone.
            segment_bytes: what one file takes, about.
            max_bytes: what all may take.
            reserve_bytes: of the disk, that the spool leaves free.

        Raises:
            OSError: the folder cannot be used.
        """
        directory.mkdir(parents=True, exist_ok=True)
        segments = sorted(
            (
                _Segment(int(path.stem), path, path.stat().st_size)
                for path in directory.glob(f"*{_SUFFIX}")
                if path.stem.isdigit()
            ),
            key=lambda segment: segment.first_id,
        )
        limits = Limits(min(segment_bytes, max_bytes // _LEAST_SEGMENTS), max_bytes, reserve_bytes)
        identity, damaged = spool_identity(directory / "id", files=[segment.path for segment in segments])
        spool = cls(directory=directory, identity=identity, segments=segments, next_id=1, limits=limits)
        spool.damaged = damaged
        if segments:
            spool._repair(segments[-1])
        spool.measure()
        return spool

    @property
    def first_id(self) -> int:
        """The oldest record that may still be there."""
        return self._segments[0].first_id if self._segments else self.head

    @property
    def full(self) -> bool:
        """The sources have to wait."""
        return self.size >= self.capacity

    @property
    def obstacle(self) -> str:
        """Why they have to; empty while they need not."""
        if not self.full:
            return ""
        bound = self.capacity == self._limits.max_bytes
        return "the spool is full: a target is behind" if bound else "the disk is full"

    def measure(self) -> None:
        """Look how much of the disk is left: others fill it, too."""
        try:
            disk = os.statvfs(self._directory)
        except OSError as error:
            log.error("cannot ask how much of the disk is left", error=str(error))
            return
        room = self.size + disk.f_bavail * disk.f_frsize - self._limits.reserve_bytes
        self.capacity = max(0, min(self._limits.max_bytes, room))

    def bytes_from(self, record_id: int) -> int:
        """What there is from a record on, as exactly as the index is (256 KiB)."""
        if record_id >= self.head:
            return 0
        index = max(bisect_right(self._segments, record_id, key=lambda segment: segment.first_id) - 1, 0)
        return sum(segment.size for segment in self._segments[index:]) - self.seek(record_id).offset

    def newest(self, max_bytes: float) -> int:
        """The first record of the newest segments that take at most so many bytes together, or of the last one."""
        size, first_id = 0, self.head
        for segment in reversed(self._segments):
            size += segment.size
            if size > max_bytes and first_id != self.head:
                break
            first_id = segment.first_id
        return first_id

    def ages(self) -> list[tuple[int, float]]:
        """By segment an id, and for how many seconds, by the wall clock, every record below has been here."""
        ends = [segment.first_id for segment in self._segments[1:]] + [self.head]
        now = time.time()
        found = []
        for end, segment in zip(ends, self._segments, strict=False):
            with suppress(OSError):
                found.append((end, now - segment.path.stat().st_mtime))
        return found

    def accept(self, records: Sequence[Record]) -> None:
        """Take records, whose ids go on from `next_id`; they are on disk after the next flush."""
        self.tail += records
        self.next_id += len(records)

    async def flush(self) -> None:
        """Make all that was accepted so far durable.

        Raises:
            OSError: the disk is full or broken; nothing was written, and the next flush tries again.
        """
        records = self.tail[:]
        data = frame(records, mark=self._mark)
        await asyncio.get_running_loop().run_in_executor(self._writer, self._write, data, records[0].id)
        active = self._segments[-1]
        if not active.marks or active.size - active.marks[-1][1] >= _INDEX_BYTES:
            active.marks.append((records[0].id, active.size))
        active.size += len(data)
        self.size += len(data)
        self.head = records[-1].id + 1
        del self.tail[: len(records)]
        self.flushed.set()
        self.flushed.clear()

    def seek(self, record_id: int) -> Cursor:
        """A place at or before the record."""
        index = bisect_right(self._segments, record_id, key=lambda segment: segment.first_id) - 1
        if index < 0:
            return Cursor(self.first_id, 0)
        segment = self._segments[index]
        mark = bisect_right(segment.marks, record_id, key=lambda mark: mark[0]) - 1
        return Cursor(segment.first_id, segment.marks[mark][1] if mark >= 0 else 0)

    async def read(self, cursor: Cursor, *, from_id: int, topics: Collection[str]) -> Page:
        """Read the next piece of the spool; at its end the page is empty and its `next_id` is the head."""
        index = bisect_right(self._segments, cursor.segment, key=lambda segment: segment.first_id) - 1
        if index < 0:
            return Page(records=[], cursor=Cursor(self.first_id, 0), next_id=max(from_id, self.first_id))
        segment = self._segments[index]
        limit = segment.size
        if cursor.offset >= limit:
            if index + 1 == len(self._segments):
                return Page(records=[], cursor=cursor, next_id=self.head)
            following = self._segments[index + 1]
            return Page(records=[], cursor=Cursor(following.first_id, 0), next_id=max(from_id, following.first_id))
        # The last page of a segment may still grow: it is another one then.
        place = (*cursor, min(_PAGE_BYTES, limit - cursor.offset))
        contents = await self._pages.get(place, partial(self._parse, segment, cursor.offset, limit))
        for damage in contents.damage:
            self._report(segment, cursor.offset + damage.offset, damage.length)
        next_id = from_id if contents.next_id is None else max(from_id, contents.next_id)
        return Page(
            records=contents.select(topics, from_id=from_id),
            cursor=Cursor(segment.first_id, cursor.offset + contents.used),
            next_id=next_id,
            damaged=len(contents.damage),
        )

    def release(self, position: int) -> None:
        """Delete the segments whose records are all below `position`; the last one stays."""
        while len(self._segments) > 1 and self._segments[1].first_id <= position:
            segment = self._segments.pop(0)
            self.size -= segment.size
            try:
                segment.path.unlink(missing_ok=True)
            except OSError as error:  # its records are below all positions, after a restart, too
                log.error("cannot delete a segment", file=segment.path.name, error=str(error))

    def close(self) -> None:
        """Wait for writes under way and close the files."""
        self._writer.shutdown()
        self._pages.close()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, data: bytes, first_id: int) -> None:
        """In the writer's thread, while the loop waits for it."""
        if not self._segments or self._segments[-1].size >= self._limits.segment_bytes:
            self._roll(first_id)
        active = self._segments[-1]
        try:
            if self._file is None:
                self._file = os.open(active.path, _DURABLY)
                os.fdatasync(self._file)  # what the last life wrote, and had no time to
            rest, at = memoryview(data), active.size
            while rest:
                written = os.pwrite(self._file, rest, at)
                rest, at = rest[written:], at + written
        except OSError:
            # The next try writes to the same place, whether this helps or not: a disk that forgot pages gets them anew.
            with suppress(OSError):
                os.truncate(active.path, active.size)
            raise

    def _roll(self, first_id: int) -> None:
        path = self._directory / f"{first_id:020d}{_SUFFIX}"
        file = os.open(path, _DURABLY | os.O_CREAT | os.O_TRUNC, 0o600)
        sync_directory(self._directory)
        if self._file is not None:
            os.close(self._file)
        self._file = file
        self._segments.append(_Segment(first_id, path, 0))

    def _parse(self, segment: _Segment, offset: int, limit: int) -> Contents:
        """In a reader's thread."""
        length = _PAGE_BYTES
        while True:
            try:
                with segment.path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(min(length, limit - offset))
            except OSError as error:
                if segment not in self._segments:  # released: every lane had passed its records
                    return Contents(Parsed(records=[], end=0, next_id=None, damage=[]), used=limit - offset)
                log.error("cannot read the spool", file=segment.path.name, error=str(error))
                lost = Damage(0, limit - offset)
                return Contents(Parsed(records=[], end=0, next_id=None, damage=[lost]), used=limit - offset)
            else:
                final = len(data) < length or offset + len(data) >= limit
                parsed = parse(data, mark=self._mark, final=final)
                if final:
                    if parsed.end < len(data):
                        parsed.damage.append(Damage(parsed.end, len(data) - parsed.end))
                    return Contents(parsed, used=limit - offset)
                if parsed.end:
                    return Contents(parsed, used=parsed.end)
                length *= 4

    def _repair(self, segment: _Segment) -> None:
        """Find the end of what was written; what is behind was never acknowledged, unless the disk is at fault."""
        try:
            data = segment.path.read_bytes()
        except OSError as error:
            log.error("cannot read the spool", file=segment.path.name, error=str(error))
            self._report(segment, 0, segment.size)
            # No id is used twice: as if all of it were the smallest records that there are.
            self.head = self.next_id = segment.first_id + segment.size // LEAST_RECORD_BYTES + 1
            self._roll(self.head)
            return
        parsed = parse(data, mark=self._mark, final=True, topics=())
        if parsed.end < len(data):
            log.warning("cut a torn tail off the spool", bytes=len(data) - parsed.end)
            os.truncate(segment.path, parsed.end)
            self.size -= segment.size - parsed.end
            segment.size = parsed.end
        self.head = self.next_id = segment.first_id if parsed.next_id is None else parsed.next_id

    def _report(self, segment: _Segment, offset: int, length: int) -> None:
        """Once a place, however many lanes come by."""
        if (segment.first_id, offset) not in self._reported:
            self._reported.add((segment.first_id, offset))
            self.damaged += 1
            log.error("damage in the spool", file=segment.path.name, offset=offset, bytes=length)
