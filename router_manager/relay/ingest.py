"""From the source to the lanes and into the spool, and only then the acknowledgement.

A target does not wait for the disk: what it got before a crash and the spool has not, the sender sends again. Only the
acknowledgement waits, and so records can gather for one fdatasync, a few milliseconds or until there are some: never so
many that a sender with a small window of unacknowledged messages (mosquitto's default is 20) would have to wait.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain, repeat
from operator import attrgetter
from typing import Any, Protocol
from weakref import WeakValueDictionary

import structlog

from router_manager.domain.batching import backoff_seconds, linger_seconds
from router_manager.domain.payload import Record
from router_manager.relay.lane import Chunk, Lane
from router_manager.relay.mqtt.packets import Received
from router_manager.relay.spool import Spool

log = structlog.get_logger(__name__)

_MAX_PENDING_BYTES = 8 << 20
_MAX_LINGER_SECONDS = 0.004
_GATHER_SECONDS = 0.01
_FEW_RECORDS = 16
_FULL_SECONDS = 0.2
_MAX_DISK_RETRY_SECONDS = 5.0


class _Group:
    """Topics that the same lanes want: their records are handed on as one list."""

    __slots__ = ("__weakref__", "lanes", "records")

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes
        self.records: list[Record] = []


class Source(Protocol):
    """A connection that messages come on: one to the broker, or a device's own."""

    def acknowledge(self, packet_ids: list[bytes]) -> None:
        """The messages of these packet ids are on disk, or nobody wants them."""

    def pause(self) -> None:
        """Read no more."""

    def resume(self) -> None:
        """Read again."""

    def stray(self, topic: str) -> None:
        """Nobody wants messages of this topic."""


class Ingest:
    """Receiver of the session and of the listener."""

    def __init__(self, spool: Spool) -> None:
        self.received = 0
        self.unwanted = 0
        self.problem = ""
        self._groups: dict[str, _Group] = {}
        self._groups_by_lanes: WeakValueDictionary[tuple[int, ...], _Group] = WeakValueDictionary()
        """By the identities of their lanes, which they keep alive."""
        self._spool = spool
        self._unacknowledged: dict[Source, list[bytes]] = {}
        self._pending_bytes = 0
        self._paused: set[Source] = set()
        self._arrived = asyncio.Event()
        self._gathered = asyncio.Event()
        """There are more than a few."""
        self._idle = asyncio.Event()
        self._idle.set()

    def serve(self, lanes: Mapping[str, Sequence[Lane]]) -> None:
        """Set who gets these topics, if anybody; holds from the next batch on."""
        for topic, several in lanes.items():
            if several:
                lanes_id = tuple(id(lane) for lane in several)
                group = self._groups_by_lanes.get(lanes_id)
                if group is None:
                    group = self._groups_by_lanes[lanes_id] = _Group(several)
                self._groups[topic] = group
            else:
                self._groups.pop(topic, None)

    def receive(self, connection: Source, received: Received[Any]) -> None:
        """See Receiver."""
        records, groups = self._sort(connection, received)
        self._spool.accept(records)
        _hand_on(groups)
        # One write for each source: a segment for each PUBACK would cost both sides more than the readings.
        self._unacknowledged.setdefault(connection, []).extend(received.packet_ids)
        self._pending_bytes += sum([len(record.payload) for record in records])
        if self._pending_bytes >= _MAX_PENDING_BYTES or self._spool.full:
            connection.pause()
            self._paused.add(connection)
        self._idle.clear()
        self._arrived.set()
        if len(self._spool.tail) >= _FEW_RECORDS:
            self._gathered.set()

    async def drained(self) -> None:
        """Until all that was received is in the spool and acknowledged."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write and acknowledge for ever."""
        last = 0
        while True:
            if not self._unacknowledged:
                self._idle.set()
                self._arrived.clear()
                await self._arrived.wait()
            if len(self._spool.tail) < _FEW_RECORDS:
                self._gathered.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_GATHER_SECONDS):
                        await self._gathered.wait()
            else:
                await asyncio.sleep(linger_seconds(last, most=_MAX_LINGER_SECONDS))
            owed, self._unacknowledged, self._pending_bytes = self._unacknowledged, {}, 0
            last = len(self._spool.tail)
            if last:
                await self._flush()
            self.problem = ""
            for connection, packet_ids in owed.items():
                connection.acknowledge(packet_ids)
            while self._spool.full:
                self.problem = self._spool.obstacle
                await asyncio.sleep(_FULL_SECONDS)
            for connection in self._paused:
                connection.resume()
            self._paused.clear()

    def _sort(self, connection: Source, received: Received[Any]) -> tuple[list[Record], list[_Group]]:
        """What somebody wants, and who. A broker's retained copy is older than the subscription: no reading of now."""
        records: list[Record] = []
        touched: list[_Group] = []
        groups, next_id = self._groups, self._spool.next_id
        times = repeat(time.time_ns()) if received.times is None else received.times
        for (topic, payload, retained, _), at_ns in zip(received.publishes, times, strict=False):
            group = groups.get(topic)
            if group is None or retained:
                self.unwanted += 1
                if group is None:
                    connection.stray(topic)
                continue
            record = Record(next_id, at_ns, topic, payload)
            next_id += 1
            records.append(record)
            if not group.records:
                touched.append(group)
            group.records.append(record)
        self.received += len(received.publishes)
        return records, touched

    async def _flush(self) -> None:
        attempt = 0
        while True:
            try:
                await self._spool.flush()
            except OSError as error:
                self.problem = f"cannot write the spool: {error}"
                log.error("cannot write the spool", error=str(error))
                jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
                await asyncio.sleep(backoff_seconds(attempt, jitter=jitter, most=_MAX_DISK_RETRY_SECONDS))
                attempt += 1
            else:
                return


def _hand_on(groups: Sequence[_Group]) -> None:
    """To the lanes; one that is in several groups gets its records in the order of the spool all the same."""
    arrivals: dict[Lane, list[Chunk]] = {}
    for group in groups:
        chunk = Chunk(group.records)
        for lane in group.lanes:
            arrivals.setdefault(lane, []).append(chunk)
        group.records = []
    for lane, chunks in arrivals.items():
        lane.push(chunks[0] if len(chunks) == 1 else _merged(chunks))


def _merged(chunks: Sequence[Chunk]) -> Chunk:
    return Chunk(sorted(chain.from_iterable([chunk.records for chunk in chunks]), key=_BY_ID))


_BY_ID = attrgetter("id")
