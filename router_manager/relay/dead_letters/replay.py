"""Sends dead letters again while the relay runs: what the command put into the folder of replays.

Beside the lanes, and after them in order: a reading that was refused is late already. A file goes when its target has
every letter of it; those that are refused again are dead letters again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

import structlog

from crds.errors import InvalidField
from router_manager.domain.batching import Delivered, Refused, Retry, Split, backoff_seconds, batch_id, judge
from router_manager.domain.encoding import write
from router_manager.domain.payload import Record
from router_manager.domain.table import LaneKey
from router_manager.relay.dead_letters.letter import Letter
from router_manager.relay.dead_letters.store import SUFFIX, key_of
from router_manager.relay.pump import Outlet, Pump
from router_manager.relay.targets.base import Batch

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_AT_ONCE = 8
"""Lanes that are replayed at a time."""


class Replayer:
    """Looks into its folder every second."""

    def __init__(self, directory: Path, *, outlet: Outlet, pumps: Mapping[LaneKey, Pump]) -> None:
        """Prepare.

        Args:
            directory: where files of dead letters come to.
            outlet: what lanes deliver by.
            pumps: of the lanes that there are; letters of others wait until theirs are back.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._outlet = outlet
        self._pumps = pumps
        self._limit = asyncio.Semaphore(_AT_ONCE)
        self._reached: dict[Path, int] = {}
        """How far files have been delivered in this life of the relay."""

    async def run(self) -> None:
        """Replay for ever."""
        failures = 0
        while True:
            files: dict[LaneKey, list[Path]] = {}
            for path in sorted(self._directory.glob(f"*{SUFFIX}")):
                files.setdefault(key_of(path), []).append(path)
            lanes = [(self._pumps[key], paths) for key, paths in files.items() if key in self._pumps]
            done = await asyncio.gather(*(self._lane(pump, paths) for pump, paths in lanes))
            failures = 0 if all(done) else failures + 1
            pause = backoff_seconds(failures - 1, jitter=random.random()) if failures else 0.0  # noqa: S311 - spreads
            await asyncio.sleep(max(_LOOK_SECONDS, pause))

    async def _lane(self, pump: Pump, paths: Sequence[Path]) -> bool:
        """Whether all that waits was delivered."""
        async with self._limit:
            try:
                for path in paths:
                    if not await self._file(pump, path):
                        return False
            except OSError as error:
                log.warning("cannot replay", route=str(pump.way.route), target=pump.key.target, reason=str(error))
                return False
            return True

    async def _file(self, pump: Pump, path: Path) -> bool:
        while True:
            records, end = await asyncio.to_thread(self._read, path)
            if end == self._reached.get(path, 0):
                break
            if not await self._deliver(pump, records, name=path.name):
                return False
            self._reached[path] = end
        await asyncio.to_thread(path.unlink)
        self._reached.pop(path, None)
        log.info("dead letters replayed", route=str(pump.way.route), target=pump.key.target)
        return True

    def _read(self, path: Path) -> tuple[list[Record], int]:
        """The next letters of a file, and where they end."""
        limits = self._outlet.limits
        records: list[Record] = []
        # Free: nothing is written any more to a file that was moved here.
        with self._outlet.dead_letters.lock, path.open("rb") as file:
            start = file.seek(self._reached.get(path, 0))
            while (
                len(records) < limits.records and file.tell() - start < limits.size_bytes and (line := file.readline())
            ):
                try:
                    records.append(Letter.parse(line).record)
                except InvalidField as error:
                    log.error("a dead letter is damaged", file=path.name, error=str(error))
            return records, file.tell()

    async def _deliver(self, pump: Pump, records: Sequence[Record], *, name: str) -> bool:
        """Whether each of them was delivered, or is a dead letter again."""
        way, outlet = pump.way, self._outlet
        again = [(record, "the route no longer has its source") for record in records if record.topic not in way.feeds]
        wanted = [record for record in records if record.topic in way.feeds]
        written = write(wanted, carrier=way.carrier, writers=way.writers)
        again += written.unencodable
        if written.records:
            # Another key than that of the first time: a target may remember what it answered to that.
            key = batch_id(
                spool=f"{outlet.spool_identity}/{name}",
                route_uid=pump.key.route_uid,
                target=way.target.name,
                records=written.records,
            )
            batch = Batch(way=way, records=written.records, parts=written.parts, key=key, replayed=True)
            answer = await outlet.exit.send(batch)
            now = datetime.fromtimestamp(time.time(), UTC)
            outcome = judge(answer, records=len(written.records), attempt=0, now=now, jitter=0.0)
            match outcome:
                case Delivered(refused):
                    pump.statistics.replayed += len(written.records) - len(refused)
                    again += [(written.records[index], reason) for index, reason in refused]
                case Refused(reason):
                    again += [(record, reason) for record in written.records]
                case Split():
                    half = len(records) // 2
                    halves = records[:half], records[half:]
                    return all([await self._deliver(pump, part, name=name) for part in halves])
                case Retry(_, reason):
                    log.warning("cannot replay", route=str(way.route), target=way.target.name, reason=reason)
                    return False
                case _:
                    assert_never(outcome)
        if again:
            await pump.bury(again)
        return True
