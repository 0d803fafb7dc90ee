"""Takes the POSTs of KubeEdge's router as messages of the ingest.

The router makes a connection for each message, keeps it open for as long as we do, and takes any answer for a success:
so every answer ends its connection, and who cannot be served now is kept waiting for a while before it is refused.
Its messages say nothing of where they come from; the path does, which nobody can guess.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count

import structlog
from aiohttp import web
from prometheus_client import Counter
from pydantic import Field

from crds.models.base import Model
from router_manager.domain.admission import Pace
from router_manager.domain.gaps import Gaps
from router_manager.domain.payload import Pointer, Record, number_at, parse_pointer
from router_manager.domain.table import RouteName, Table
from router_manager.relay.ingest import Ingest
from router_manager.relay.mqtt.packets import Publish, Received
from spire.serving.guard import Guard
from spire.serving.server import serving

log = structlog.get_logger(__name__)

SILENT_SECONDS = 30.0
_BODY_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_TOKEN_BYTES = 1024
CUTS = Counter("fluidos_edge_relay_inlet_cuts_total", "Connections to the inlet that were ended, by why.", ["why"])
HANDSHAKES = Counter("fluidos_edge_relay_inlet_handshakes_refused_total", "Handshakes that came to nothing.")


@dataclass(frozen=True, slots=True, kw_only=True)
class InletSettings:
    """Where to listen, and what one source may do.

    Attributes:
        host: address to listen on.
        port: its port.
        tls: shows the relay's SVID; None listens in the clear. The router checks neither.
        body_bytes: of one message.
        per_second: messages of one source, each begun KiB counts as one more; what is above has to wait.
        waiting: messages of one source that may wait; what is above is refused.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    body_bytes: int = 1 << 20
    per_second: float = 1000.0
    waiting: int = 256


