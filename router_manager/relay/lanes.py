"""The lanes and pumps of all routes, kept to the table: a change touches those of the changed routes, and no others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

import structlog

from router_manager.domain.batching import backoff_seconds
from router_manager.domain.table import Change, LaneKey, RouteName, Way, ways
from router_manager.relay.lane import Lane, Memory
from router_manager.relay.positions import Positions
from router_manager.relay.pump import Outlet, Pump
from router_manager.relay.spool import Spool

log = structlog.get_logger(__name__)


class Lanes:
    """A pump and its task for each target of each route."""

    def __init__(self, *, spool: Spool, memory: Memory, positions: Positions, outlet: Outlet) -> None:
        self.pumps: dict[LaneKey, Pump] = {}
        self.damaged = 0
        """Positions that could not be read."""
        self._spool = spool
        self._memory = memory
        self._positions = positions
        self._outlet = outlet
        self._tasks: dict[LaneKey, asyncio.Task[None]] = {}
        self._of_route: dict[str, set[LaneKey]] = {}
        self._of_topic: dict[str, list[Lane]] = {}

    @property
    def topics(self) -> Collection[str]:
        """Those that any lane wants."""
        return self._of_topic.keys()

    def change(self, change: Change) -> Mapping[str, Sequence[Lane]]:
        """Serve other routes from the next message on.

        Returns:
            The lanes of every topic that is concerned; none where nobody wants it any more.
        """
        touched: set[str] = set()
        wanted = ways(change.put)
        for uid in (*change.gone, *(route.uid for route in change.put.routes)):
            for key in self._of_route.pop(uid, set()):
                if key not in wanted:
                    touched.update(self._close(key))
        for key, way in wanted.items():
            self._of_route.setdefault(key.route_uid, set()).add(key)
            pump = self.pumps.get(key)
            if pump is None:
                touched.update(self._open(key, way))
            elif pump.way != way:
                touched.update(self._configure(pump, way))
        return {topic: tuple(self._of_topic.get(topic, ())) for topic in touched}

    def forget_others(self) -> None:
        """Delete the positions of lanes that are no more."""
        for key in self._positions.keys() - self.pumps.keys():
            self._positions.file(key).delete()

    def by_route(self) -> dict[RouteName, list[Pump]]:
        """For reports."""
        routes: dict[RouteName, list[Pump]] = {}
        for pump in self.pumps.values():
            routes.setdefault(pump.way.route, []).append(pump)
        return routes

    async def drained(self) -> None:
        """Until no lane has anything to deliver."""
        for pump in list(self.pumps.values()):
            await pump.lane.drained.wait()

    async def stop(self) -> None:
        """End all pumps, and write how far each has come."""
        await stop(self._tasks.values())
        for pump in self.pumps.values():
            pump.save_position()

    def _open(self, key: LaneKey, way: Way) -> Collection[str]:
        file = self._positions.file(key)
        position = file.read()
        if position is None or position > self._spool.head:
            # New, or the spool lost its tail with the machine's power. On disk before the table is: else a crash in
            # between would leave a lane that starts anew, later.
            position = self._spool.next_id
            file.delete()
        self.damaged += position == 0
        lane = Lane(spool=self._spool, memory=self._memory, feeds=way.feeds, position=position)
        pump = self.pumps[key] = Pump(key=key, way=way, lane=lane, position=file, outlet=self._outlet)
        pump.save_position()
        self._tasks[key] = asyncio.create_task(_supervise(pump), name=f"pump {way.route} {key.target}")
        return self._feed(lane, way.feeds)

    def _configure(self, pump: Pump, way: Way) -> Collection[str]:
        before = pump.way.feeds
        pump.configure(way)
        if before.keys() == way.feeds.keys():
            return ()
        return {*self._starve(pump.lane, before), *self._feed(pump.lane, way.feeds)}

    def _close(self, key: LaneKey) -> Collection[str]:
        self._tasks.pop(key).cancel()
        pump = self.pumps.pop(key)
        log.info("lane ended", route=str(pump.way.route), target=key.target, dropped=pump.lane.backlog)
        pump.lane.close()
        self._positions.file(key).delete()
        return self._starve(pump.lane, pump.way.feeds)

    def _feed(self, lane: Lane, topics: Collection[str]) -> Collection[str]:
        for topic in topics:
            self._of_topic.setdefault(topic, []).append(lane)
        return topics

    def _starve(self, lane: Lane, topics: Collection[str]) -> Collection[str]:
        for topic in topics:
            self._of_topic[topic].remove(lane)
            if not self._of_topic[topic]:
                del self._of_topic[topic]
        return topics


async def stop(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    ending = tuple(tasks)
    for task in ending:
        task.cancel()
    for task in ending:
        with suppress(asyncio.CancelledError):
            await task


async def _supervise(pump: Pump) -> None:
    """A defect that one reading meets must stop neither other routes nor its own: say it, and go on."""
    attempt = 0
    while True:
        try:
            await pump.run()
        except Exception as error:
            log.exception("pump failed", route=str(pump.way.route), target=pump.key.target)
            defect = pump.statistics.problem = f"internal error: {error!r}"
            attempt = attempt + 1 if await pump.recover(defect) else 0
            jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
            await asyncio.sleep(backoff_seconds(attempt, jitter=jitter))
