"""MQTT to HTTP with everything real, and targets that misbehave in every way that is listed."""

import asyncio
from functools import partial
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from crds.egress import EgressPolicy
from crds.models.delivery import Deadband, PayloadFilter, Threshold
from crds.models.shaping import Rename, Shape
from router_manager.domain.batching import BatchLimits
from router_manager.domain.table import LaneKey
from router_manager.relay.mqtt.packets import Version
from router_manager.relay.targets.exits import Exits
from scripts.testbed.broker import Broker
from tests.relay.support import (
    LIMIT_SECONDS,
    Answer,
    Target,
    endpoint,
    numbered,
    publish_all,
    relay,
    route,
    serve,
    serving,
    session_of,
    status,
    until,
)

pytestmark = pytest.mark.broker
KEY = LaneKey("route-1", "target")
DOWN = status(503, Retry_After="0")
"""Asks to be tried again soon, or the backoff would decide how long a test takes."""


def dead_letters(state: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for path in state.glob("dead-letters/*") for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("version", list(Version))
async def test_every_message_arrives_once_and_in_order(tmp_path: Path, broker: Broker, version: Version) -> None:
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port, version=version) as running:
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered(range(3000)))
        await until(lambda: len(target.accepted) >= 3000)
        assert target.ids == list(range(3000))
        assert len(target.bodies) < 3000, "messages that come together leave together"
        await until(lambda: running.pumps[KEY].statistics.delivered == 3000)


async def test_several_routes_and_targets_each_get_their_own(tmp_path: Path, broker: Broker) -> None:
    async with (
        serving(Target()) as one,
        serving(Target()) as two,
        relay(tmp_path / "state", broker.port) as running,
    ):
        await serve(
            running,
            route(endpoint(one, "one"), endpoint(two, "two"), topics=["a", "b"]),
            route(endpoint(two, "again"), uid="route-2", topics=["b", "c"]),
        )
        await publish_all(broker.port, [(topic, b'{"id":%d}' % n) for n, topic in enumerate("abcabc")])
        await until(lambda: len(one.accepted) == 4 and len(two.accepted) == 8)
        assert one.ids == [0, 1, 3, 4]
        assert sorted(two.ids) == [0, 1, 1, 2, 3, 4, 4, 5]


async def test_a_filter_keeps_the_rest_back(tmp_path: Path, broker: Broker) -> None:
    spec = PayloadFilter(threshold=Threshold(field="/v", above="3"), deadband=Deadband(field="/v", change="2"))
    values = [1, 4, 5, 6, 9, 3, 10, 11, 12]
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port) as running:
        await serve(running, route(endpoint(target), passing=spec))
        await publish_all(broker.port, [("a/b", b'{"id":%d,"v":%d}' % (n, v)) for n, v in enumerate(values)])
        await publish_all(broker.port, [("a/b", b"not json"), ("a/b", b'{"id":99,"v":99}')])
        await until(lambda: 99 in target.ids)
        assert [reading["v"] for reading in target.accepted] == [4, 6, 9, 11, 99]
        statistics = running.pumps[KEY].statistics
        assert (statistics.filtered, statistics.unreadable) == (6, 1)


async def test_each_target_gets_its_shape_and_what_does_not_fit_goes_to_the_dead_letters(
    tmp_path: Path, broker: Broker
) -> None:
    shape = Shape(keep=("/id", "/v"), rename=(Rename(field="/v", to="value"),))
    async with (
        serving(Target()) as plain,
        serving(Target()) as shaped,
        relay(tmp_path / "state", broker.port) as running,
    ):
        targets = endpoint(plain, "plain"), endpoint(shaped, "shaped", shape=shape)
        await serve(running, route(*targets, passing=PayloadFilter(expression="!has(payload.v) || payload.v < 3")))
        payloads = [b'{"id":1,"v":1,"w":0}', b'{"id":2,"v":5}', b'{"w":7}', b'{"id":4,"v":2}']
        await publish_all(broker.port, [("a/b", payload) for payload in payloads])
        await until(lambda: len(plain.accepted) == 3 and len(shaped.accepted) == 2)
        assert plain.accepted == [{"id": 1, "v": 1, "w": 0}, {"w": 7}, {"id": 4, "v": 2}]
        assert shaped.accepted == [{"id": 1, "value": 1}, {"id": 4, "value": 2}]
        statistics = running.pumps[LaneKey("route-1", "shaped")].statistics
        assert (statistics.filtered, statistics.unreadable, statistics.dead) == (1, 0, 1)


