"""Where KubeEdge's router brings readings: over real HTTP, as Go's client sends them."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from router_manager.domain.partition import Partition
from router_manager.domain.table import Route, RouteName
from router_manager.relay.engine import Bounds, Relay
from router_manager.relay.inlet import server
from router_manager.relay.inlet.server import InletSettings
from router_manager.relay.settings import Settings
from router_manager.relay.targets.exits import Exits
from scripts.testbed.processes import free_port
from spire.domain.authorization import any_known
from spire.identity import FixedIdentity
from spire.tls import server_context
from tests.relay.support import LIMIT_SECONDS, LOOPBACK, Target, endpoint, route, serving, status, table, until
from tests.spire.pki import Ca

TOPIC, OTHER_TOPIC = "edge-1/ns/temperature", "edge-2/ns/temperature"
TOKEN, OTHER_TOKEN = "x" * 43, "y" * 43
NAME = RouteName("test", "route-1")


def digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


DOORS = {digest(TOKEN): TOPIC, digest(OTHER_TOKEN): OTHER_TOPIC}


@asynccontextmanager
async def inlet(
    state: Path, *routes: Route, tls: ssl.SSLContext | None = None, limits: dict[str, Any] | None = None, **bounds: Any
) -> AsyncIterator[tuple[Relay, int]]:
    port = free_port()
    settings = InletSettings(host="127.0.0.1", port=port, tls=tls, **(limits or {}))
    exits = Exits(LOOPBACK, timeout_seconds=2.0)
    async with Relay(state=state, session=None, exits=exits, bounds=Bounds(**bounds), inlet=settings) as running:
        running.apply(table(*routes))
        await until(lambda: running.ready, what="inlet")
        yield running, port


async def say(port: int, data: bytes, *, tls: ssl.SSLContext | None = None) -> bytes:
    """Everything that is answered until the other side ends the connection."""
    async with asyncio.timeout(LIMIT_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        writer.write(data)
        answer = await reader.read()
        writer.close()
        return answer


async def post(port: int, payload: bytes, *, token: str = TOKEN, tls: ssl.SSLContext | None = None) -> int:
    head = f"POST /{token} HTTP/1.1\r\nHost: relay\r\nUser-Agent: Go-http-client/1.1\r\n"
    head += f"Content-Length: {len(payload)}\r\nAccept-Encoding: gzip\r\n\r\n"
    answer = await say(port, head.encode() + payload, tls=tls)
    return int(answer.split(b" ", 2)[1])


def reading(number: int) -> bytes:
    return json.dumps({"id": number}).encode()


async def test_what_is_posted_is_on_disk_when_it_is_answered_and_reaches_the_targets(tmp_path: Path) -> None:
    async with serving(Target()) as one, serving(Target()) as two:
        both = route(endpoint(one, "one"), endpoint(two, "two"), topics=[TOPIC])
        async with inlet(tmp_path, both) as (running, port):
            running.admit(DOORS)
            assert [await post(port, reading(number)) for number in range(20)] == [204] * 20
            assert running.spool.head == running.spool.next_id
            await until(lambda: one.ids == two.ids == list(range(20)))


async def test_a_path_leads_to_its_own_topic_and_others_lead_nowhere(tmp_path: Path) -> None:
    async with serving(Target()) as one, serving(Target()) as two:
        routes = (route(endpoint(one), topics=[TOPIC]), route(endpoint(two), topics=[OTHER_TOPIC], uid="route-2"))
        async with inlet(tmp_path, *routes) as (running, port):
            assert await post(port, reading(0)) == 404
            running.admit(DOORS)
            assert await post(port, reading(1)) == 204
            assert await post(port, reading(2), token=OTHER_TOKEN) == 204
            assert await post(port, reading(3), token="z" * 43) == 404
            assert await post(port, reading(3), token="") == 404
            await until(lambda: (one.ids, two.ids) == ([1], [2]))
            running.admit({digest(OTHER_TOKEN): OTHER_TOPIC})
            assert await post(port, reading(4)) == 404
            assert running.inlet is not None
            assert (running.inlet.counts.accepted, running.inlet.counts.unknown) == (2, 4)


async def test_doors_outlive_a_restart_without_their_tokens(tmp_path: Path) -> None:
    async with serving(Target()) as target:
        async with inlet(tmp_path, route(endpoint(target), topics=[TOPIC])) as (running, _):
            running.admit(DOORS)
        assert TOKEN not in (tmp_path / "doors.json").read_text()
        async with inlet(tmp_path, route(endpoint(target), topics=[TOPIC])) as (_, port):
            assert await post(port, reading(1)) == 204
            await until(lambda: target.ids == [1])


async def test_with_an_identity_it_speaks_tls_to_whoever_checks_nothing(tmp_path: Path) -> None:
    identity = FixedIdentity(Ca.of("provider.test").identity("/relay/cloud-1"))
    tls = server_context(identity, authorize=any_known(), client_certificates="optional")
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    async with (
        serving(Target()) as target,
        inlet(tmp_path, route(endpoint(target), topics=[TOPIC]), tls=tls) as (
            running,
            port,
        ),
    ):
        running.admit(DOORS)
        assert await post(port, reading(1), tls=unchecked) == 204
        await until(lambda: target.ids == [1])


async def test_bodies_are_bounded_and_so_is_the_time_that_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inlet(tmp_path, limits={"body_bytes": 1000}) as (running, port):
        running.admit(DOORS)
        assert await post(port, b"x" * 1001) == 413
        monkeypatch.setattr(server, "_BODY_SECONDS", 0.2)
        slow = f"POST /{TOKEN} HTTP/1.1\r\nHost: relay\r\nContent-Length: 10\r\n\r\n12345".encode()
        assert await say(port, slow) == b""
        assert b" 405 " in (await say(port, f"GET /{TOKEN} HTTP/1.0\r\n\r\n".encode())).partition(b"\r\n")[0]
        assert running.inlet is not None
        assert running.inlet.counts.oversized == 1


async def test_a_full_spool_keeps_the_router_waiting_and_then_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = Target(always=status(503))
    async with (
        serving(down),
        inlet(tmp_path, route(endpoint(down), topics=[TOPIC]), spool_bytes=20_000, segment_bytes=5_000) as (
            running,
            port,
        ),
    ):
        running.admit(DOORS)
        taken = 0
        while not running.spool.full:
            assert await post(port, json.dumps({"id": taken, "v": "x" * 2000}).encode()) == 204
            taken += 1
        with monkeypatch.context() as patched:
            patched.setattr(server, "_ANSWER_SECONDS", 0.2)
            assert await post(port, reading(-1)) == 503
        late = asyncio.create_task(post(port, reading(taken)))
        down.always = None
        assert await late == 204
        await until(lambda: set(range(taken)) | {taken} <= set(down.ids))


async def test_a_source_that_floods_is_slowed_and_then_refused_and_no_other_is(tmp_path: Path) -> None:
    async with serving(Target()) as target:
        routes = route(endpoint(target), topics=[TOPIC, OTHER_TOPIC])
        async with inlet(tmp_path, routes, limits={"per_second": 1.0, "waiting": 3}) as (running, port):
            running.admit({**DOORS, digest("calm"): OTHER_TOPIC})
            flood = [asyncio.create_task(post(port, b"x" * 4096)) for _ in range(10)]
            assert running.inlet is not None
            counts = running.inlet.counts
            await until(lambda: counts.busy >= 1)
            assert await post(port, b"1", token="calm") == 204
            for each in flood:
                each.cancel()
            await asyncio.gather(*flood, return_exceptions=True)


async def test_missing_readings_are_counted_and_silence_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Target()) as target:
        counted = route(endpoint(target), topics=[TOPIC, OTHER_TOPIC]).model_copy(update={"sequence": "/id"})
        async with inlet(tmp_path, counted) as (running, port):
            running.admit(DOORS)
            assert running.inlet is not None
            for number in (5, 6, 9):
                await post(port, reading(number))
            await post(port, b"not JSON")
            assert running.inlet.forwarding(NAME) == server.Forwarding(missing=2, silent=())
            monkeypatch.setattr(server, "SILENT_SECONDS", -1.0)
            assert running.inlet.forwarding(NAME).silent == ("flavor-0", "flavor-1")
            # A change of the table does not begin anew.
            running.apply(table(counted, route(endpoint(target, "t"), topics=[TOPIC], uid="route-2")))
            await post(port, reading(7))
            assert running.inlet.forwarding(NAME).missing == 1
            assert running.inlet.forwarding(RouteName("test", "route-2")).missing is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"inlet": "9444"}, "host:port"),
        ({"broker": "mqtt://127.0.0.1"}, "readings come by one way"),
        ({"listen": "127.0.0.1:1883"}, "readings come by one way"),
        ({"partitions": 2}, "readings come by one way"),
        ({"lease_seconds": 15}, "readings come by one way"),
    ],
)
def test_readings_come_by_one_way(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    said = {"node": "cloud-1", "state_dir": tmp_path, "inlet": "0.0.0.0:9444", "insecure": True}
    taking_in: dict[str, Any] = {"_cli_parse_args": False, **said}
    assert Settings(**taking_in).session(None, Partition()) is None
    with pytest.raises(ValidationError, match=message):
        Settings(**taking_in | flags)


async def test_at_the_end_what_was_taken_is_answered_and_nothing_more_is_taken(tmp_path: Path) -> None:
    async with serving(Target()) as target, inlet(tmp_path, route(endpoint(target), topics=[TOPIC])) as (running, port):
        running.admit(DOORS)
        several = [asyncio.create_task(post(port, reading(number))) for number in range(50)]
        assert running.inlet is not None
        counts = running.inlet.counts
        await until(lambda: counts.accepted >= 1)
        await running.drain(5)
        answers = await asyncio.gather(*several, return_exceptions=True)
        taken = {number for number, answer in enumerate(answers) if answer == 204}
        assert taken
        await until(lambda: taken <= set(target.ids))