@dataclass(slots=True)
class Counts:
    """Since the start of the process."""

    accepted: int = 0
    unknown: int = 0
    oversized: int = 0
    busy: int = 0
    unsaved: int = 0


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What is known of a route's sources.

    Attributes:
        missing: readings that did not come, by their numbers; None where they have none.
        silent: flavors of which nothing came of late.
    """

    missing: int | None
    silent: tuple[str, ...]


@dataclass(slots=True)
class _Door:
    topic: str
    pace: Pace
    waiting: int = 0


@dataclass(slots=True)
class _Counted:
    """Numbers of one source, as one route has them counted."""

    pointer: Pointer
    gaps: Gaps = field(default_factory=Gaps)


class Doors(Model):
    """Which paths lead in; kept over a restart.

    Attributes:
        topics: by digest of the path's token, so that the file lets nobody in.
    """

    topics: dict[str, str] = Field(default_factory=dict)


class Inlet:
    """A source of the ingest. `run` listens."""

    def __init__(self, settings: InletSettings, ingest: Ingest) -> None:
        self.counts = Counts()
        self.ready = False
        self._settings = settings
        self._ingest = ingest
        self._guard = Guard(cuts=CUTS, max_of_peer=2048)  # cloudcore is one peer
        self._doors: dict[str, _Door] = {}
        self._routes: dict[RouteName, dict[str, str]] = {}
        self._counted: dict[tuple[RouteName, str], _Counted] = {}
        self._by_topic: dict[str, list[_Counted]] = {}
        self._began = asyncio.get_running_loop().time()
        self._heard: dict[str, float] = {}
        self._numbers = count()
        self._unanswered: dict[bytes, asyncio.Future[None]] = {}
        self._open = asyncio.Event()
        self._open.set()
        self._shut = False

    def admit(self, doors: Mapping[str, str]) -> None:
        """From now on these paths lead in: digest of the token, and the topic."""
        settings = self._settings
        self._doors = {
            digest: door
            if (door := self._doors.get(digest)) is not None and door.topic == topic
            else _Door(topic, Pace(per_second=settings.per_second, burst=2 * settings.per_second))
            for digest, topic in doors.items()
        }
        self._heard = {topic: self._heard[topic] for topic in set(doors.values()) & self._heard.keys()}

    def serve(self, table: Table) -> None:
        """Count for these routes."""
        self._routes, before, self._counted, self._by_topic = {}, self._counted, {}, {}
        for route in table.routes:
            name = RouteName(route.namespace, route.name)
            self._routes[name] = {source.flavor: source.topic for source in route.sources}
            if route.sequence is None:
                continue
            pointer = parse_pointer(route.sequence)
            for topic in set(self._routes[name].values()):
                known = before.get((name, topic))
                counted = known if known is not None and known.pointer == pointer else _Counted(pointer)
                self._counted[name, topic] = counted
                self._by_topic.setdefault(topic, []).append(counted)

    def forwarding(self, name: RouteName) -> Forwarding:
        """What is known of the sources of a route."""
        topics = self._routes.get(name, {})
        before = asyncio.get_running_loop().time() - SILENT_SECONDS
        counted = [one for topic in set(topics.values()) if (one := self._counted.get((name, topic))) is not None]
        return Forwarding(
            missing=sum(one.gaps.missing for one in counted) if counted else None,
            silent=tuple(flavor for flavor, topic in topics.items() if self._heard.get(topic, self._began) < before),
        )

    async def run(self) -> None:
        """Listen until cancelled.

        Raises:
            Terminal: the address cannot be had.
        """
        settings = self._settings
        app = web.Application(client_max_size=settings.body_bytes)

        async def receive(request: web.Request) -> web.Response:
            self._guard.asked(request)
            response = web.Response(status=await self._receive(request))
            response.force_close()
            return response

        app.router.add_route("*", "/{path:.*}", receive)
        address = (settings.host, settings.port)
        try:
            async with serving(app, address, tls=settings.tls, guard=self._guard, refused=HANDSHAKES):
                self.ready = True
                await asyncio.get_running_loop().create_future()
        finally:
            self.ready = False

    def shut(self) -> None:
        """Take nothing more; what was taken is still answered until `run` is cancelled."""
        self._shut = True

    def acknowledge(self, packet_ids: list[bytes]) -> None:
        """See Source."""
        for packet_id in packet_ids:
            answer = self._unanswered.pop(packet_id, None)
            if answer is not None and not answer.done():
                answer.set_result(None)

    def pause(self) -> None:
        """See Source."""
        self._open.clear()

    def resume(self) -> None:
        """See Source."""
        self._open.set()

    def stray(self, topic: str) -> None:
        """See Source: its Rule is about to go."""

    async def _receive(self, request: web.Request) -> int:
        """The status of the answer."""
        if request.method != "POST":
            return 405
        token = request.path.rpartition("/")[2]
        # The digest is looked up, so that the time that it takes says nothing of tokens.
        door = self._doors.get(sha256(token.encode()).hexdigest())
        if door is None:
            self.counts.unknown += 1
            return 404
        if self._shut or door.waiting >= self._settings.waiting:
            self.counts.busy += 1
            return 503 if self._shut else 429
        door.waiting += 1
        try:
            return await self._take(request, door)
        finally:
            door.waiting -= 1

    async def _take(self, request: web.Request, door: _Door) -> int:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                payload = await request.read()
        except web.HTTPRequestEntityTooLarge:
            self.counts.oversized += 1
            return 413
        except TimeoutError:
            # aiohttp would wait as long again for the rest.
            self._guard.cut(request.protocol, "slow")
            return 408
        pause = door.pace.spend(1 + len(payload) // _TOKEN_BYTES, now=asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await asyncio.sleep(pause)
                await self._open.wait()
                await self._save(door.topic, payload)
        except TimeoutError:
            self.counts.unsaved += 1
            return 503
        return 204

    async def _save(self, topic: str, payload: bytes) -> None:
        """Hand a message on, and wait until it is on disk."""
        packet_id = next(self._numbers).to_bytes(8)
        answer = self._unanswered[packet_id] = asyncio.get_running_loop().create_future()
        self._note(topic, payload)
        self._ingest.receive(
            self, Received([Publish(topic, payload, retained=False, packet_id=packet_id)], [packet_id], [])
        )
        try:
            await answer
        finally:
            self._unanswered.pop(packet_id, None)

    def _note(self, topic: str, payload: bytes) -> None:
        self.counts.accepted += 1
        self._heard[topic] = asyncio.get_running_loop().time()
        counted = self._by_topic.get(topic)
        if counted is None:
            return
        value = Record(0, 0, topic, payload).value
        for one in counted:
            number = number_at(value, one.pointer)
            if isinstance(number, int):
                one.gaps.observe(number)
