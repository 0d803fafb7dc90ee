"""What becomes of a batch that is tried more than once: each reading is delivered, dead or withdrawn, and once so."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from crds.models.shaping import Shape
from router_manager.domain.batching import Answer, Response
from router_manager.domain.table import LaneKey, Table, changed, difference
from router_manager.relay.dead_letters.store import DeadLetters
from router_manager.relay.ingest import Ingest
from router_manager.relay.lane import Memory
from router_manager.relay.lanes import Lanes
from router_manager.relay.mqtt.packets import Publish, Received
from router_manager.relay.positions import Positions
from router_manager.relay.pump import Outlet, Pump
from router_manager.relay.spool import Spool
from router_manager.relay.targets.base import Batch, Exit
from router_manager.relay.turns import Turns
from tests.relay.support import LIMIT_SECONDS, endpoint, route, table, until

KEY = LaneKey("route-1", "target")
URL = "http://127.0.0.1:1/"
PLAIN = table(route(endpoint(URL)))
AGAIN = Response(503, retry_after="0")
SHAPED = table(route(endpoint(URL, shape=Shape(keep=("/id",)))))


class Scripted:
    """An Exit that answers by script, then takes all; before each answer something may happen."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = deque(answers)
        self.happens: Callable[[], None] = lambda: None
        self.delivered: list[bytes] = []

    async def send(self, batch: Batch) -> Answer:
        self.happens()
        self.happens = lambda: None
        answer = self.answers.popleft() if self.answers else Response(200)
        if answer == Response(200):
            self.delivered += batch.parts
        return answer

    async def close(self) -> None:
        pass


class Site:
    """Lanes between a spool and a scripted target."""

    def __init__(self, state: Path, exits: Exit, turns: Turns) -> None:
        self.state, self.exits, self.table = state, exits, Table()
        self.spool = Spool.open(state / "spool")
        self.ingest = Ingest(self.spool)
        outlet = Outlet(
            exit=exits,
            dead_letters=DeadLetters(state / "dead"),
            spool_identity=self.spool.identity,
            turns=turns,
        )
        self.lanes = Lanes(
            spool=self.spool, memory=Memory(1 << 20), positions=Positions(state / "positions"), outlet=outlet
        )

    def apply(self, new: Table) -> None:
        change = difference(self.table, new, head=self.spool.next_id)
        self.table = changed(self.table, change)
        self.ingest.serve(self.lanes.change(change))

    def receive(self, *payloads: bytes) -> None:
        self.ingest.receive(Nobody(), Received([Publish("a/b", each, retained=False) for each in payloads], [], []))

    @property
    def pump(self) -> Pump:
        return self.lanes.pumps[KEY]

    @property
    def letters(self) -> list[int]:
        return [
            orjson.loads(line)["id"]
            for file in (self.state / "dead").iterdir()
            for line in file.read_bytes().splitlines()
        ]


class Nobody:
    """A source that asks for nothing."""

    def acknowledge(self, packet_ids: list[bytes]) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stray(self, topic: str) -> None: ...


@asynccontextmanager
async def site(state: Path, exits: Exit, served: Table, *, at_once: int = 128) -> AsyncIterator[Site]:
    made = Site(state, exits, Turns(at_once))
    flushing = asyncio.create_task(made.ingest.run())
    made.apply(served)
    try:
        yield made
    finally:
        flushing.cancel()
        await made.lanes.stop()
        await asyncio.gather(flushing, return_exceptions=True)
        made.spool.close()


async def drained(one: Site) -> None:
    await until(one.pump.lane.drained.is_set, what="all that was taken is done")


async def test_what_cannot_be_written_is_one_letter_however_often_the_others_are_tried(tmp_path: Path) -> None:
    exits = Scripted(AGAIN, Response(413), AGAIN)
    async with site(tmp_path, exits, SHAPED) as one:
        one.receive(b'{"id":1}', b"no JSON", b'{"id":3}', b"none either", b'{"id":5}')
        await drained(one)
        assert exits.delivered == [b'{"id":1}', b'{"id":3}', b'{"id":5}']
        assert one.letters == [2, 4]
        assert one.pump.statistics.dead == 2


async def test_a_batch_that_is_refused_makes_one_letter_of_what_could_not_be_written(tmp_path: Path) -> None:
    async with site(tmp_path, Scripted(Response(422)), SHAPED) as one:
        one.receive(b'{"id":1}', b"no JSON")
        await drained(one)
        assert sorted(one.letters) == [1, 2]
        assert one.pump.statistics.dead == 2


async def test_what_a_new_shape_cannot_write_between_two_tries_is_a_dead_letter(tmp_path: Path) -> None:
    exits = Scripted(AGAIN)
    async with site(tmp_path, exits, PLAIN) as one:
        exits.happens = lambda: one.apply(SHAPED)
        one.receive(b'{"id":1}', b"no JSON")
        await drained(one)
        assert exits.delivered == [b'{"id":1}']
        assert one.letters == [2]


