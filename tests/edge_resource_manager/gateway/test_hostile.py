"""Strangers: whatever they send is answered with a 4xx, and takes nothing from the others."""

import asyncio
import gzip
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Provider, running
from tests.edge_resource_manager.gateway.test_wire import json_values

FLAVOR = "THE-FLAVOR"
GOOD = samples.wish("no-such-flavor")


def problem(status: int, answer: Any) -> None:
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json["status"] == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b'{"flavorID": "\xff"}',
        b'{"flavorID": NaN}',
        b'{"flavorID": Infinity}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"[]",
        b"null",
        b'"flavor"',
        json.dumps({**GOOD, "flavorID": "x" * 100_000}).encode(),
        json.dumps({**GOOD, "flavorID": "a\x00b"}).encode(),
        json.dumps({**GOOD, "flavorID": {"$ne": 1}}).encode(),
        json.dumps({**GOOD, "buyerID": [GOOD["buyerID"]]}).encode(),
        json.dumps({**GOOD, "configuration": samples.configuration(endpoints=[{"name": "a", "url": "x"}])}).encode(),
        json.dumps({**GOOD, "configuration": samples.configuration(filter={"maxPerSecond": 10**30})}).encode(),
        gzip.compress(json.dumps(GOOD).encode()),
    ],
    ids=range(18),
)
async def test_a_body_that_makes_no_sense_is_400(provider: Provider, body: bytes) -> None:
    problem(400, await provider.ask("POST", "/reservations", data=body))


async def test_a_compressed_body_is_not_unpacked(provider: Provider) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    answer = await provider.ask("POST", "/reservations", data=bomb, headers={"Content-Encoding": "gzip"})
    problem(400, answer)


async def test_a_body_of_a_megabyte_is_413(provider: Provider) -> None:
    problem(413, await provider.ask("POST", "/reservations", data=b" " * 1_048_576))
    problem(413, await provider.ask("PUT", "/contracts/x/configuration", data=b" " * 1_048_576))


async def test_long_and_strange_paths_are_4xx(provider: Provider) -> None:
    for path in (
        "/contracts/" + "x" * 4000,
        "/contracts/%00",
        "/flavors/sensors/%ff",
        "/transactions/..%2f..%2f/purchase",
    ):
        answer = await provider.ask("GET", path)
        assert 400 <= answer.status < 500, path


# Requests that are nearly right: each part is right, or anything.
def or_anything(right: object) -> st.SearchStrategy[Any]:
    return st.just(right) | json_values


wishes = st.fixed_dictionaries(
    {
        "flavorID": or_anything(FLAVOR),
        "buyerID": st.fixed_dictionaries(
            {"ID": or_anything("x"), "IP": or_anything("1.2.3.4:5"), "domain": or_anything("d")}
        )
        | json_values,
        "configuration": st.fixed_dictionaries(
            {
                "type": or_anything("sensor"),
                "data": st.fixed_dictionaries(
                    {
                        "claim": or_anything(GOOD["configuration"]["data"]["claim"]),
                        "endpoints": st.lists(
                            st.fixed_dictionaries(
                                {
                                    "name": or_anything("a"),
                                    "url": or_anything("http://192.0.2.1/")
                                    | st.text("ht[]:/@1.%xé-", max_size=12).map(lambda host: f"http://{host}"),
                                }
                            ),
                            max_size=2,
                        ),
                        "filter": or_anything(None),
                    }
                )
                | json_values,
            }
        )
        | json_values,
    }
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=wishes)
async def test_nearly_good_wishes_are_never_5xx(provider: Provider, namespace: str, body: object) -> None:
    (flavor,) = await provider.offer(samples.sensor("a", namespace=namespace, additional={"maxConsumers": "10000"}))
    data = json.dumps(body).replace(FLAVOR, flavor).encode()
    for method, path in (
        ("POST", "/reservations"),
        ("POST", "/transactions/x/purchase"),
        ("PUT", "/contracts/x/configuration"),
    ):
        answer = await provider.ask(method, path, data=data)
        assert answer.status == 200 or 400 <= answer.status < 500
        if answer.status == 200:
            assert (await provider.purchase(answer.json["transactionID"])).status == 200


@pytest.mark.parametrize("text", ["", "\x00", "\u202e\ufeff", "\ud800", "\U0001f608", "'; DROP--", "x" * 253])
async def test_strange_words_are_stored_or_refused(provider: Provider, namespace: str, text: str) -> None:
    (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
    body = {**samples.wish(flavor), "buyerID": {"ID": "x", "IP": text, "domain": text}}
    answer = await provider.ask("POST", "/reservations", data=json.dumps(body).encode())
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert (await provider.purchase(answer.json["transactionID"])).json["buyerID"]["domain"] == text


async def test_a_connection_that_asks_nothing_is_cut_and_one_that_asks_is_not(provider: Provider) -> None:
    provider.gateway.guard.silent_seconds = 0.3
    host, port = provider.url.removeprefix("http://").split("/")[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /api/v2/flavors HTTP/1.1\r\nHost:")
    async with provider.http.get(f"{provider.url}/flavors/sensors/events") as stream:
        with suppress(ConnectionError):  # how an aborted connection looks depends on when it is read
            assert await asyncio.wait_for(reader.read(), 20) == b""
        assert b"HEARTBEAT" in await stream.content.readline()
        assert not stream.content.at_eof()
    writer.close()


async def test_connections_beyond_the_limit_are_cut_and_the_older_ones_stay(provider: Provider) -> None:
    provider.gateway.guard.max_connections = 3
    host, port = provider.url.removeprefix("http://").split("/")[0].split(":")
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(8)]
    ended = [asyncio.create_task(reader.read()) for reader, _ in connections]
    done, pending = await asyncio.wait(ended, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert done
    assert len(pending) >= 3
    for task in pending:
        task.cancel()
    for _, writer in connections:
        writer.close()


async def test_requests_beyond_the_limit_are_told_to_come_back(provider_cluster: Any) -> None:
    async with running(provider_cluster) as provider:
        provider.gateway.rear.places.limit = 0
        answer = await provider.get("/flavors")
        problem(503, answer)
        assert answer.headers["Retry-After"] == "1"
