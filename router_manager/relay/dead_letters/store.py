"""The folder of dead letters, as the relay writes it: bounded, and on disk before a lane goes on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import BinaryIO
from urllib.parse import unquote

import structlog

from router_manager.domain.table import LaneKey
from router_manager.relay.dead_letters.letter import Letter
from router_manager.relay.positions import lane_file_name

log = structlog.get_logger(__name__)

SUFFIX = ".ndjson"
_FILES = 8
"""That the whole bound is divided into, so that little goes when the oldest one does."""


class DeadLetters:
    """Files of all lanes. The oldest one goes when there is no more room.

    Attributes:
        dropped: letters that went for lack of room.
        lock: held while something is written. Who has moved a file away, and found this free, has all of it.
    """

    def __init__(self, directory: Path, *, max_bytes: int = 256 << 20) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.dropped = 0
        self._directory = directory
        self._max_bytes = max_bytes
        self.lock = Lock()
        self._size = sum(size for _, size, _ in self._files())

    async def bury(self, key: LaneKey, letters: Iterable[Letter]) -> None:
        """Write letters; on disk when it returns.

        Raises:
            OSError: the disk does not take them.
        """
        data = b"".join([letter.line() for letter in letters])
        await asyncio.to_thread(self._append, self._directory / f"{lane_file_name(key)}{SUFFIX}", data)

    def _append(self, path: Path, data: bytes) -> None:
        with self.lock:
            with path.open("ab+") as file:
                # A crash may have left half a line.
                file.write(data if file.tell() == 0 or _ends_a_line(file) else b"\n" + data)
                file.flush()
                os.fdatasync(file.fileno())
                size = file.tell()
            self._size += len(data)
            if size * _FILES >= self._max_bytes:
                put_aside(path, path.parent)
            if self._size > self._max_bytes:
                self._make_room()

    def _make_room(self) -> None:
        files = sorted(self._files())
        self._size = sum(size for _, size, _ in files)
        for _, size, path in files[:-1]:
            if self._size <= self._max_bytes:
                return
            lost = path.read_bytes().count(b"\n")
            path.unlink()
            self._size -= size
            self.dropped += lost
            log.error("dead letters dropped for lack of room", file=path.name, letters=lost)

    def _files(self) -> list[tuple[int, int, Path]]:
        """When they were last written, and their size."""
        found = [(path, path.stat()) for path in self._directory.glob(f"*{SUFFIX}")]
        return [(stat.st_mtime_ns, stat.st_size, path) for path, stat in found]


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def put_aside(path: Path, directory: Path) -> Path:
    """Move a lane's file, so that the next letter begins a new one.

    Returns:
        Where it is now.
    """
    whose = ",".join(path.name.removesuffix(SUFFIX).split(",")[:2])
    return path.replace(directory / f"{whose},{time.time_ns()}{SUFFIX}")


def key_of(path: Path) -> LaneKey:
    """Whose letters a file has."""
    route_uid, target = path.name.removesuffix(SUFFIX).split(",")[:2]
    return LaneKey(unquote(route_uid), unquote(target))
