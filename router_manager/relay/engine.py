"""The relay as a whole: a table of routes in, lanes and pumps kept to it.

Changing the table touches the lanes of changed routes only; the session to the broker stays.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import ValidationError

from crds.models.base import Model
from router_manager.domain.admission import Grants
from router_manager.domain.batching import BatchLimits, backoff_seconds
from router_manager.domain.table import LaneKey, RouteName, Table, Way, succeed, ways
from router_manager.relay.dead_letters.replay import Replayer
from router_manager.relay.dead_letters.store import DeadLetters
from router_manager.relay.ingest import Ingest
from router_manager.relay.inlet.server import Doors, Inlet, InletSettings
from router_manager.relay.kafka.source import KafkaSource, SiteSettings
from router_manager.relay.lane import Lane, Memory
from router_manager.relay.listener.server import Listener, ListenSettings
from router_manager.relay.mqtt.client import Session, SessionSettings
from router_manager.relay.positions import Positions
from router_manager.relay.pump import Outlet, Pump
from router_manager.relay.retention import Keeper
from router_manager.relay.spool import Spool
from router_manager.relay.targets.base import Exit

log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS = 1.0
_CHECKPOINT_ROUNDS = 15
M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a relay may use."""

    spool_bytes: int = 4 << 30
    reserve_bytes: int = 0
    """Of the disk, that others are to have."""
    lane_share: float = 0.5
    """Of the spool, that one target may hold back whose route may lose readings."""
    segment_bytes: int = 16 << 20
    memory_bytes: int = 64 << 20
    dead_letter_bytes: int = 256 << 20
    batch: BatchLimits = field(default_factory=BatchLimits)


