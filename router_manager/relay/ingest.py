"""From the source into the spool, from there to the lanes, and only then the acknowledgement.

While one batch is being written, the next one gathers; so a quiet relay writes each message at once, and a busy one
writes many with one fdatasync.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from router_manager.domain.batching import backoff_seconds, linger_seconds
from router_manager.domain.payload import Record
from router_manager.relay.lane import Lane
from router_manager.relay.mqtt.connection import Connection
from router_manager.relay.mqtt.packets import Publish
from router_manager.relay.spool import Spool

log = structlog.get_logger(__name__)

_MAX_PENDING_BYTES = 8 << 20
_TIMER_SECONDS = 0.0005
_FULL_SECONDS = 0.2
_MAX_DISK_RETRY_SECONDS = 5.0


class _Read(NamedTuple):
    """What one read of the socket brought."""

    connection: Connection
    ingested_ns: int
    publishes: list[Publish]
    size: int


class Ingest:
    """Receiver of a session."""

    def __init__(self, spool: Spool) -> None:
        self.lanes: Mapping[str, Sequence[Lane]] = {}
        self.received = 0
        self.unwanted = 0
        self.problem = ""
        self._spool = spool
        self._pending: list[_Read] = []
        self._pending_bytes = 0
        self._paused: set[Connection] = set()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def receive(self, connection: Connection, publishes: list[Publish]) -> None:
        """See Receiver."""
        size = sum([len(publish.payload) for publish in publishes])
        self._pending.append(_Read(connection, time.time_ns(), publishes, size))
        self._pending_bytes += size
        if self._pending_bytes >= _MAX_PENDING_BYTES or self._spool.full:
            connection.pause()
            self._paused.add(connection)
        self._idle.clear()
        self._arrived.set()

    async def drained(self) -> None:
        """Until all that was received is in the spool and acknowledged."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write and dispatch for ever."""
        last = 0
        while True:
            if not self._pending:
                self._idle.set()
                self._arrived.clear()
                await self._arrived.wait()
            linger = linger_seconds(last)
            if linger >= _TIMER_SECONDS:
                await asyncio.sleep(linger)
            while self._spool.full:
                self.problem = "the spool is full: a target is behind"
                await asyncio.sleep(_FULL_SECONDS)
            reads, self._pending, self._pending_bytes = self._pending, [], 0
            records = self._records(reads)
            last = len(records)
            if records:
                await self._append(records)
                self._dispatch(records)
            self.problem = ""
            for read in reads:
                read.connection.acknowledge([publish.packet_id for publish in read.publishes if publish.packet_id])
            for connection in self._paused:
                connection.resume()
            self._paused.clear()

    def _records(self, reads: Sequence[_Read]) -> list[Record]:
        """What somebody wants. A broker's retained copy is older than the subscription: no reading of now."""
        records: list[Record] = []
        next_id, lanes = self._spool.next_id, self.lanes
        for read in reads:
            self.received += len(read.publishes)
            for topic, payload, _, retained in read.publishes:
                if topic in lanes and not retained:
                    records.append(Record(next_id, read.ingested_ns, topic, payload))
                    next_id += 1
                else:
                    self.unwanted += 1
                    if topic not in lanes:
                        read.connection.stray(topic)
        return records

    async def _append(self, records: Sequence[Record]) -> None:
        attempt = 0
        while True:
            try:
                await self._spool.append(records)
            except OSError as error:
                self.problem = f"cannot write the spool: {error}"
                log.error("cannot write the spool", error=str(error))
                jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
                await asyncio.sleep(backoff_seconds(attempt, jitter=jitter, most=_MAX_DISK_RETRY_SECONDS))
                attempt += 1
            else:
                return

    def _dispatch(self, records: Sequence[Record]) -> None:
        """To the lanes as they are now: a route that came while the disk was busy tells old records by their id."""
        lanes = self.lanes
        for record in records:
            for lane in lanes.get(record.topic, ()):
                lane.push(record)
