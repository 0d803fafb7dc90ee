"""Bundles of other trust domains, fetched from real endpoints, honest and not."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from crds.errors import InvalidField, Retryable
from scripts.testbed.processes import free_port
from spire.domain.authorization import any_known
from spire.domain.bundle import to_json, to_pem
from spire.domain.federation import Endpoint, Known, Peer, dump, interval, load, read_peers, settle
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.identity import FixedIdentity
from spire.issuer.federation import Federation, fetch
from spire.issuer.store import FileStore
from spire.tls import server_context
from tests.spire.issuer.federating import PEER, Domain, configured

HERE = TrustDomain("a.example")
ISSUER = PEER.spiffe_id("issuer")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler, FixedIdentity], Awaitable[str]]


@asynccontextmanager
async def _served(handler: Handler, identity: FixedIdentity) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/bundle", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    context = server_context(identity, authorize=any_known(), client_certificates="optional")
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{port}/bundle"
    finally:
        await runner.cleanup()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves an endpoint for the time of a test."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler, identity: FixedIdentity) -> str:
            return await stack.enter_async_context(_served(handler, identity))

        yield start


@pytest.fixture
def peer() -> Domain:
    return Domain()


def _telling(document: Callable[[], bytes]) -> Handler:
    async def tell(_: web.Request) -> web.Response:
        return web.Response(body=document(), content_type="application/json")

    return tell


async def _federation(path: Path) -> Federation:
    federation = await Federation.open(FileStore(path / "federation.json"))
    federation.shorten = lambda _: 0.02
    return federation


@asynccontextmanager
async def _running(federation: Federation) -> AsyncIterator[None]:
    task = asyncio.create_task(federation.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


async def test_a_peer_is_followed_through_its_successions_and_known_after_a_restart(
    serve: Serve, peer: Domain, tmp_path: Path
) -> None:
    first = peer.bundle
    identity = peer.identity("issuer")
    url = await serve(_telling(lambda: to_json(peer.bundle)), identity)
    federation = await _federation(tmp_path)
    async with _running(federation):
        federation.configure(configured(first, url=url))
        assert federation.bundles == {PEER: first.roots}
        for _ in range(3):
            peer.rotate()  # the endpoint still shows the SVID of before, by which it is believed
            newest = peer.bundle.roots
            await _until(lambda newest=newest: federation.bundles == {PEER: newest})  # type: ignore[misc]  # the default binds it
            identity.replace(peer.identity("issuer").current)
        await _until(lambda: load((tmp_path / "federation.json").read_bytes())[PEER].bundle.sequence == 4)
    again = await _federation(tmp_path)
    assert again.bundles == {PEER: peer.bundle.roots}
    again.configure(configured(first, url=url))
    assert again.bundles == {PEER: peer.bundle.roots}


async def test_an_older_bundle_is_refused_also_after_a_restart(serve: Serve, peer: Domain, tmp_path: Path) -> None:
    first = peer.bundle
    older = to_json(first)
    peer.rotate()
    (tmp_path / "federation.json").write_bytes(
        dump({PEER: Known(digest=Peer(endpoint=None, first=first).digest, bundle=peer.bundle)})
    )
    asked = 0

    async def tell(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(body=older, content_type="application/json")

    url = await serve(tell, peer.identity("issuer"))
    federation = await _federation(tmp_path)
    async with _running(federation):
        federation.configure(configured(first, url=url))
        await _until(lambda: asked >= 3)
    assert federation.bundles == {PEER: peer.bundle.roots}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>503</html>",
        b'{"keys": []}',
        b"{" * 1_000_000,
        b" " * (1 << 20) + b"{}",
        to_json(Domain(TrustDomain("c.example")).bundle),
    ],
    ids=["nothing", "garbage", "no keys", "deep", "too large", "another domain"],
)
async def test_what_is_no_bundle_changes_nothing_and_is_asked_for_again(
    serve: Serve, peer: Domain, tmp_path: Path, document: bytes
) -> None:
    first = peer.bundle
    answers = [document, document]
    url = await serve(_telling(lambda: answers.pop() if answers else to_json(peer.bundle)), peer.identity("issuer"))
    federation = await _federation(tmp_path)
    changes: list[object] = []
    async with _running(federation):
        federation.configure(configured(first, url=url))
        federation.on_change(lambda: changes.append(federation.bundles))
        await _until(lambda: not answers)
        assert all(each == {PEER: first.roots} for each in changes)
        peer.rotate()
        await _until(lambda: federation.bundles == {PEER: peer.bundle.roots})


async def test_nobody_there_for_long_keeps_the_last_bundle(peer: Domain, tmp_path: Path) -> None:
    federation = await _federation(tmp_path)
    async with _running(federation):
        federation.configure(configured(peer.bundle))
        await asyncio.sleep(0.5)
        assert federation.bundles == {PEER: peer.bundle.roots}


async def test_somebody_else_at_the_endpoint_is_not_believed(serve: Serve, peer: Domain) -> None:
    other = Domain(TrustDomain("c.example"))
    known = {PEER: peer.bundle.roots, other.name: other.bundle.roots}
    told = _telling(lambda: to_json(peer.bundle))
    for identity in (
        peer.identity("manager", "rear-gateway"),
        other.identity("issuer"),
        other.identity(of=ISSUER),  # a known authority, and an ID that is not its to sign
        Domain(PEER).identity("issuer"),  # the right name under a root that nobody named
    ):
        url = await serve(told, identity)
        with pytest.raises(Retryable):
            await fetch(Endpoint(url=url, spiffe_id=ISSUER), known=known, trust_domain=PEER)


async def test_a_redirect_leads_nowhere(serve: Serve, peer: Domain) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("https://127.0.0.1:1/bundle")

    url = await serve(elsewhere, peer.identity("issuer"))
    with pytest.raises(Retryable, match="status 302"):
        await fetch(Endpoint(url=url, spiffe_id=ISSUER), known={PEER: peer.bundle.roots}, trust_domain=PEER)


async def test_an_endpoint_that_drips_is_given_up(serve: Serve, peer: Domain) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    url = await serve(drip, peer.identity("issuer"))
    with pytest.raises(Retryable, match="TimeoutError"):
        await fetch(
            Endpoint(url=url, spiffe_id=ISSUER), known={PEER: peer.bundle.roots}, trust_domain=PEER, seconds=0.5
        )


async def test_a_peer_that_is_no_longer_named_is_forgotten_also_by_the_store(peer: Domain, tmp_path: Path) -> None:
    federation = await _federation(tmp_path)
    path = tmp_path / "federation.json"
    async with _running(federation):
        federation.configure(configured(peer.bundle))
        await _until(lambda: path.exists() and PEER in load(path.read_bytes()))
        federation.configure({})
        assert federation.bundles == {}
        await _until(lambda: load(path.read_bytes()) == {})


def test_another_first_bundle_begins_anew_and_an_unreadable_entry_changes_nothing(peer: Domain) -> None:
    known = settle({}, configured(peer.bundle))
    peer.rotate()
    fetched = {PEER: Known(digest=known[PEER].digest, bundle=peer.bundle)}
    broken = InvalidField(field="data[b.example]", value="", expected="a peer")
    assert settle(fetched, {PEER: broken}) == fetched
    assert settle({}, {PEER: broken}) == {}
    anew = Domain().bundle
    assert settle(fetched, configured(anew))[PEER].bundle == anew


def test_how_often_a_publisher_is_asked_is_bounded(peer: Domain) -> None:
    hinted = [dataclasses.replace(peer.bundle, refresh_hint=timedelta(seconds=each)) for each in (0, 60, 10**6)]
    assert [interval(each).total_seconds() for each in hinted] == [5, 60, 3600]
    assert interval(dataclasses.replace(peer.bundle, refresh_hint=None)).total_seconds() == 300


def test_peers_are_read_each_for_itself(peer: Domain) -> None:
    document = to_json(peer.bundle).decode()
    pem = to_pem(peer.bundle.roots)
    endpoint = {"bundleEndpointURL": "https://b:8443/bundle", "endpointSPIFFEID": "spiffe://b.example/issuer"}
    data = {
        "b.example": orjson.dumps({**endpoint, "trustDomainBundle": orjson.loads(document)}).decode(),
        "c.example": orjson.dumps({"trustDomainBundle": pem}).decode(),
        "d.example": "trustDomainBundle: [",
        "e.example": orjson.dumps({**endpoint, "trustDomainBundle": "no bundle"}).decode(),
        "f.example": orjson.dumps({"bundleEndpointURL": "https://x", "trustDomainBundle": document}).decode(),
        "g.example": orjson.dumps({**endpoint, "trustDomainBundles": document}).decode(),
        "a.example": orjson.dumps({**endpoint, "trustDomainBundle": document}).decode(),
        "Not A Domain": "x",
    }
    read = read_peers(data, own=HERE)
    assert read[PEER] == Peer(
        endpoint=Endpoint(url="https://b:8443/bundle", spiffe_id=SpiffeId.parse("spiffe://b.example/issuer")),
        first=peer.bundle,
    )
    for name, told in {
        "c.example": r"expected spiffe://c\.example",  # the PEM names b.example
        "d.example": "YAML",
        "e.example": "JSON",
        "f.example": "bundleEndpointURL and endpointSPIFFEID",
        "g.example": "required",
        "a.example": "another trust domain",
    }.items():
        error = read[TrustDomain(name)]
        assert isinstance(error, InvalidField)
        with pytest.raises(InvalidField, match=told):
            raise error
    assert len(read) == 7


def test_no_more_peers_than_the_store_can_hold(peer: Domain) -> None:
    data = {f"d{number:03}.example": "{}" for number in range(100)}
    assert len(read_peers(data, own=HERE)) == 24


@pytest.mark.parametrize("document", [b"", b"[]", b'{"b.example": {}}', b'{"b.example": {"digest": "", "bundle": 1}}'])
def test_a_damaged_store_is_an_error(document: bytes) -> None:
    with pytest.raises(InvalidField, match="federation"):
        load(document)
