"""With an identity the sink takes readings of relays alone, and says which relay brought each, and who signed it."""

from __future__ import annotations

import asyncio
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from scripts.sink.identity import identity_in, read_identity
from scripts.sink.server import Sink
from scripts.testbed.processes import Child, accepts, free_port
from spire.domain.authorization import exactly
from spire.helper.files import write
from spire.identity import FixedIdentity, Identity
from spire.readings import sign
from spire.tls import client_context
from tests.spire.pki import Ca

PROVIDER, CONSUMER = Ca.of("provider.test"), Ca.of("consumer.test")
SINK = CONSUMER.identity("/endpoint/default/sink", knows=[PROVIDER])
DEVICE = f"/device/01{'ab' * 16}/app/thermo"
READINGS: list[Any] = [{"id": "board-1-7", "device": "board-1", "value": 2.5}]
ROOT = Path(__file__).parents[2]


def client(identity: Identity, *, sink: Identity = SINK) -> ssl.SSLContext:
    return client_context(FixedIdentity(identity), authorize=exactly(sink.svid.spiffe_id))


async def post(url: str, tls: ssl.SSLContext | bool, readings: list[Any] = READINGS) -> int:
    async with aiohttp.ClientSession() as session, session.post(url, json=readings, ssl=tls) as answer:
        return answer.status


def signed(reading: object, *, ca: Ca = PROVIDER, path: str = DEVICE) -> dict[str, Any]:
    svid = ca.svid(path)
    key = load_der_private_key(svid.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    message = sign(orjson.dumps(reading), key=key, chain=svid.chain, sensor="s", sequence=1, time=datetime.now(UTC))
    found: dict[str, Any] = orjson.loads(message)
    return found


async def test_readings_of_a_relay_are_kept_with_its_name() -> None:
    async with Sink(identity=FixedIdentity(SINK)) as sink:
        assert await post(sink.url("a"), client(PROVIDER.identity("/relay/edge-1", knows=[CONSUMER]))) == 204
        async with aiohttp.ClientSession() as session, session.get(sink.control_url("a")) as answer:
            shown = await answer.json()
        assert shown["arrivals"]["board-1-7"]["client"] == "spiffe://provider.test/relay/edge-1"


@pytest.mark.parametrize(
    ("ca", "path"),
    [(PROVIDER, "/manager/rear-gateway"), (Ca.of("stranger.test"), "/relay/edge-1")],
    ids=["no relay", "stranger"],
)
async def test_nobody_else_brings_readings(ca: Ca, path: str) -> None:
    async with Sink(identity=FixedIdentity(SINK)) as sink:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await post(sink.url("a"), client(ca.identity(path, knows=[CONSUMER])))
        assert await post(sink.control_url("a"), tls=True) == 403
        assert sink.endpoint("a").arrivals == {}


async def test_what_a_device_signed_is_kept_with_its_name_and_nothing_that_became_of_it_on_the_way() -> None:
    relay = client(PROVIDER.identity("/relay/edge-1", knows=[CONSUMER]))
    good, other = signed({"id": "good", "value": 1}), signed({"id": "other", "value": 1})
    bad = [
        {**good, "id": "changed"},
        {**other, "value": 2},
        {**other, "signed": good["signed"]},
        {**other, "signed": other["signed"][:-8]},
        {**other, "signed": None},
        signed({"id": "a stranger's"}, ca=Ca.of("provider.test")),
        signed({"id": "a relay's"}, path="/relay/edge-1"),
        signed([1]),
    ]
    async with Sink(identity=FixedIdentity(SINK), verify_readings=True) as sink:
        assert await post(sink.url("a"), relay, [good, *bad, {"id": "unsigned"}]) == 204
        kept = sink.endpoint("a").received()
    assert {name: arrival.signed_by for name, arrival in kept.arrivals.items()} == {
        "good": f"spiffe://provider.test{DEVICE}",
        "unsigned": None,
    }
    assert (kept.unverifiable, kept.unreadable) == (len(bad), 0)


async def test_who_does_not_verify_reads_what_stands_in_the_clear() -> None:
    relay = client(PROVIDER.identity("/relay/edge-1", knows=[CONSUMER]))
    async with Sink(identity=FixedIdentity(SINK)) as sink:
        assert await post(sink.url("a"), relay, [{**signed({"id": "x", "value": 1}), "value": 2}]) == 204
        (arrival,) = sink.endpoint("a").arrivals.values()
    assert (arrival.value, arrival.signed_by) == (2, None)


def test_what_is_read_from_the_files_is_what_was_written(tmp_path: Path) -> None:
    write(tmp_path, SINK)
    assert read_identity(tmp_path) == SINK


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("key.pem", "nonsense", "^key.pem: "),
        ("svid.pem", ssl.DER_cert_to_PEM_cert(CONSUMER.root), "not the key of svid.pem"),
        ("bundle.pem", ssl.DER_cert_to_PEM_cert(CONSUMER.svid(uris=[], names=["a.test"]).chain[0]), "no trust domain"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, name: str, text: str, told: str) -> None:
    write(tmp_path, SINK)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=told):
        read_identity(tmp_path)


async def test_files_that_are_renewed_are_used(tmp_path: Path) -> None:
    write(tmp_path, SINK)
    renewed = CONSUMER.identity("/endpoint/default/sink", knows=[PROVIDER])
    async with identity_in(tmp_path) as source:
        assert source is not None
        changed = asyncio.Event()
        source.on_change(lambda _: changed.set())
        write(tmp_path, renewed)
        async with asyncio.timeout(20):
            await changed.wait()
            while source.current != renewed:  # noqa: ASYNC110 - it may have read the files one by one
                await asyncio.sleep(0.01)


async def test_as_a_process_it_shows_on_one_port_what_came_on_the_other(tmp_path: Path) -> None:
    write(tmp_path / "tls", SINK)
    port, tls_port = free_port(), free_port()
    command = [sys.executable, "-m", "scripts.sink", "--port", str(port), "--tls-port", str(tls_port)]
    command += ["--tls-dir", str(tmp_path / "tls"), "--verify-readings"]
    with Child(name="sink", command=command, directory=ROOT, logs=tmp_path) as child:
        await asyncio.to_thread(child.wait_until, lambda: accepts(tls_port), what="the sink", limit=20)
        relay = client(PROVIDER.identity("/relay/edge-1", knows=[CONSUMER]))
        assert await post(f"https://127.0.0.1:{tls_port}/a", relay, [*READINGS, signed({"id": "x"})]) == 204
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/a") as answer:
            shown = await answer.json()
    assert list(shown["arrivals"]) == ["board-1-7", "x"]
    assert shown["arrivals"]["x"]["signedBy"] == f"spiffe://provider.test{DEVICE}"
