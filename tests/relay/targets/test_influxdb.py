"""InfluxDB targets: 1.x is a real one, 2.x answers what its documentation says."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from crds.models.addresses import InfluxDB
from crds.models.delivery import Compression, Endpoint
from router_manager.domain.batching import Failure, Receipts, Response
from router_manager.domain.table import Way
from router_manager.relay.targets.credentials import Credentials
from router_manager.relay.targets.exits import Exits
from router_manager.relay.targets.influxdb import write_url
from scripts.testbed.influxdb import TOKEN, Influx, Influx2
from tests.relay.support import LOOPBACK, Target, serving
from tests.relay.targets.support import batch, credential, way_to


@pytest.fixture(scope="module")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    with Influx(tmp_path_factory.mktemp("influx")) as running:
        yield running


@pytest.fixture
def database(influx: Influx, request: pytest.FixtureRequest) -> str:
    name = f"plant {request.node.name}"
    influx.query(f'CREATE DATABASE "{name}"')
    return name


def points(influx: Influx, database: str) -> list[Any]:
    found = orjson.loads(influx.query("SELECT v FROM climate ORDER BY time", database=database))
    return [value for series in found["results"][0].get("series", ()) for _, value in series["values"]]


def to(url: str, **values: Any) -> Way:
    address = InfluxDB(url=url, **{"version": "V1", **values.pop("address")})
    return way_to(Endpoint.model_validate({"name": "influx", "influxDB": address, **values}))


def readings(*values: object) -> list[bytes]:
    return [orjson.dumps({"v": value, "sentAt": 1_700_000_000 + number}) for number, value in enumerate(values)]


LINE = {"measurement": "climate"}


@pytest.mark.parametrize("compression", ["None", "Gzip"])
async def test_points_are_written(influx: Influx, database: str, compression: Compression) -> None:
    exits = Exits(LOOPBACK)
    way = to(influx.url, address={"database": database}, line=LINE, compression=compression)
    assert await exits.send(batch(way, *readings(1, 2.5, 3))) == Response(204)
    await exits.close()
    assert points(influx, database) == [1, 2.5, 3]


async def test_a_retention_policy_can_be_named(influx: Influx, database: str) -> None:
    influx.query(f'CREATE RETENTION POLICY "long, long" ON "{database}" DURATION INF REPLICATION 1')
    exits = Exits(LOOPBACK)
    way = to(influx.url, address={"database": database, "retention_policy": "long, long"}, line=LINE)
    assert await exits.send(batch(way, *readings(1))) == Response(204)
    await exits.close()
    found = orjson.loads(influx.query('SELECT v FROM "long, long".climate', database=database))
    assert found["results"][0]["series"][0]["values"] == [["2023-11-14T22:13:20Z", 1]]


async def test_of_a_partial_write_the_refused_points_are_told_and_the_others_kept(
    influx: Influx, database: str
) -> None:
    exits = Exits(LOOPBACK)
    way = to(influx.url, address={"database": database}, line=LINE)
    values: list[object] = list(range(100))
    values[7] = values[8] = values[93] = "text"
    answer = await exits.send(batch(way, *readings(*values)))
    await exits.close()
    assert isinstance(answer, Receipts)
    assert [index for index, _ in answer.refused] == [7, 8, 93]
    assert all("field type conflict" in reason for _, reason in answer.refused)
    assert points(influx, database) == [value for value in values if value != "text"]


async def test_points_that_are_all_refused_cost_one_request(influx: Influx, database: str) -> None:
    exits = Exits(LOOPBACK)
    way = to(influx.url, address={"database": database}, line=LINE)
    assert await exits.send(batch(way, *readings(1))) == Response(204)
    answer = await exits.send(batch(way, *readings(*["text"] * 500)))
    await exits.close()
    assert isinstance(answer, Receipts)
    assert len(answer.refused) == 500
    assert points(influx, database) == [1]


async def test_a_database_that_is_not_there_is_told(influx: Influx) -> None:
    exits = Exits(LOOPBACK)
    answer = await exits.send(batch(to(influx.url, address={"database": "nowhere"}), *readings(1)))
    await exits.close()
    assert isinstance(answer, Response)
    assert answer.status == 404
    assert "database not found" in answer.body


async def test_a_user_of_v1_is_shown(tmp_path: Path) -> None:
    with Influx(tmp_path / "influx", {"INFLUXDB_HTTP_AUTH_ENABLED": "true"}) as influx:
        influx.query("CREATE USER relay WITH PASSWORD 's3cret' WITH ALL PRIVILEGES")
        credential(tmp_path, origin=influx.url, username="relay", password="s3cret")
        basic = "Basic cmVsYXk6czNjcmV0"
        influx.query("CREATE DATABASE plant", authorization=basic)
        exits = Exits(LOOPBACK, credentials=Credentials(tmp_path))
        for name, status in (("mine", 204), (None, 401)):
            way = to(influx.url, address={"database": "plant"}, credential=name)
            answer = await exits.send(batch(way, *readings(1)))
            assert isinstance(answer, Response)
            assert answer.status == status
        await exits.close()


@pytest.mark.skipif("INFLUXD2" not in os.environ, reason="INFLUXD2 names no influxd of InfluxDB 2.x")
async def test_a_real_v2_gets_its_points_and_its_refusals_are_understood(tmp_path: Path) -> None:
    with Influx2(tmp_path / "influx", os.environ["INFLUXD2"]) as influx:
        credential(tmp_path, origin=influx.url, token=TOKEN)
        exits = Exits(LOOPBACK, credentials=Credentials(tmp_path))
        address = {"version": "V2", "organization": "site", "bucket": "plant"}
        way = to(influx.url, address=address, line=LINE, credential="mine", compression="Gzip")
        assert await exits.send(batch(way, *readings(1, 2))) == Response(204)
        answer = await exits.send(batch(way, *readings(3, "text", 4, 5)))
        assert isinstance(answer, Receipts)
        assert [index for index, _ in answer.refused] == [1]
        assert "field type conflict" in answer.refused[0][1]
        nowhere = to(influx.url, address={**address, "bucket": "none"}, credential="mine")
        missing = await exits.send(batch(nowhere, *readings(1)))
        assert isinstance(missing, Response)
        assert missing.status == 404
        await exits.close()
        found = influx.query(
            'from(bucket: "plant") |> range(start: 0) |> filter(fn: (r) => r._field == "v") |> count()'
        )
        assert b",4,v,climate," in found


def test_addresses_of_both_versions_are_quoted() -> None:
    one = InfluxDB(url="https://a/influx/", version="V1", database="a&b", retention_policy="c d")
    assert write_url(one) == "https://a/influx/write?db=a%26b&rp=c+d&precision=ns"
    two = InfluxDB(url="https://a", version="V2", organization="o/o", bucket="b=1")
    assert write_url(two) == "https://a/api/v2/write?org=o%2Fo&bucket=b%3D1&precision=ns"


async def judging(request: web.Request, *, bad: Callable[[list[bytes]], web.Response | None]) -> web.Response:
    return bad((await request.read()).splitlines()) or web.Response(status=204)


V2 = {"version": "V2", "organization": "o", "bucket": "b"}


async def test_v2_writes_nothing_of_a_body_that_it_cannot_read_so_halves_are_written(tmp_path: Path) -> None:
    written: set[bytes] = set()

    def parse(lines: list[bytes]) -> web.Response | None:
        if any(b" v=13," in line for line in lines):
            return web.json_response({"code": "invalid", "message": "unable to parse"}, status=400)
        written.update(lines)
        return None

    async with serving(Target(always=partial(judging, bad=parse))) as target:
        credential(tmp_path, origin=f"http://127.0.0.1:{target.port}", token="s3cret")
        exits = Exits(LOOPBACK, credentials=Credentials(tmp_path))
        way = to(f"http://127.0.0.1:{target.port}", address=V2, credential="mine")
        answer = await exits.send(batch(way, *readings(*range(10, 60))))
        await exits.close()
    assert answer == Receipts(((3, 'HTTP 400: {"code": "invalid", "message": "unable to parse"}'),))
    assert len(written) == 49
    assert {headers["Authorization"] for headers in target.headers} == {"Token s3cret"}


async def test_a_hunt_for_bad_points_has_a_bound() -> None:
    def refuse(_: list[bytes]) -> web.Response:
        return web.json_response({"code": "unprocessable entity"}, status=422)

    async with serving(Target(always=partial(judging, bad=refuse))) as target:
        exits = Exits(LOOPBACK)
        answer = await exits.send(batch(to(f"http://127.0.0.1:{target.port}", address=V2), *readings(*range(500))))
        await exits.close()
    assert isinstance(answer, Receipts)
    assert [index for index, _ in answer.refused] == list(range(500))
    assert len(target.bodies) <= 66


async def test_a_hunt_that_meets_another_error_is_tried_again_as_a_whole() -> None:
    def refuse(lines: list[bytes]) -> web.Response:
        return web.Response(status=422 if len(lines) > 2 else 503)

    async with serving(Target(always=partial(judging, bad=refuse))) as target:
        exits = Exits(LOOPBACK)
        answer = await exits.send(batch(to(f"http://127.0.0.1:{target.port}", address=V2), *readings(1, 2, 3, 4)))
        await exits.close()
    assert answer == Response(503)


async def test_a_missing_credential_waits_instead_of_writing_without() -> None:
    answer = await Exits(LOOPBACK).send(batch(to("http://127.0.0.1:9", address=V2, credential="mine"), *readings(1)))
    assert answer == Failure("credential test.mine: the relay has no --credentials-dir")
