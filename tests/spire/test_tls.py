"""Mutual TLS: who gets through, on both sides, on both event loops and on blocking sockets."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from crds.errors import Terminal
from spire.domain.authorization import any_known, exactly, in_domain, under
from spire.domain.errors import Reason, Untrusted
from spire.identity import FixedIdentity, Identity, Svid
from spire.tls import client_context, peer_of, server_context, show
from tests.spire.pki import HOUR, Ca, bundles_of

A, B = Ca.of("a.test"), Ca.of("b.test")
LIMIT = 60


def source(authority: Ca, path: str, *knows: Ca) -> FixedIdentity:
    return FixedIdentity(authority.identity(path, knows=knows))


def holding(svid: Svid, *knows: Ca) -> FixedIdentity:
    return FixedIdentity(Identity(svid=svid, bundles=bundles_of(*knows)))


@asynccontextmanager
async def web_server(context: ssl.SSLContext, seen: list[str]) -> AsyncIterator[str]:
    """Answers with the peer's ID and remembers the paths that it was asked for."""

    async def who(request: web.Request) -> web.Response:
        seen.append(request.path)
        return web.Response(text=str(peer_of(request.transport)))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", who)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def ask(url: str, context: ssl.SSLContext) -> str:
    timeout = aiohttp.ClientTimeout(total=LIMIT)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, ssl=context) as response:
        return await response.text()


async def exchange(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str | Exception, list[str]]:
    """What the client got, and what the server's application saw."""
    seen: list[str] = []
    async with web_server(server, seen) as url:
        try:
            return await ask(f"{url}/x", client), seen
        except (aiohttp.ClientError, OSError) as error:
            return error, seen


async def test_both_sides_know_each_other_across_trust_domains() -> None:
    server = server_context(source(A, "/manager/rear-gateway", B), authorize=in_domain(B.trust_domain, path="/manager"))
    client = client_context(source(B, "/manager/buyer", A), authorize=under("/manager/rear-gateway"))
    assert await exchange(server, client) == ("spiffe://b.test/manager/buyer", ["/x"])


async def test_a_server_shows_a_refused_client_nothing_and_its_application_sees_nothing() -> None:
    server = server_context(source(A, "/s", B), authorize=exactly(A.trust_domain.spiffe_id("c")))
    answer, seen = await exchange(server, client_context(source(B, "/c", A), authorize=any_known()))
    assert isinstance(answer, Exception)
    assert seen == []


async def test_a_client_sends_nothing_to_a_server_that_it_does_not_expect() -> None:
    server = server_context(source(B, "/s", A), authorize=any_known())
    answer, seen = await exchange(
        server, client_context(source(A, "/c", B), authorize=exactly(A.trust_domain.spiffe_id("s")))
    )
    assert isinstance(answer, aiohttp.ClientConnectorCertificateError)
    refusal = answer.certificate_error.__cause__
    assert isinstance(refusal, Untrusted)
    assert refusal.reason == Reason.PEER_REFUSED
    assert "spiffe://b.test/s" in str(answer)
    assert seen == []


async def test_a_root_of_another_domain_that_signs_our_id_passes_a_pooled_context_and_not_ours() -> None:
    forged = holding(B.svid("/manager/rear-gateway", trust_domain=A.trust_domain), A, B)
    pooled = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    pooled.check_hostname = False
    pooled.load_verify_locations(cadata=A.root + B.root)
    ours = client_context(source(A, "/c", B), authorize=any_known())
    accepting = server_context(forged, authorize=any_known(), client_certificates="optional")
    assert await exchange(accepting, pooled) == ("None", ["/x"])
    answer, seen = await exchange(accepting, ours)
    assert isinstance(answer, aiohttp.ClientConnectorCertificateError)
    assert Reason.CHAIN_BROKEN in str(answer)
    assert seen == []
    guarded = server_context(source(A, "/s", B), authorize=any_known())
    answer, seen = await exchange(guarded, client_context(forged, authorize=any_known()))
    assert isinstance(answer, Exception)
    assert seen == []