def abort(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


async def hang(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    raise AssertionError("nobody waits so long")


async def cut_answer(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"half of")
    abort(request)
    return web.Response(status=500)  # not sent; counts the batch as not accepted


async def cut_request(request: web.Request) -> web.StreamResponse:
    abort(request)
    return web.Response(status=500)


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(status(500), id="500"),
        pytest.param(status(408), id="408"),
        pytest.param(status(429, Retry_After="0"), id="429 with seconds"),
        pytest.param(status(503, Retry_After="Sat, 21 Nov 2020 10:00:00 GMT"), id="503 with a date"),
        pytest.param(hang, id="hangs"),
        pytest.param(cut_answer, id="closes in mid-answer"),
        pytest.param(cut_request, id="closes without an answer"),
    ],
)
async def test_trouble_that_passes_loses_and_reorders_nothing(tmp_path: Path, broker: Broker, trouble: Answer) -> None:
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port) as running:
        target.answers.extend([trouble, trouble])
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered(range(200)))
        await until(lambda: len(target.accepted) >= 200)
        assert target.ids == list(range(200))
        assert running.pumps[KEY].statistics.retried == 2
        assert len(set(target.keys[:3])) == 1, "the same batch keeps its Idempotency-Key"


async def test_retry_after_is_waited_for(tmp_path: Path, broker: Broker) -> None:
    times: list[float] = []

    async def busy(_: web.Request) -> web.Response:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response()

    async with serving(Target(always=busy)) as target, relay(tmp_path / "state", broker.port) as running:
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered([1]))
        await until(lambda: target.accepted)
        assert times[1] - times[0] >= 1.0


async def test_a_batch_that_is_too_large_is_halved_and_a_reading_that_is_goes_to_the_dead_letters(
    tmp_path: Path, broker: Broker
) -> None:
    async def at_most_a_kilobyte(request: web.Request) -> web.Response:
        return web.Response(status=413 if len(await request.read()) > 1000 else 200)

    messages = [("a/b", orjson.dumps({"id": n, "pad": "x" * (2000 if n == 70 else 20)})) for n in range(100)]
    async with serving(Target(always=at_most_a_kilobyte)) as target, relay(tmp_path / "state", broker.port) as running:
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, messages)
        await until(lambda: 99 in target.ids)
        assert target.ids == [n for n in range(100) if n != 70]
        (letter,) = dead_letters(tmp_path / "state")
        assert letter["payload"] == orjson.loads(messages[70][1])
        assert letter["reason"] == "HTTP 413"
        assert running.pumps[KEY].statistics.dead == 1


async def test_what_the_target_refuses_goes_to_the_dead_letters_and_the_rest_on(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port) as running:
        target.answers.append(status(422))
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered([1]))
        await until(lambda: running.pumps[KEY].statistics.dead == 1)
        assert running.pumps[KEY].statistics.problem == "HTTP 422: said 422"
        await publish_all(broker.port, numbered([2]))
        await until(lambda: target.ids == [2] and running.pumps[KEY].statistics.problem == "")
        (letter,) = dead_letters(tmp_path / "state")
        assert (letter["payload"], letter["topic"], letter["reason"]) == (
            {"id": 1, "v": 1},
            "a/b",
            "HTTP 422: said 422",
        )


async def test_redirects_are_not_followed(tmp_path: Path, broker: Broker) -> None:
    async with (
        serving(Target()) as elsewhere,
        serving(Target()) as target,
        relay(tmp_path / "state", broker.port) as running,
    ):
        target.answers.append(status(307, Location=elsewhere.url))
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered([1]))
        await until(lambda: running.pumps[KEY].statistics.dead == 1)
        assert elsewhere.bodies == []


async def test_readings_that_an_encoding_cannot_carry_do_not_hold_up_the_others(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port) as running:
        await serve(running, route(endpoint(target, encoding="InfluxLine")))
        await publish_all(broker.port, [("a/b", b'{"v":1}'), ("a/b", b"\xff\xfe"), ("a/b", b'{"v":2}')])
        await until(lambda: running.pumps[KEY].statistics.delivered == 2)
        assert b"".join(target.bodies).count(b"\n") == 2
        (letter,) = dead_letters(tmp_path / "state")
        assert letter["reason"] == "InfluxLine: not JSON"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_the_egress_policy_holds_for_addresses_and_names(tmp_path: Path, broker: Broker, host: str) -> None:
    exits = Exits(EgressPolicy())
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port, exits=exits) as running:
        await serve(running, route(endpoint(f"http://{host}:{target.port}/")))
        await publish_all(broker.port, numbered([1]))
        await until(lambda: running.pumps[KEY].statistics.problem)
        assert "egress policy refuses" in running.pumps[KEY].statistics.problem
        assert target.bodies == []
        assert running.pumps[KEY].lane.position == 1, "kept: the policy may change"


