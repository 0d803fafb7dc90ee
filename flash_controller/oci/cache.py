"""What was pulled, by digest, in a folder that many runners of a node share: each thing crosses the network once.

Nothing there is believed: what is found is hashed again, so that a power cut costs a pull and not a device.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from flash_controller.domain.manifests import digest_of

MAX_BYTES: Final = 2**30
POLL_SECONDS: Final = 0.05
PART: Final = ".part"


class Cache:
    """A folder of blobs and manifests.

    Args:
        folder: made when absent.
        max_bytes: what it may hold; what was not used for longest goes first.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes

    async def get(self, digest: str, fill: Callable[[BinaryIO], Awaitable[None]]) -> bytes | None:
        """What has this digest, got where it is not there yet. One process of a node gets it, the others wait for that.

        Args:
            digest: of what is wanted.
            fill: goes on with the bytes that are there so far; what it does not finish is there for the next one.

        Returns:
            None where it was filled with something else, which is removed.
        """
        found = await self._find(digest)
        if found is None:
            with await self._locked(self._path(digest, PART)) as file:
                found = await self._find(digest)
                if found is None:
                    await fill(file)
                    self._keep(digest, file)
                    found = await self._find(digest)
        return found

    async def _locked(self, path: Path) -> BinaryIO:
        """The file, which nobody else writes. The kernel gives a lock back when its holder dies."""
        while True:
            file = path.open("a+b")
            # Whoever had it may have put it into its place, or removed it, while we waited.
            if _lock(file) and _is(file, path):
                return file
            file.close()
            await asyncio.sleep(POLL_SECONDS)

    def _keep(self, digest: str, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())
        path = self._path(digest)
        self._path(digest, PART).replace(path)
        self._prune(path)

    async def _find(self, digest: str) -> bytes | None:
        return await asyncio.to_thread(self._read, digest)

    def _path(self, digest: str, suffix: str = "") -> Path:
        return self._folder / f"{digest.replace(':', '-')}{suffix}"

    def _read(self, digest: str) -> bytes | None:
        path = self._path(digest)
        with suppress(FileNotFoundError):  # another process makes room as well
            data = path.read_bytes()
            if digest_of(data) == digest:
                os.utime(path)
                return data
            path.unlink()
        return None

    def _prune(self, newest: Path) -> None:
        held = sorted(_stats(self._folder), key=lambda each: each[0].st_mtime)
        size = sum(stat.st_size for stat, _ in held)
        for stat, path in held:
            if size <= self._max_bytes:
                return
            if path != newest and _remove(path):
                size -= stat.st_size


def _stats(folder: Path) -> Iterator[tuple[os.stat_result, Path]]:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            yield path.stat(), path


def _remove(path: Path) -> bool:
    """Removes a file, but nothing that is being written."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        if path.suffix == PART and not _lock(file):
            return False
        path.unlink()
    return True


def _is(file: BinaryIO, path: Path) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
