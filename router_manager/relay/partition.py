"""Which part of its node's devices this process serves: the first one whose state folder nobody else has.

The folder's lock decides, since the kernel frees it the moment that its holder dies: whoever waits for it takes over
what was spooled, the position of each lane, and with the client id the broker's session. No clock has a say in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from crds.errors import Stopped, Terminal
from router_manager.domain.partition import Partition

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.1


class OtherPartsError(Terminal):
    """The state folder was divided in another way, and readings may wait there."""


@dataclass(frozen=True, slots=True)
class Held:
    """A part, and the folder of its state."""

    partition: Partition
    directory: Path


@asynccontextmanager
async def held(state: Path, *, partitions: int, stop: asyncio.Event) -> AsyncIterator[Held]:
    """Hold one of the parts, as soon as one is free.

    Args:
        state: folder of all parts.
        partitions: how many there are.
        stop: ends the wait.

    Raises:
        Stopped: before one was free.
        OtherPartsError: there were as many as now never before.
        OSError: the folder cannot be used.
    """
    places = [Held(Partition(index, partitions), _folder(state, index, partitions)) for index in range(partitions)]
    _check(state, places)
    for place in places:
        place.directory.mkdir(parents=True, exist_ok=True)
    place, lock = await _first_free(places, stop)
    log.info("serving", state=str(place.directory))
    try:
        yield place
    finally:
        os.close(lock)


async def _first_free(places: list[Held], stop: asyncio.Event) -> tuple[Held, int]:
    waiting = False
    while not stop.is_set():
        for place in places:
            lock = _lock(place.directory / "lock")
            if lock is not None:
                return place, lock
        if not waiting:
            log.info("standing by: other relays have all parts", state=str(places[0].directory), parts=len(places))
            waiting = True
        await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
    raise Stopped("no part was free")


def _lock(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _folder(state: Path, index: int, partitions: int) -> Path:
    return state if partitions == 1 else state / f"{index}-of-{partitions}"


def _check(state: Path, places: list[Held]) -> None:
    """A device would change its part, and be overtaken by its own readings."""
    found = {spool.parent for pattern in ("spool", "*-of-*/spool") for spool in state.glob(pattern)}
    others = sorted(str(folder) for folder in found - {place.directory for place in places})
    if others:
        raise OtherPartsError(
            f"--partitions {len(places)}: {others[0]} is of another number of parts; "
            "serve it with that number until its backlog is 0, then remove it"
        )