def has(target: Target, count: int) -> bool:
    return len(target.accepted) == count


async def test_a_target_that_is_down_delays_no_other_and_gets_all_later(tmp_path: Path, broker: Broker) -> None:
    async with (
        serving(Target()) as alive,
        serving(Target(always=DOWN)) as down,
        relay(tmp_path / "state", broker.port, memory_bytes=100_000, segment_bytes=20_000) as running,
    ):
        await serve(running, route(endpoint(down, "down"), endpoint(alive, "alive")))
        for start in range(0, 4000, 1000):
            await publish_all(broker.port, numbered(range(start, start + 1000)))
            await until(partial(has, alive, start + 1000))
        assert down.accepted == []
        assert running._lanes._memory.used <= 100_000
        down.always = None
        await until(lambda: len(down.accepted) >= 4000)
        assert down.ids == alive.ids == list(range(4000))
        await until(lambda: len(list((tmp_path / "state/spool").glob("*.log"))) == 1, what="retention")


async def test_a_full_spool_makes_the_broker_wait_and_loses_nothing(tmp_path: Path, broker: Broker) -> None:
    async with (
        serving(Target(always=DOWN)) as target,
        relay(tmp_path / "state", broker.port, spool_bytes=30_000, segment_bytes=5_000) as running,
    ):
        await serve(running, route(endpoint(target)))
        connection = session_of(running)._connection
        assert connection is not None
        published = 0
        async with asyncio.timeout(LIMIT_SECONDS):
            while not connection.paused:  # with the first message that comes after the spool was full
                await publish_all(broker.port, numbered(range(published, published + 100)))
                published += 100
                await asyncio.sleep(0.01)
        await until(lambda: running.ingest.problem == "the spool is full: a target is behind")
        received = running.ingest.received
        await publish_all(broker.port, numbered(range(published, published + 500)))
        assert running.ingest.received == received, "the broker keeps what comes"
        target.always = None
        await until(lambda: len(target.accepted) >= published + 500)
        assert target.ids == list(range(published + 500))


async def test_a_killed_broker_is_waited_for(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port) as running:
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered(range(100)))
        await until(lambda: len(target.accepted) == 100)
        broker.kill()
        await until(lambda: not running.ready)
        await asyncio.to_thread(broker.restart)
        await until(lambda: running.ready)
        await publish_all(broker.port, numbered(range(100, 200)))
        await until(lambda: set(target.ids) == set(range(200)))


async def test_a_defect_in_one_route_stops_no_other(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port) as running:
        await serve(running, route(endpoint(target)), route(endpoint(target), uid="route-2", topics=["c"]))
        pump = running.pumps[KEY]
        monkeypatch.setattr(pump, "_try", None)
        await publish_all(broker.port, [*numbered(range(10)), *numbered([99], topic="c")])
        await until(lambda: target.ids == [99])
        await until(lambda: pump.statistics.problem.startswith("internal error"))
        monkeypatch.undo()
        await until(lambda: target.ids == [99, *range(10)])


async def test_batches_keep_to_their_bounds(tmp_path: Path, broker: Broker) -> None:
    limits = BatchLimits(records=50, size_bytes=1000)
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port, batch=limits) as running:
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered(range(1000)))
        await until(lambda: len(target.accepted) == 1000)
        assert max(len(orjson.loads(body)) for body in target.bodies) <= 50
        assert max(len(body) for body in target.bodies) <= 1000 + 50 + 2


async def test_drain_delivers_what_is_there(tmp_path: Path, broker: Broker) -> None:
    async with serving(Target()) as target, relay(tmp_path / "state", broker.port) as running:
        await serve(running, route(endpoint(target)))
        await publish_all(broker.port, numbered(range(500)))
        await until(lambda: running.ingest.received)
        received = running.ingest.received
        await running.drain(20)
        assert len(target.accepted) >= received