async def test_what_was_in_flight_when_its_source_went_is_not_sent_when_it_comes_back(tmp_path: Path) -> None:
    exits = Scripted(AGAIN)
    other = table(route(endpoint(URL), topics=["c"]))
    async with site(tmp_path, exits, PLAIN) as one:

        def leave_and_return() -> None:
            one.apply(other)
            one.apply(PLAIN)

        exits.happens = leave_and_return
        one.receive(b'{"id":1}')
        await until(lambda: one.pump.statistics.retried)
        one.receive(b'{"id":2}')
        await until(lambda: exits.delivered)
        await drained(one)
        assert exits.delivered == [b'{"id":2}']
        assert one.letters == []


class Defective:
    """An Exit with a defect that one reading meets."""

    def __init__(self) -> None:
        self.delivered: list[bytes] = []

    async def send(self, batch: Batch) -> Answer:
        if b'{"id":2}' in batch.parts:
            raise LookupError("defect")
        self.delivered += batch.parts
        return Response(200)

    async def close(self) -> None:
        pass


async def test_a_reading_that_always_meets_a_defect_is_a_dead_letter_and_the_others_are_delivered(
    tmp_path: Path,
) -> None:
    exits = Defective()
    async with site(tmp_path, exits, PLAIN) as one:
        one.receive(*[b'{"id":%d}' % number for number in range(1, 5)])
        await until(lambda: len(exits.delivered) == 3)
        await drained(one)
        assert exits.delivered == [b'{"id":1}', b'{"id":3}', b'{"id":4}']
        assert one.letters == [2]


async def test_what_would_come_twice_after_a_crash_is_one_batch_at_most(tmp_path: Path) -> None:
    exits = Scripted()
    async with site(tmp_path, exits, PLAIN) as one:
        before = saved = Positions(tmp_path / "positions").file(KEY).read()
        for number in range(1, 601):
            one.receive(b'{"id":%d}' % number)
            async with asyncio.timeout(LIMIT_SECONDS):
                while len(exits.delivered) < number:  # noqa: ASYNC110 - a moment for each of many
                    await asyncio.sleep(0)
            saved = Positions(tmp_path / "positions").file(KEY).read()
            assert saved is not None
            assert number - (saved - 1) <= 500
            assert number > 400 or saved == before, "a write for each reading would cost as much as its delivery"
        assert saved != before


class Crowd:
    """An Exit that answers nobody of one origin before it is told to."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = self.most = 0
        self.delivered: list[str] = []
        self.sizes: list[int] = []

    async def send(self, batch: Batch) -> Answer:
        self.sizes.append(len(batch.records))
        if batch.way.target.location.startswith(URL):
            self.inside += 1
            self.most = max(self.most, self.inside)
            await self.opened.wait()
            await asyncio.sleep(0)
            self.inside -= 1
        self.delivered.append(str(batch.way.route))
        return Response(200)

    async def close(self) -> None:
        pass


async def test_many_lanes_to_one_origin_take_turns_and_keep_no_other_waiting(tmp_path: Path) -> None:
    exits = Crowd()
    crowd = [route(endpoint(f"{URL}{number}"), uid=f"crowd-{number:02}") for number in range(20)]
    other = route(endpoint("http://127.0.0.1:2/"), uid="other")
    async with site(tmp_path, exits, table(*crowd, other), at_once=3) as one:
        one.receive(b'{"id":1}')
        await until(lambda: exits.delivered == ["test/other"])
        assert exits.inside == 3
        exits.opened.set()
        await until(lambda: len(exits.delivered) == 21)
        assert exits.most == 3
        assert exits.delivered[1:] == [f"test/{each.uid}" for each in crowd], "in the order in which they came"


async def test_what_comes_while_a_lane_waits_for_its_turn_goes_with_the_same_request(tmp_path: Path) -> None:
    exits = Crowd()
    first, second = route(endpoint(URL), uid="first"), route(endpoint(URL), uid="second")
    async with site(tmp_path, exits, table(first, second), at_once=1) as one:
        one.receive(b'{"id":1}')
        await until(lambda: exits.inside == 1)
        one.receive(b'{"id":2}')
        one.receive(b'{"id":3}')
        exits.opened.set()
        await until(lambda: len(exits.delivered) == 3)
        assert exits.delivered == ["test/first", "test/second", "test/first"]
        assert exits.sizes == [1, 3, 2]


async def test_a_source_that_goes_while_its_reading_waits_for_a_turn_is_not_sent(tmp_path: Path) -> None:
    exits = Crowd()
    first, second = route(endpoint(URL), uid="first"), route(endpoint(URL), uid="second")
    async with site(tmp_path, exits, table(first, second), at_once=1) as one:
        one.receive(b'{"id":1}')
        await until(lambda: exits.inside == 1)
        one.apply(table(first, route(endpoint(URL), uid="second", topics=["c"])))
        exits.opened.set()
        await until(lambda: all(pump.lane.drained.is_set() for pump in one.lanes.pumps.values()))
        assert exits.delivered == ["test/first"]