async def test_clients_without_a_certificate_are_let_in_only_where_it_is_optional() -> None:
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname = False
    anonymous.load_verify_locations(cadata=A.root)
    optional = server_context(source(A, "/issuer"), authorize=any_known(), client_certificates="optional")
    assert await exchange(optional, anonymous) == ("None", ["/x"])
    known = client_context(source(A, "/c"), authorize=any_known())
    assert await exchange(optional, known) == ("spiffe://a.test/c", ["/x"])
    answer, seen = await exchange(server_context(source(A, "/s"), authorize=any_known()), anonymous)
    assert isinstance(answer, Exception)
    assert seen == []


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    "wrong",
    [
        A.svid(not_before=NOW - 2 * HOUR, not_after=NOW - timedelta(seconds=2)),
        A.svid(not_before=NOW + HOUR, not_after=NOW + 2 * HOUR),
        A.svid(uris=[], names=["localhost"]),
        A.svid(uris=["spiffe://a.test/x", "spiffe://a.test/y"]),
        A.svid(ca=True),
        Ca.of("a.test").svid(),
        Ca.of("c.test").svid(),
    ],
    ids=["expired", "not yet valid", "no URI", "two URIs", "CA:TRUE", "namesake domain", "unknown domain"],
)
async def test_wrong_certificates_are_refused_on_both_sides(wrong: Svid) -> None:
    for server, client in (
        (holding(wrong, A), source(A, "/c", B)),
        (source(A, "/s", B), holding(wrong, A)),
    ):
        answer, seen = await exchange(
            server_context(server, authorize=any_known()), client_context(client, authorize=any_known())
        )
        assert isinstance(answer, Exception)
        assert seen == []


