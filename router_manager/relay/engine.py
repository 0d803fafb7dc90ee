"""The relay as a whole: a table of routes in, lanes and pumps kept to it.

Changing the table touches the lanes of changed routes only; the session to the broker stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from router_manager.domain.admission import Grants
from router_manager.domain.batching import BatchLimits
from router_manager.domain.table import Change, LaneKey, RouteName, Table, difference
from router_manager.relay.dead_letters.replay import Replayer
from router_manager.relay.dead_letters.store import DeadLetters
from router_manager.relay.ingest import Ingest
from router_manager.relay.inlet.server import Doors, Inlet, InletSettings
from router_manager.relay.kafka.source import KafkaSource, SiteSettings
from router_manager.relay.lane import Lane, Memory
from router_manager.relay.lanes import Lanes, stop
from router_manager.relay.listener.server import Listener, ListenSettings
from router_manager.relay.mqtt.client import Session, SessionSettings
from router_manager.relay.positions import Positions
from router_manager.relay.pump import Outlet, Pump
from router_manager.relay.retention import Keeper
from router_manager.relay.spool import Spool
from router_manager.relay.store import Stored, StoredTable
from router_manager.relay.targets.base import Exit

log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS = 1.0
_CHECKPOINT_ROUNDS = 15
_AT_A_TIME = 50


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
        self.first_delivery = asyncio.Event()
        self.connections_lost = 0
        self.malformed_packets = 0
        self.dead_letters = DeadLetters(state / "dead-letters", max_bytes=bounds.dead_letter_bytes)
        outlet = Outlet(
            exit=exits,
            dead_letters=self.dead_letters,
            spool_identity=self.spool.identity,
            limits=bounds.batch,
            on_first_delivery=self.first_delivery.set,
        )
        self._exits = exits
        self._lanes = Lanes(
            spool=self.spool,
            memory=Memory(bounds.memory_bytes),
            positions=Positions(state / "positions"),
            outlet=outlet,
        )
        self._replayer = Replayer(state / "replay", outlet=outlet, pumps=self.pumps)
        self._stored = Stored(state)
        self._stored_table = StoredTable(state, head=self.spool.head)
        self._service: dict[str, asyncio.Task[None]] = {}
        self.listener: Listener | None = None
        if listen is not None:
            self.listener = Listener(listen, self.ingest, grants=self._stored.load("grants", Grants()))
        self.inlet: Inlet | None = None
        if inlet is not None:
            self.inlet = Inlet(inlet, self.ingest)
            self.inlet.admit(self._stored.load("doors", Doors()).topics)
        self.site = None if site is None else KafkaSource(site, self.ingest, delivered=self._lanes.drained)

    async def __aenter__(self) -> Relay:
        self._serve(self._lanes.change(Change(put=self.table)))
        self._lanes.forget_others()
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
        await stop(self._service.values())
        await self._lanes.stop()
        await self._exits.close()
        self.spool.close()

    def begin(self) -> None:
        """Take readings."""
        self._begun.set()

    def apply(self, table: Table) -> None:
        """Serve this table from the next message on."""
        change = difference(self.table, table, head=self.spool.next_id)
        if change.put.routes or change.gone:
            # The lanes' positions are on disk before the table is, see Lanes.
            touched = self._lanes.change(change)
            self._stored_table.put(change)
            self._serve(touched)

    def permit(self, grants: Grants) -> None:
        """Let these accounts speak at the listener, and no others."""
        if self.listener is not None:
            self.listener.permit(grants)
            self._stored.put("grants", grants)

    def admit(self, doors: Mapping[str, str]) -> None:
        """Let KubeEdge's router in by these doors, and by no others; see Inlet."""
        if self.inlet is not None:
            self.inlet.admit(doors)
            self._stored.put("doors", Doors(topics=dict(doors)))

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
        await stop([task for name, task in self._service.items() if name in self._ways_in])
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._lanes.drained()

    @property
    def pumps(self) -> Mapping[LaneKey, Pump]:
        """One for each target of each route."""
        return self._lanes.pumps

    @property
    def damaged_positions(self) -> int:
        """Lanes that started with the oldest record, since nobody knew how far they had come."""
        return self._lanes.damaged

    @property
    def table(self) -> Table:
        """What is served."""
        return self._stored_table.table

    def pumps_by_route(self) -> dict[RouteName, list[Pump]]:
        """For reports."""
        return self._lanes.by_route()

    async def watch(self) -> None:
        """Until one of the relay's own tasks ends, which none should: a defect, told by its error."""
        done, _ = await asyncio.wait(self._service.values(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _take_from(self, way_in: Session | Listener | Inlet | KafkaSource) -> None:
        await self._begun.wait()
        await way_in.run()

    def _serve(self, touched: Mapping[str, Sequence[Lane]]) -> None:
        self.ingest.serve(touched)
        if self.session is not None:
            self.session.want(frozenset(self._lanes.topics))
        if self.inlet is not None:
            self.inlet.serve(self.table)

    async def _keep_house(self) -> None:
        """Give back what every lane has passed or gives up; note how far each has come, idle ones now and then."""
        rounds = 0
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            rounds += 1
            self._stored.save()
            self._stored_table.save()
            self._keeper.look(now=asyncio.get_running_loop().time())
            passed = self.spool.head
            for number, pump in enumerate(list(self.pumps.values())):
                pump.give_up(self._keeper.floor(pump.way.retention))
                if pump.unsaved or rounds % _CHECKPOINT_ROUNDS == 0:
                    pump.save_position()
                passed = min(passed, pump.lane.position)
                if number % _AT_A_TIME == 0:
                    await asyncio.sleep(0)  # thousands of lanes must not hold readings up
            self.spool.release(passed)

    def _count_loss(self, _reason: str, malformed: bool) -> None:  # noqa: FBT001 - the session's callback
        self.connections_lost += 1
        self.malformed_packets += malformed
