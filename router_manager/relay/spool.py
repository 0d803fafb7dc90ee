"""What the relay has taken responsibility for: a log on disk, in segments that go when every lane has passed them.

A record may be acknowledged to its source when the flush after it has returned.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from bisect import bisect_right
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import structlog

from router_manager.domain.payload import Record
from router_manager.relay.segment import MARK_BYTES, Damage, Parsed, frame, parse

log = structlog.get_logger(__name__)

_PAGE_BYTES = 128 << 10
"""Parsing a page holds the interpreter for about a millisecond: no longer, for the sake of the live lanes."""
_INDEX_BYTES = 256 << 10
_SUFFIX = ".log"


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
    """

    records: list[Record]
    cursor: Cursor
    next_id: int


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
        self, *, directory: Path, identity: str, segments: list[_Segment], next_id: int, limits: tuple[int, int]
    ) -> None:
        self.identity = identity
        self.head = next_id
        """One more than the last record that is on disk."""
        self.next_id = next_id
        """One more than the last record that was accepted."""
        self.tail: list[Record] = []
        """What is between: accepted, and not yet on disk."""
        self.damaged = 0
        self.size = sum(segment.size for segment in segments)
        self._directory = directory
        self._mark = bytes.fromhex(identity)[:MARK_BYTES]
        self._segments = segments
        self._segment_bytes, self._max_bytes = limits
        self._reported: set[tuple[int, int]] = set()
        self._file: int | None = None
        self._writer = ThreadPoolExecutor(1, "spool-write")
        self._readers = ThreadPoolExecutor(2, "spool-read")

    @classmethod
    def open(cls, directory: Path, *, segment_bytes: int = 16 << 20, max_bytes: int = 4 << 30) -> Spool:
        """Open or create; cuts a torn tail.

        Raises:
            OSError: the folder cannot be used.
        """
        directory.mkdir(parents=True, exist_ok=True)
        identity = _identity(directory / "id")
        segments = sorted(
            (
                _Segment(int(path.stem), path, path.stat().st_size)
                for path in directory.glob(f"*{_SUFFIX}")
                if path.stem.isdigit()
            ),
            key=lambda segment: segment.first_id,
        )
        spool = cls(
            directory=directory, identity=identity, segments=segments, next_id=1, limits=(segment_bytes, max_bytes)
        )
        if segments:
            spool._repair(segments[-1])
        return spool

    @property
    def first_id(self) -> int:
        """The oldest record that may still be there."""
        return self._segments[0].first_id if self._segments else self.head

    @property
    def full(self) -> bool:
        """The bound is reached: the sources have to wait."""
        return self.size >= self._max_bytes

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

    def seek(self, record_id: int) -> Cursor:
        """A place at or before the record."""
        index = bisect_right(self._segments, record_id, key=lambda segment: segment.first_id) - 1
        if index < 0:
            return Cursor(self.first_id, 0)
        segment = self._segments[index]
        mark = bisect_right(segment.marks, record_id, key=lambda mark: mark[0]) - 1
        return Cursor(segment.first_id, segment.marks[mark][1] if mark >= 0 else 0)

    async def read(self, cursor: Cursor, *, from_id: int, topics: Container[str]) -> Page:
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
        parsed, used = await asyncio.get_running_loop().run_in_executor(
            self._readers, self._parse, segment.path, cursor.offset, limit, from_id, topics
        )
        for damage in parsed.damage:
            self._report(segment, cursor.offset + damage.offset, damage.length)
        next_id = from_id if parsed.next_id is None else max(from_id, parsed.next_id)
        return Page(records=parsed.records, cursor=Cursor(segment.first_id, cursor.offset + used), next_id=next_id)

    def release(self, position: int) -> None:
        """Delete the segments whose records are all below `position`; the last one stays."""
        while len(self._segments) > 1 and self._segments[1].first_id <= position:
            segment = self._segments.pop(0)
            segment.path.unlink(missing_ok=True)
            self.size -= segment.size

    def close(self) -> None:
        """Wait for writes under way and close the files."""
        self._writer.shutdown()
        self._readers.shutdown()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, data: bytes, first_id: int) -> None:
        """In the writer's thread, while the loop waits for it."""
        if not self._segments or self._segments[-1].size >= self._segment_bytes:
            self._roll(first_id)
        active = self._segments[-1]
        if self._file is None:
            self._file = os.open(active.path, os.O_WRONLY | os.O_APPEND)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, active.size)
            raise

    def _roll(self, first_id: int) -> None:
        path = self._directory / f"{first_id:020d}{_SUFFIX}"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
        _sync_directory(self._directory)
        if self._file is not None:
            os.close(self._file)
        self._file = file
        self._segments.append(_Segment(first_id, path, 0))

    def _parse(self, path: Path, offset: int, limit: int, from_id: int, topics: Container[str]) -> tuple[Parsed, int]:
        """In a reader's thread.

        Returns:
            The page, and how many bytes of the segment it covers.
        """
        length = _PAGE_BYTES
        while True:
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(min(length, limit - offset))
            except OSError as error:
                log.error("cannot read the spool", file=path.name, error=str(error))
                lost = Damage(0, limit - offset)
                return Parsed(records=[], end=0, next_id=None, damage=[lost]), limit - offset
            else:
                final = len(data) < length or offset + len(data) >= limit
                parsed = parse(data, mark=self._mark, final=final, from_id=from_id, topics=topics)
                if final:
                    if parsed.end < len(data):
                        parsed.damage.append(Damage(parsed.end, len(data) - parsed.end))
                    return parsed, limit - offset
                if parsed.end:
                    return parsed, parsed.end
                length *= 4

    def _repair(self, segment: _Segment) -> None:
        data = segment.path.read_bytes()
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


def _identity(path: Path) -> str:
    """32 random hex digits that are this spool's for as long as it lives."""
    try:
        text = path.read_text().strip()
        if len(text) == 32 and bytes.fromhex(text):
            return text
        log.error("the spool's identity is damaged; its records cannot be read", file=str(path))
    except FileNotFoundError:
        pass
    identity = secrets.token_hex(16)
    temporary = path.with_suffix(".new")
    temporary.write_text(identity)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync_directory(path.parent)
    return identity


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