async def test_intermediates_and_rsa_keys_are_spoken_to() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    server = server_context(holding(A.svid("/s", key=key), A), authorize=any_known())
    below = A.intermediate().svid("/c")
    assert await exchange(server, client_context(holding(below, A), authorize=any_known())) == (
        "spiffe://a.test/c",
        ["/x"],
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_that_is_resumed_is_judged_anew(version: ssl.TLSVersion) -> None:
    servers = source(A, "/s", B)
    server = server_context(servers, authorize=any_known())
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(cadata=A.root)
    client.maximum_version = version
    show(client, B.svid("/c"))
    first, _kept = handshake(server, client)  # OpenSSL forgets sessions of connections that end without a word
    again, _ = handshake(server, client, session=first.session)
    assert again.session_reused is (version is ssl.TLSVersion.TLSv1_2)
    servers.replace(replace(servers.current, bundles=bundles_of(A)))
    with pytest.raises(ssl.SSLCertVerificationError, match=Reason.TRUST_DOMAIN_UNKNOWN):
        handshake(server, client, session=first.session)


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Over memory; returns the client's side and the server's."""
    upstream, downstream = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(upstream, downstream, server_side=True)
    asking = client.wrap_bio(downstream, upstream, server_hostname="server", session=session)
    waiting = [asking, serving]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)
    return asking, serving


async def test_rotation_under_load_drops_nothing() -> None:
    servers, clients = source(A, "/s", B), source(B, "/c", A)
    server = server_context(servers, authorize=any_known())
    client = client_context(clients, authorize=any_known())
    seen: list[str] = []
    answers: list[str] = []
    progress = asyncio.Condition()

    async def reached(count: int) -> None:
        async with progress:
            await progress.wait_for(lambda: len(answers) >= count)

    # Half of the requests come over kept connections, half make their own handshake.
    timeout = aiohttp.ClientTimeout(total=LIMIT)
    async with (
        web_server(server, seen) as url,
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=4)) as kept,
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True, limit=4)) as fresh,
    ):

        async def load(session: aiohttp.ClientSession, count: int) -> None:
            for _ in range(count):
                async with session.get(url, ssl=client) as response:
                    answers.append(await response.text())
                async with progress:
                    progress.notify_all()

        authorities = [(Ca(A.trust_domain), Ca(B.trust_domain)) for _ in range(5)]
        old = (A, B)
        async with asyncio.TaskGroup() as group:
            for session in (kept, fresh):
                for _ in range(4):
                    group.create_task(load(session, 125))
            for number, (a, b) in enumerate(authorities, start=1):
                await reached(number * 150)
                # First everybody learns the new roots, then the SVIDs are signed by them.
                for each in (servers, clients):
                    each.replace(replace(each.current, bundles=bundles_of(*old, a, b)))
                servers.replace(replace(servers.current, svid=a.svid("/s")))
                clients.replace(replace(clients.current, svid=b.svid("/c")))
                old = (a, b)
    assert answers == ["spiffe://b.test/c"] * 1000


async def test_a_root_that_was_dropped_counts_no_more_although_openssl_keeps_it() -> None:
    own = source(A, "/s", B)
    server = server_context(own, authorize=any_known())
    client = client_context(source(B, "/c", A), authorize=any_known())
    assert (await exchange(server, client))[1] == ["/x"]
    own.replace(replace(own.current, bundles=bundles_of(A)))
    answer, seen = await exchange(server, client)
    assert isinstance(answer, Exception)
    assert seen == []


def test_a_key_of_another_certificate_is_told_at_once_and_later_leaves_the_old_one() -> None:
    mixed = replace(A.svid("/s"), key=A.svid("/s").key)
    with pytest.raises(Terminal, match="of no use to TLS"):
        server_context(holding(mixed, A), authorize=any_known())
    own = source(A, "/s")
    context = server_context(own, authorize=any_known())
    own.replace(Identity(svid=mixed, bundles=bundles_of(A)))
    assert isinstance(context, ssl.SSLContext)


def test_a_context_that_nobody_uses_is_forgotten_by_its_source() -> None:
    own = source(A, "/s")
    context = weakref.ref(server_context(own, authorize=any_known()))
    gc.collect()
    assert context() is None
    assert own._observers._callbacks == []


def test_keys_leave_no_descriptor_behind() -> None:
    own = source(A, "/s")
    context = server_context(own, authorize=any_known())
    with closing(socket.socket()) as probe:
        before = probe.fileno()
    for _ in range(20):
        own.replace(A.identity("/s"))
    with closing(socket.socket()) as probe:
        assert probe.fileno() == before
    assert context.cert_store_stats()["x509_ca"] == 1


def on_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On uvloop, in a thread, as the tests' own loop is another one."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_uvloop_sees_peers_and_refusals_as_asyncio_does() -> None:
    on_loop(test_both_sides_know_each_other_across_trust_domains)
    on_loop(test_a_server_shows_a_refused_client_nothing_and_its_application_sees_nothing)
    on_loop(test_a_client_sends_nothing_to_a_server_that_it_does_not_expect)
    on_loop(test_rotation_under_load_drops_nothing)


async def test_blocking_sockets_are_held_to_the_same() -> None:
    server = server_context(source(B, "/s", A), authorize=any_known())
    seen: list[str] = []
    async with web_server(server, seen) as url:
        port = int(url.rpartition(":")[2])

        def connect(context: ssl.SSLContext, *, handshake: bool) -> bytes:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as raw,
                context.wrap_socket(raw, do_handshake_on_connect=handshake) as secured,
            ):
                secured.sendall(b"GET /blocking HTTP/1.0\r\n\r\n")
                return secured.recv(4096)

        right = client_context(source(A, "/c", B), authorize=in_domain(B.trust_domain, path="/s"))
        wrong = client_context(source(A, "/c", B), authorize=in_domain(A.trust_domain, path="/s"))
        for handshake in (True, False):
            assert b"200 OK" in await asyncio.to_thread(connect, right, handshake=handshake)
            with pytest.raises(ssl.SSLCertVerificationError, match=Reason.PEER_REFUSED):
                await asyncio.to_thread(connect, wrong, handshake=handshake)
    assert seen == ["/blocking", "/blocking"]
