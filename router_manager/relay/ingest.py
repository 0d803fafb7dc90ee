"""From the source into the spool, from there to the lanes, and only then the acknowledgement.

While one batch is being written, the next one gathers; so a quiet relay writes each message at once, and a busy one
writes many with one fdatasync.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

import structlog

from router_manager.domain.batching import backoff_seconds, linger_seconds
from router_manager.domain.payload import Record
from router_manager.relay.lane import Lane
from router_manager.relay.mqtt.connection import Connection
from router_manager.relay.mqtt.packets import Received
from router_manager.relay.spool import Spool

log = structlog.get_logger(__name__)

_MAX_PENDING_BYTES = 8 << 20
_MAX_LINGER_SECONDS = 0.004
_FULL_SECONDS = 0.2
_MAX_DISK_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Read:
    """What one read of the socket brought, and when."""

    connection: Connection
    ingested_ns: int
    received: Received


class _Group:
    """Topics that the same lanes want: their records are handed on as one list."""

    __slots__ = ("lanes", "records")

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes
        self.records: list[Record] = []


class Ingest:
    """Receiver of a session."""

    def __init__(self, spool: Spool) -> None:
        self.received = 0
        self.unwanted = 0
        self.problem = ""
        self._groups: dict[str, _Group] = {}
        self._spool = spool
        self._pending: list[_Read] = []
        self._pending_bytes = 0
        self._paused: set[Connection] = set()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def serve(self, lanes: Mapping[str, Sequence[Lane]]) -> None:
        """Set who gets what, by topic; holds from the next batch on."""
        groups: dict[tuple[int, ...], _Group] = {}
        self._groups = {
            topic: groups.setdefault(tuple(id(lane) for lane in several), _Group(several))
            for topic, several in lanes.items()
        }

    def receive(self, connection: Connection, received: Received) -> None:
        """See Receiver."""
        self._pending.append(_Read(connection, time.time_ns(), received))
        self._pending_bytes += sum([len(publish.payload) for publish in received.publishes])
        if self._pending_bytes >= _MAX_PENDING_BYTES or self._spool.full:
            connection.pause()
            self._paused.add(connection)
        self._idle.clear()
        self._arrived.set()

    async def drained(self) -> None:
        """Until all that was received is in the spool and acknowledged."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write and hand on for ever."""
        last = 0
        while True:
            if not self._pending:
                self._idle.set()
                self._arrived.clear()
                await self._arrived.wait()
            linger = linger_seconds(last, most=_MAX_LINGER_SECONDS)
            if linger:
                await asyncio.sleep(linger)
            while self._spool.full:
                self.problem = "the spool is full: a target is behind"
                await asyncio.sleep(_FULL_SECONDS)
            reads, self._pending, self._pending_bytes = self._pending, [], 0
            records, groups = self._sort(reads)
            last = len(records)
            if records:
                await self._append(records)
                _hand_on(groups)
            self.problem = ""
            for read in reads:
                read.connection.acknowledge(read.received.packet_ids)
            for connection in self._paused:
                connection.resume()
            self._paused.clear()

    def _sort(self, reads: Sequence[_Read]) -> tuple[list[Record], list[_Group]]:
        """What somebody wants, and who. A broker's retained copy is older than the subscription: no reading of now."""
        records: list[Record] = []
        touched: list[_Group] = []
        first_id = next_id = self._spool.next_id
        groups = self._groups
        for read in reads:
            ingested_ns = read.ingested_ns
            for topic, payload, retained in read.received.publishes:
                group = groups.get(topic)
                if group is None or retained:
                    self.unwanted += 1
                    if group is None:
                        read.connection.stray(topic)
                    continue
                record = Record(next_id, ingested_ns, topic, payload)
                next_id += 1
                records.append(record)
                if not group.records:
                    touched.append(group)
                group.records.append(record)
            self.received += len(read.received.publishes)
        self._spool.reserve(next_id - first_id)
        return records, touched

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


def _hand_on(groups: Sequence[_Group]) -> None:
    """To the lanes; one that is in several groups gets its records in the order of the spool all the same."""
    arrivals: dict[Lane, list[list[Record]]] = {}
    for group in groups:
        for lane in group.lanes:
            arrivals.setdefault(lane, []).append(group.records)
        group.records = []
    for lane, lists in arrivals.items():
        records = lists[0] if len(lists) == 1 else sorted(chain.from_iterable(lists), key=_BY_ID)
        lane.push(records, sum([len(record.payload) for record in records]))


_BY_ID = attrgetter("id")
