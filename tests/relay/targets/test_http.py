"""HTTP targets: what compression, credentials and the less usual answers mean."""

import asyncio
import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from aiohttp import web

from crds.models.delivery import Compression
from router_manager.domain.batching import Failure, Response
from router_manager.domain.encoding import framed
from router_manager.relay.targets.bodies import Bodies
from router_manager.relay.targets.credentials import CredentialError, Credentials
from router_manager.relay.targets.exits import Exits
from tests.relay.support import LOOPBACK, Target, endpoint, serving
from tests.relay.targets.support import batch, credential, way_to

READINGS = [b'{"id":%d,"v":"%s"}' % (number, b"x" * 500) for number in range(300)]


def unpacked(body: bytes, compression: Compression) -> bytes:
    match compression:
        case "None":
            return body
        case "Gzip":
            return gzip.decompress(body)
        case "Zstd":
            return zstandard.ZstdDecompressor().decompress(body)


@pytest.mark.parametrize("compression", ["None", "Gzip", "Zstd"])
@pytest.mark.parametrize("readings", [READINGS[:1], READINGS], ids=["small", "large"])
@pytest.mark.parametrize("encoding", ["JSONArray", "NDJSON", "InfluxLine"])
async def test_bodies_are_compressed_as_their_header_says(
    compression: Compression, readings: list[bytes], encoding: Any
) -> None:
    exits = Exits(LOOPBACK)
    async with serving(Target(decompress=False)) as target:
        way = way_to(endpoint(target, compression=compression, encoding=encoding))
        sent = batch(way, *readings)
        assert await exits.send(sent) == Response(200)
        (headers,), (body,) = target.headers, target.bodies
    await exits.close()
    assert headers.get("Content-Encoding") == {"None": None, "Gzip": "gzip", "Zstd": "zstd"}[compression]
    assert headers["Idempotency-Key"] == "key-1"
    assert unpacked(body, compression) == framed(sent.parts, encoding)


async def test_lanes_that_send_the_same_share_one_compressed_body() -> None:
    bodies = Bodies()
    one, two = await asyncio.gather(
        *(bodies.make(list(READINGS), encoding="NDJSON", compression="Zstd") for _ in range(2))
    )
    assert one is two
    assert await bodies.make(READINGS, encoding="JSONArray", compression="Zstd") != one
    assert await bodies.make(READINGS[1:], encoding="NDJSON", compression="Zstd") != one


async def test_a_lane_that_ends_does_not_take_the_body_from_the_others() -> None:
    bodies = Bodies()
    first = asyncio.create_task(bodies.make(READINGS, encoding="NDJSON", compression="Gzip"))
    await asyncio.sleep(0)
    other = asyncio.create_task(bodies.make(READINGS, encoding="NDJSON", compression="Gzip"))
    await asyncio.sleep(0)
    first.cancel()
    assert gzip.decompress(await other) == framed(READINGS, "NDJSON")


@pytest.mark.parametrize(
    ("shown", "authorization"),
    [({"token": "s3cret"}, "Bearer s3cret"), ({"username": "u", "password": "s3cret"}, "Basic dTpzM2NyZXQ=")],
)
async def test_a_credential_is_shown_to_its_origin(tmp_path: Path, shown: dict[str, str], authorization: str) -> None:
    async with serving(Target()) as target:
        credential(tmp_path, origin=f"http://127.0.0.1:{target.port}", **shown)
        exits = Exits(LOOPBACK, credentials=Credentials(tmp_path))
        assert await exits.send(batch(way_to(endpoint(target, credential="mine")), b"1")) == Response(200)
        assert await exits.send(batch(way_to(endpoint(target)), b"1")) == Response(200)
        await exits.close()
        assert [headers.get("Authorization") for headers in target.headers] == [authorization, None]


async def test_a_credential_is_sent_to_nobody_else(tmp_path: Path) -> None:
    credential(tmp_path, origin="http://127.0.0.1:9", token="s3cret")
    exits = Exits(LOOPBACK, credentials=Credentials(tmp_path))
    async with serving(Target()) as target:
        answer = await exits.send(batch(way_to(endpoint(target, credential="mine")), b"1"))
        assert isinstance(answer, Failure)
        assert "credential test.mine is not for" in answer.reason
        assert target.bodies == []
    await exits.close()


async def test_an_error_that_echoes_the_credential_is_told_without_it(tmp_path: Path) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(status=403, text="x" * 500 + f"no: {request.headers['Authorization']}, go away")

    async with serving(Target(always=echo)) as target:
        credential(tmp_path, origin=f"http://127.0.0.1:{target.port}", token="s3cret-s3cret")
        exits = Exits(LOOPBACK, credentials=Credentials(tmp_path))
        answer = await exits.send(batch(way_to(endpoint(target, credential="mine")), b"1"))
        await exits.close()
    assert isinstance(answer, Response)
    assert (answer.status, answer.body[500:]) == (403, "no: Bearer *")


GOOD = {"origin": "https://a.example", "token": "s3cret"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        (b"s3cret", "Invalid JSON"),
        (b"x" * 20_000, "more than 16384 bytes"),
        (orjson.dumps({"origin": "https://a.example"}), "either token, or username and password"),
        (orjson.dumps({**GOOD, "username": "s3cret"}), "either token, or username and password"),
        (orjson.dumps({**GOOD, "token": "s3cret\n"}), "token: String should match pattern"),
        (orjson.dumps({**GOOD, "origin": "https://a.example/path"}), "origin: String should match pattern"),
        (orjson.dumps({**GOOD, "origin": "https://a.example:s3cret"}), "Port could not be cast"),
    ],
)
def test_a_credential_that_cannot_be_used_says_why_and_never_itself(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "test.mine").write_bytes(content)
    with pytest.raises(CredentialError, match=expected) as error:
        Credentials(tmp_path).of(way_to(endpoint("https://a.example/in", credential="mine")))
    if expected != "Port could not be cast":
        assert "s3cret" not in str(error.value)


def test_a_credential_that_was_exchanged_is_read_again(tmp_path: Path) -> None:
    known = Credentials(tmp_path)
    way = way_to(endpoint("https://a.example/in", credential="mine"))
    for token in ("one", "two"):
        credential(tmp_path / "", "new", origin="https://A.example:443", token=token)
        (tmp_path / "new").replace(tmp_path / "test.mine")
        found = known.of(way)
        assert found is not None
        assert found.authorization == f"Bearer {token}"
        assert token not in repr(found)
    (tmp_path / "test.mine").unlink()
    with pytest.raises(CredentialError, match="No such file"):
        known.of(way)


def test_without_a_folder_there_are_no_credentials() -> None:
    with pytest.raises(CredentialError, match="no --credentials-dir"):
        Credentials(None).of(way_to(endpoint("https://a.example/in", credential="mine")))