class Relay:
    """Use as async context manager; `apply` gives it work."""

    def __init__(
        self,
        *,
        state: Path,
        session: SessionSettings | None,
        exits: Exit,
        bounds: Bounds | None = None,
        listen: ListenSettings | None = None,
        inlet: InletSettings | None = None,
        site: SiteSettings | None = None,
        begun: bool = True,
    ) -> None:
        """Open the state folder and take up the table, and the grants, of the last life.

        Args:
            state: folder of this relay alone, which holds its lock (`partition`).
            session: to the node's broker; None where readings come another way.
            exits: to the targets.
            bounds: what it may use.
            listen: where devices connect without the broker, if they may.
            inlet: where KubeEdge's router brings readings, if it does.
            site: the Kafka topic where edge relays put readings, if it is read.
            begun: whether to take readings at once, or from `begin` on; what is spooled is delivered in either case.

        Raises:
            OSError: it cannot be used.
        """
        bounds = bounds or Bounds()
        self.spool = Spool.open(
            state / "spool",
            segment_bytes=bounds.segment_bytes,
            max_bytes=bounds.spool_bytes,
            reserve_bytes=bounds.reserve_bytes,
        )
        now = asyncio.get_running_loop().time()
        self._keeper = Keeper(self.spool, lane_share=bounds.lane_share, now=now)
        self.ingest = Ingest(self.spool)
        self.session = None if session is None else Session(session, self.ingest, on_lost=self._count_loss)
        self._begun = asyncio.Event()
        if begun:
            self.begin()
        self.pumps: dict[LaneKey, Pump] = {}
        self.first_delivery = asyncio.Event()
        self.connections_lost = 0
        self.malformed_packets = 0
        self.damaged_positions = 0
        """Whose lanes started with the oldest record."""
        self._positions = Positions(state / "positions")
        self._memory = Memory(bounds.memory_bytes)
        self.dead_letters = DeadLetters(state / "dead-letters", max_bytes=bounds.dead_letter_bytes)
        self._outlet = Outlet(
            exit=exits,
            dead_letters=self.dead_letters,
            spool_identity=self.spool.identity,
            limits=bounds.batch,
            on_first_delivery=self.first_delivery.set,
        )
        self._replayer = Replayer(state / "replay", outlet=self._outlet, pumps=self.pumps)
        self._unsaved: dict[Path, Model] = {}
        self._table_path = state / "table.json"
        self._tasks: dict[LaneKey, asyncio.Task[None]] = {}
        self._service: dict[str, asyncio.Task[None]] = {}
        self.table = _load(self._table_path, Table())
        self._grants_path = state / "grants.json"
        self.listener: Listener | None = None
        if listen is not None:
            self.listener = Listener(listen, self.ingest, grants=_load(self._grants_path, Grants()))
        self._doors_path = state / "doors.json"
        self.inlet: Inlet | None = None
        if inlet is not None:
            self.inlet = Inlet(inlet, self.ingest)
            self.inlet.admit(_load(self._doors_path, Doors()).topics)
        self.site = None if site is None else KafkaSource(site, self.ingest, delivered=self._delivered)

    async def __aenter__(self) -> Relay:
        self._converge(self.table)
        works = {"ingest": self.ingest.run(), "housekeeping": self._keep_house(), "replay": self._replayer.run()}
        works |= {name: self._take_from(way) for name, way in self._ways_in.items()}
        self._service = {name: asyncio.create_task(work, name=name) for name, work in works.items()}
        return self

    @property
    def ready(self) -> bool:
        """Every source is open."""
        return all(way.ready for way in self._ways_in.values())

    @property
    def _ways_in(self) -> dict[str, Session | Listener | Inlet | KafkaSource]:
        ways_in = {"session": self.session, "listener": self.listener, "inlet": self.inlet, "site": self.site}
        return {name: way for name, way in ways_in.items() if way is not None}

    async def __aexit__(self, *_: object) -> None:
        await _stop([*self._service.values(), *self._tasks.values()])
        for pump in self.pumps.values():
            pump.save_position()
        await self._outlet.exit.close()
        self.spool.close()

    def begin(self) -> None:
        """Take readings."""
        self._begun.set()

    def apply(self, table: Table) -> None:
        """Serve this table from the next message on."""
        table = succeed(self.table, table, head=self.spool.next_id)
        if table.routes == self.table.routes:
            return
        self._converge(table)
        self.table = table
        self._store(self._table_path, table)

    def permit(self, grants: Grants) -> None:
        """Let these accounts speak at the listener, and no others."""
        if self.listener is not None:
            self.listener.permit(grants)
            self._store(self._grants_path, grants)

    def admit(self, doors: Mapping[str, str]) -> None:
        """Let KubeEdge's router in by these doors, and by no others; see Inlet."""
        if self.inlet is not None:
            self.inlet.admit(doors)
            self._store(self._doors_path, Doors(topics=dict(doors)))

    async def command(self, topic: str, payload: bytes) -> bool:
        """Hand a message to a device: over its connection to the listener, else to the broker.

        Returns:
            Whether anybody has it.

        Raises:
            ConnectionLostError: the broker is away.
        """
        if self.listener is not None and self.listener.send(topic, payload):
            return True
        if self.session is None:
            return False
        await self.session.publish(topic, payload)
        return True

    async def drain(self, seconds: float) -> None:
        """Take nothing more from broker and devices, and deliver what is at hand for at most so long."""
        deadline = asyncio.get_running_loop().time() + seconds
        for way in self._ways_in.values():
            way.shut()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                # What targets may have already is acknowledged before we go, or it would be sent again.
                await self.ingest.drained()
        await _stop([task for name, task in self._service.items() if name in self._ways_in])
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._delivered()

    def pumps_by_route(self) -> dict[RouteName, list[Pump]]:
        """For reports."""
        routes: dict[RouteName, list[Pump]] = {}
        for pump in self.pumps.values():
            routes.setdefault(pump.way.route, []).append(pump)
        return routes

    async def watch(self) -> None:
        """Until one of the relay's own tasks ends, which none should: a defect, told by its error."""
        done, _ = await asyncio.wait(self._service.values(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _delivered(self) -> None:
        for pump in list(self.pumps.values()):
            await pump.lane.drained.wait()

    async def _take_from(self, way_in: Session | Listener | Inlet | KafkaSource) -> None:
        await self._begun.wait()
        await way_in.run()

    def _converge(self, table: Table) -> None:
        wanted = ways(table)
        for key in [key for key in self.pumps if key not in wanted]:
            self._close(key)
        for key, way in wanted.items():
            pump = self.pumps.get(key)
            if pump is None:
                self._open(key, way)
            elif pump.way != way:
                pump.configure(way)
        for key in self._positions.keys() - wanted.keys():
            self._positions.file(key).delete()
        lanes: dict[str, list[Lane]] = {}
        for pump in self.pumps.values():
            for topic in pump.way.feeds:
                lanes.setdefault(topic, []).append(pump.lane)
        self.ingest.serve(lanes)
        if self.session is not None:
            self.session.want(frozenset(lanes))
        if self.inlet is not None:
            self.inlet.serve(table)

    def _open(self, key: LaneKey, way: Way) -> None:
        file = self._positions.file(key)
        position = file.read()
        if position is None or position > self.spool.head:
            # New, or the spool lost its tail with the machine's power. On disk before the table is: else a crash in
            # between would leave a lane that starts anew, later.
            position = self.spool.next_id
            file.delete()
        self.damaged_positions += position == 0
        lane = Lane(spool=self.spool, memory=self._memory, feeds=way.feeds, position=position)
        pump = self.pumps[key] = Pump(key=key, way=way, lane=lane, position=file, outlet=self._outlet)
        pump.save_position()
        self._tasks[key] = asyncio.create_task(_supervise(pump), name=f"pump {way.route} {key.target}")

    def _close(self, key: LaneKey) -> None:
        self._tasks.pop(key).cancel()
        pump = self.pumps.pop(key)
        log.info("lane ended", route=str(pump.way.route), target=key.target, dropped=pump.lane.backlog)
        pump.lane.close()

    async def _keep_house(self) -> None:
        """Give back what every lane has passed or gives up; note now and then how far idle lanes have come."""
        rounds = 0
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            rounds += 1
            self._save()
            self._keeper.look(now=asyncio.get_running_loop().time())
            for pump in self.pumps.values():
                pump.give_up(self._keeper.floor(pump.way.retention))
                if rounds % _CHECKPOINT_ROUNDS == 0:
                    pump.save_position()
            self.spool.release(min((pump.lane.position for pump in self.pumps.values()), default=self.spool.head))

    def _store(self, path: Path, value: Model) -> None:
        self._unsaved[path] = value
        self._save()

    def _save(self) -> None:
        """To disk; a full one delays that, and only a crash until then would cost what has changed."""
        for path, value in list(self._unsaved.items()):
            try:
                _write(path, value)
            except OSError as error:
                log.error("cannot write", file=str(path), error=str(error))
            else:
                del self._unsaved[path]

    def _count_loss(self, _reason: str, malformed: bool) -> None:  # noqa: FBT001 - the session's callback
        self.connections_lost += 1
        self.malformed_packets += malformed


async def _supervise(pump: Pump) -> None:
    """A defect that one route meets must not stop the others: say it, and go on from the position."""
    attempt = 0
    while True:
        try:
            await pump.run()
        except Exception as error:
            log.exception("pump failed", route=str(pump.way.route), target=pump.key.target)
            pump.statistics.problem = f"internal error: {error!r}"
            pump.lane.rewind()
            jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
            await asyncio.sleep(backoff_seconds(attempt, jitter=jitter))
            attempt += 1


async def _stop(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


def _load(path: Path, empty: M) -> M:
    try:
        return type(empty).model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return empty
    except ValidationError:
        log.exception("a stored file is damaged; waiting for the API server's word", file=str(path))
        return empty


def _write(path: Path, value: Model) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(value.model_dump_json(by_alias=True).encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
