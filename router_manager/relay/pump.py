"""Delivers one lane to its target: batch, write, send, and whatever the answer asks for.

One batch is in flight at a time, so the order of a device's readings is kept.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import assert_never

import structlog

from router_manager.domain.batching import (
    BatchLimits,
    Delivered,
    Outcome,
    Refused,
    Retry,
    Split,
    backoff_seconds,
    batch_id,
    grown,
    judge,
    shrunk,
)
from router_manager.domain.encoding import write
from router_manager.domain.filters import Drop, FilterState
from router_manager.domain.payload import Record
from router_manager.domain.table import LaneKey, Way
from router_manager.relay.dead_letters.letter import Letter
from router_manager.relay.dead_letters.store import DeadLetters
from router_manager.relay.lane import Lane
from router_manager.relay.positions import PositionFile
from router_manager.relay.statistics import LaneStatistics
from router_manager.relay.targets.base import Batch, Exit
from router_manager.relay.turns import Turns

log = structlog.get_logger(__name__)

_BY_ID = attrgetter("id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """What all pumps share."""

    exit: Exit
    dead_letters: DeadLetters
    spool_identity: str
    limits: BatchLimits = field(default_factory=BatchLimits)
    turns: Turns = field(default_factory=Turns)
    on_first_delivery: Callable[[], None] = lambda: None


class Pump:
    """Runs until cancelled, at any moment: the position moves only after the target's answer."""

    def __init__(self, *, key: LaneKey, way: Way, lane: Lane, position: PositionFile, outlet: Outlet) -> None:
        self.key = key
        self.way = way
        self.lane = lane
        self.statistics = LaneStatistics()
        self.unsaved = 0
        """Records that were done since the position was written: they come twice if the relay dies now."""
        self._position = position
        self._written: int | None = None
        self._outlet = outlet
        self._turn = outlet.turns.of(way.location)
        self._record_limit = outlet.limits.records
        self._states: dict[str, FilterState] = {}
        self._floor = 0
        self._failures = 0
        """In succession, whatever was tried."""
        self._due = 0.0
        """When the target may be asked again, by the clock of the loop."""
        self._woken = asyncio.Event()
        self._in_hand: Sequence[Record] = ()
        """What was taken and is not done."""
        self._failed_at: int | None = None
        """The first of what was in hand when a defect showed."""
        self._buried: set[int] = set()
        """Of what was taken, the ids of records that are dead letters already: a batch is tried more than once."""

    def configure(self, way: Way) -> None:
        """Take a changed route: from the next batch on, and for the next try of the one in flight."""
        if way.filter != self.way.filter:
            self._states.clear()
        self.way = way
        self._turn = self._outlet.turns.of(way.location)
        self.lane.configure(way.feeds)
        self._due = 0.0
        self._woken.set()

    def give_up(self, floor: int) -> None:
        """Deliver nothing below this record any more, also of the batch that waits for its next try."""
        self._floor = floor
        if self.lane.position < floor:
            self._woken.set()

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            await self.lane.wait()
            async with self._turn:
                # Not before: what came while others had their turn is of the same batch.
                parts = self._take()
                if not self._failures:
                    parts = await self._deliver(parts)
            while parts and (parts := await self._waited(parts)):
                async with self._turn:
                    parts = await self._deliver(parts)
            self._buried.clear()
            self.lane.settle()
            self.unsaved += len(self._in_hand)
            self._in_hand = ()

    async def recover(self, defect: str) -> bool:
        """Go on, one reading at a time. One that meets the defect again is a dead letter, or none would come behind it.

        Args:
            defect: for its letter.

        Returns:
            Whether it is the same place as the last time.
        """
        first = self._in_hand[0].id if self._in_hand else None
        again = first is not None and first == self._failed_at
        self._failed_at = first
        if again and len(self._in_hand) == 1:
            await self.bury([(self._in_hand[0], defect)])
            self.lane.settle()
        self._record_limit = 1
        self._buried.clear()
        self.lane.rewind()
        return again

    def save_position(self) -> None:
        """Write how far the lane has come, if that changed."""
        position = self.lane.position
        self.unsaved = self.lane.ahead
        if position == self._written:
            return
        try:
            self._position.write(position)
        except OSError as error:
            # The price is paid after a crash only: what was delivered since is delivered again.
            log.exception("cannot write a position", route=str(self.way.route), target=self.key.target)
            self.statistics.problem = f"cannot write the position: {error}"
        else:
            self._written = position

    def _take(self) -> deque[Sequence[Record]]:
        """The next batch, as far as the route wants it."""
        limits = self._outlet.limits
        # One batch at most comes twice after a crash; that is no reason to write after each reading.
        if self.unsaved + min(self.lane.backlog, self._record_limit) > limits.records:
            self.save_position()
        self._in_hand = self.lane.take(records=self._record_limit, size_bytes=limits.size_bytes)
        kept = self._kept(self._in_hand)
        passed = kept if self.way.filter is None else [record for record in kept if self._passes(record)]
        return deque([passed] if passed else ())

    def _kept(self, records: Sequence[Record]) -> Sequence[Record]:
        """What is not given up; the rest is counted."""
        if not records or records[0].id >= self._floor:
            return records
        expired = bisect_left(records, self._floor, key=_BY_ID)
        self.statistics.expired += expired
        return records[expired:]

    def _passes(self, record: Record) -> bool:
        compiled = self.way.filter
        if compiled is None:
            return True
        state, drop = compiled.step(self._states.get(record.topic, FilterState()), record)
        self._states[record.topic] = state
        if drop is not None:
            self.statistics.filtered += 1
            self.statistics.unreadable += drop is Drop.UNREADABLE
        return drop is None

    async def _deliver(self, parts: deque[Sequence[Record]]) -> deque[Sequence[Record]]:
        """Until all is done, or the target is to be left alone for a while: what is still to be sent."""
        while parts:
            match await self._try(parts[0]):
                case Delivered():
                    self._record_limit = grown(self._record_limit, most=self._outlet.limits.records)
                case Refused(reason):
                    self._report(reason)
                case Split():
                    whole = parts.popleft()
                    half = self._record_limit = shrunk(len(whole))
                    parts.extendleft((whole[half:], whole[:half]))
                    continue
                case Retry(after_seconds, reason):
                    self._report(reason)
                    self.statistics.retried += 1
                    self.lane.shed()
                    # What was delivered ahead of the disk is on it by now, perhaps: not to be delivered again.
                    self.save_position()
                    self._failures += 1
                    self._woken.clear()
                    self._due = asyncio.get_running_loop().time() + after_seconds
                    return parts
                case unknown:
                    assert_never(unknown)
            self._failures = 0
            self.lane.advance(parts.popleft()[-1].id + 1)
        return parts

    async def _try(self, records: Sequence[Record]) -> Outcome:
        """Send what of the records can be written and is still wanted; bury what cannot, and what is refused."""
        way, outlet, buried = self.way, self._outlet, self._buried
        wanted: Sequence[Record] = [
            record
            for record in records
            # A topic that went and came back meanwhile is wanted from its return on.
            if (feed := way.feeds.get(record.topic)) and record.id >= feed.since and record.id not in buried
        ]
        written = write(wanted, carrier=way.carrier, writers=way.writers)
        if written.unencodable:
            await self.bury(written.unencodable)
            buried.update([record.id for record, _ in written.unencodable])
        wanted = written.records
        if not wanted:
            return Delivered()
        key = batch_id(
            spool=outlet.spool_identity, route_uid=self.key.route_uid, target=way.target.name, records=wanted
        )
        answer = await outlet.exit.send(Batch(way=way, records=wanted, parts=written.parts, key=key))
        now_ns = time.time_ns()
        outcome = judge(
            answer,
            records=len(wanted),
            attempt=self._failures,
            now=datetime.fromtimestamp(now_ns / 1e9, UTC),
            jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
        )
        if isinstance(outcome, Refused):
            await self.bury([(record, outcome.reason) for record in wanted])
        if isinstance(outcome, Delivered):
            first = self.statistics.delivered == 0
            self.statistics.wrapped += written.wrapped
            if outcome.refused:
                await self.bury([(wanted[index], reason) for index, reason in outcome.refused])
                refused = {index for index, _ in outcome.refused}
                wanted = [record for index, record in enumerate(wanted) if index not in refused]
            self.statistics.count_delivery(wanted, now_ns=now_ns, clocks=way.clocks)
            if first:
                outlet.on_first_delivery()
        return outcome

    async def bury(self, refused: Sequence[tuple[Record, str]]) -> None:
        """To the dead letters; a full disk holds the lane up, since there is no other place for them."""
        route, target = self.way.route, self.key.target
        letters = [Letter(record=each, route=route, target=target, reason=reason) for each, reason in refused]
        attempt = 0
        while True:
            try:
                await self._outlet.dead_letters.bury(self.key, letters)
            except OSError as error:
                self._report(f"cannot write dead letters: {error}")
                await asyncio.sleep(backoff_seconds(attempt, jitter=random.random()))  # noqa: S311 - as above
                attempt += 1
            else:
                self.statistics.dead += len(letters)
                return

    async def _waited(self, parts: deque[Sequence[Record]]) -> deque[Sequence[Record]]:
        """Until the target may be asked again, or the route has changed, which may help: what is still to be sent."""
        while True:
            parts = deque(kept for part in parts if (kept := self._kept(part)))
            left = self._due - asyncio.get_running_loop().time()
            if parts:
                self.lane.advance(parts[0][0].id)
            if not parts or left <= 0:
                return parts
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._woken.wait()
            self._woken.clear()

    def _report(self, problem: str) -> None:
        if problem != self.statistics.problem:
            self.statistics.problem = problem
            log.warning("delivery is disturbed", route=str(self.way.route), target=self.key.target, reason=problem)
