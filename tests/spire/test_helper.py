"""The helper against an issuer that may do anything: what workloads get, keep and lose."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509

from crds.errors import InvalidField, Retryable
from spire.domain.svid import renewal_seconds
from spire.helper import files
from spire.helper.held import Granted, Held, Refused, Waiting
from spire.helper.keeper import without_answer
from spire.helper.settings import Workload
from spire.identity import certificates_pem
from tests.spire.helping import LIMIT, NOW, Answer, FakeIssuer, Site, parsed
from tests.spire.pki import Ca, bundles_of
from tests.spire.test_workload import becomes


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    issuer = FakeIssuer()
    await issuer.start()
    yield Site(tmp_path, issuer, monkeypatch)
    await issuer.stop()


async def test_a_token_becomes_an_identity(site: Site) -> None:
    async with site.helper(), site.workload() as source:
        assert str(source.current.svid.spiffe_id) == "spiffe://a.test/relay/edge-1"
        assert source.current.bundles == site.issuer.bundles


async def test_identities_are_renewed_at_half_life_with_new_keys(site: Site) -> None:
    site.issuer.lifetime = timedelta(seconds=2)
    async with site.helper(), site.workload() as source:
        first = source.current.svid
        await becomes(source, lambda identity: identity.svid != first)
        assert source.current.svid.key != first.key
        assert datetime.now(UTC) < first.expires


async def test_new_bundles_come_without_a_new_svid(site: Site) -> None:
    other = Ca.of("b.test")
    async with site.helper(), site.workload() as source:
        svid = source.current.svid
        await site.issuer.say(site.issuer.ca, other)
        await becomes(source, lambda identity: other.trust_domain in identity.bundles)
        assert source.current.svid == svid


async def test_an_svid_of_a_root_that_was_withdrawn_is_renewed_at_once(site: Site) -> None:
    async with site.helper(), site.workload() as source:
        first = source.current.svid
        site.issuer.renew_ca()
        site.roots.write_text(certificates_pem([site.issuer.ca.root]))
        await site.issuer.say(site.issuer.ca)
        await becomes(source, lambda identity: identity.svid != first)
        assert source.current.bundles == bundles_of(site.issuer.ca)


async def test_what_is_valid_is_served_while_the_issuer_is_away_and_renewed_when_it_is_back(site: Site) -> None:
    async with site.helper(), site.workload() as source:
        first = source.current
        await site.issuer.stop()
        async with site.workload() as second:
            assert second.current == first
        await site.issuer.restart()
        await site.issuer.say(site.issuer.ca, Ca.of("b.test"))
        await becomes(source, lambda identity: len(identity.bundles) == 2)


async def test_what_has_ended_is_not_served(site: Site) -> None:
    site.issuer.lifetime = timedelta(seconds=2)
    async with site.helper():
        async with site.workload() as source:
            site.issuer.instead = failing(status=503)
            ends = source.current.svid.expires
        await asyncio.sleep(max((ends - datetime.now(UTC)).total_seconds(), 0))
        await site.issuer.traded(site.issuer.trades + 2)  # so that the first answer from here on was heard
        await site.refuses("no answer")
        site.issuer.instead = None
        async with site.workload():
            pass


async def test_who_is_not_entitled_is_told_and_served_once_he_is(site: Site) -> None:
    accounts, site.issuer.accounts = site.issuer.accounts, {}
    async with site.helper():
        await site.refuses("PERMISSION_DENIED")
        site.issuer.accounts = accounts
        async with site.workload():
            pass


async def test_a_token_is_read_again_for_each_trade(site: Site) -> None:
    site.token.unlink()
    async with site.helper():
        await asyncio.sleep(0.2)
        site.token.write_text("token-relay")
        async with site.workload() as source:
            assert str(source.current.svid.spiffe_id) == "spiffe://a.test/relay/edge-1"


@pytest.mark.parametrize("path", ["/manager/rear-gateway", "/issuer/x"])
async def test_no_token_goes_to_who_is_not_the_issuer(site: Site, path: str) -> None:
    ca, other = site.issuer.ca, Ca.of("b.test")
    for shown in (ca.svid(path), other.svid("/issuer"), other.svid("/issuer", trust_domain=ca.trust_domain)):
        impostor = FakeIssuer(ca=ca, shown=shown)
        await impostor.start()
        async with site.client(impostor) as client:
            with pytest.raises(Retryable, match="is not the issuer"):
                await client.trade(site.token)
        assert impostor.trades == 0
        await impostor.stop()


async def test_the_bundle_file_is_read_again_when_the_issuer_is_not_believed(site: Site) -> None:
    right = site.roots.read_text()
    site.roots.write_text(certificates_pem([Ca.of("a.test").root]))
    async with site.client(site.issuer) as client:
        with pytest.raises(Retryable, match="is not the issuer"):
            await client.trade(site.token)
        site.roots.write_text(right)
        assert (await client.trade(site.token)).bundles == site.issuer.bundles


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file"), ("", "Unable to load PEM"), ("x", "Unable to load PEM"), ("two", "one spiffe://")],
)
async def test_a_bundle_file_of_no_use_is_told(site: Site, content: str | None, problem: str) -> None:
    site.roots.unlink()
    if content is not None:
        two = certificates_pem([Ca.of("a.test").root, Ca.of("b.test").root])
        site.roots.write_text(two if content == "two" else content)
    async with site.client(site.issuer) as client:
        with pytest.raises(Retryable, match=problem) as caught:
            await client.trade(site.token)
    assert str(site.roots) in str(caught.value)


def failing(*, status: int = 200, body: bytes = b"", after: str = "0") -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Retry-After": after})

    return answer


def changed(issuer: FakeIssuer, **changes: object) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        body = issuer.body(await request.read(), "/relay/edge-1")
        return web.json_response({**body, **changes})

    return answer


@pytest.mark.parametrize(
    "instead",
    [
        lambda _: failing(status=503),
        lambda _: failing(status=302),
        lambda _: failing(body=b"{"),
        lambda _: failing(body=b"[]"),
        lambda _: failing(body=b"[" * 100_000),
        lambda _: failing(body=b" " * 3_000_000),
        lambda issuer: changed(issuer, spiffeID="spiffe://a.test/issuer"),
        lambda issuer: changed(issuer, chain=[]),
        lambda issuer: changed(issuer, chain=["!"]),
        lambda issuer: changed(issuer, chain=[b64encode(issuer.ca.svid("/relay/edge-1").chain[0]).decode()]),
        lambda issuer: changed(issuer, bundles={}),
        lambda issuer: changed(issuer, bundles={"A B": []}),
        lambda issuer: changed(issuer, bundles={"a.test": [b64encode(Ca.of("a.test").root).decode()]}),
    ],
)
async def test_an_answer_of_no_use_is_not_served_and_the_next_good_one_is(
    site: Site, instead: Callable[[FakeIssuer], Answer]
) -> None:
    site.issuer.instead = instead(site.issuer)
    async with site.helper():
        await site.issuer.traded(2)
        site.issuer.instead = None
        async with site.workload() as source:
            assert str(source.current.svid.spiffe_id) == "spiffe://a.test/relay/edge-1"
            assert source.current.bundles == site.issuer.bundles


async def test_programs_that_read_files_get_files_for_their_own_eyes(site: Site) -> None:
    other = Ca.of("b.test")
    await site.issuer.say(site.issuer.ca, other)
    async with site.helper(), site.workload() as source:
        async with asyncio.timeout(LIMIT):
            while not (site.files / "svid.pem").exists():  # noqa: ASYNC110 - as such a program would
                await asyncio.sleep(0.01)
        svid = source.current.svid
        read = {path.name: path.read_text() for path in site.files.iterdir()}
        assert set(read) == {"svid.pem", "key.pem", "bundle.pem", "own.pem"}
        assert read["svid.pem"] == svid.chain_pem
        assert read["key.pem"] == svid.key_pem
        assert read["own.pem"] == certificates_pem([site.issuer.ca.root])
        roots = x509.load_pem_x509_certificates(read["bundle.pem"].encode())
        assert roots == [site.issuer.ca.certificate, other.certificate]
        assert "any of them can sign any SPIFFE ID" in read["bundle.pem"]
        for path in (site.files, *site.files.iterdir()):
            assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0


async def test_a_program_is_told_of_each_renewal(site: Site) -> None:
    hung_up = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    pid_file = site.folder / "pid"
    pid_file.write_text(f"{os.getpid()}\n")
    try:
        async with site.helper(workload=f",signal-pid-file={pid_file}"), asyncio.timeout(LIMIT):
            await hung_up.wait()
            before = (site.files / "svid.pem").read_text()
            hung_up.clear()
            site.issuer.renew_ca()
            site.roots.write_text(certificates_pem([site.issuer.ca.root]))
            await site.issuer.say(site.issuer.ca)
            while (site.files / "svid.pem").read_text() == before:
                await hung_up.wait()
                hung_up.clear()
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


@pytest.mark.parametrize("content", ["", "x", "1", "-1", "0", "99999999"])
def test_a_pid_file_of_no_use_harms_nobody(tmp_path: Path, content: str) -> None:
    pid_file = tmp_path / "pid"
    files.tell(pid_file)
    pid_file.write_text(content)
    files.tell(pid_file)


async def text_of(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url, timeout=aiohttp.ClientTimeout(total=LIMIT)) as response:
        return await response.text()


async def test_the_process_serves_says_that_it_is_ready_and_stops_on_sigterm(site: Site) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "spire.helper", *site.flags(), stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(LIMIT):
            log = await process.stderr.readuntil(b'"probes"')
            log += await process.stderr.readline()
        async with site.workload() as source:
            assert str(source.current.svid.spiffe_id) == "spiffe://a.test/relay/edge-1"
        url = json.loads(log.splitlines()[-1])["url"]
        async with aiohttp.ClientSession() as session:
            assert await text_of(session, f"{url}/readyz") == "ready\n"
            metrics = await text_of(session, f"{url}/metrics")
        assert 'fluidos_edge_helper_trades_total{outcome="granted",workload="relay"} 1.0' in metrics
        process.send_signal(signal.SIGTERM)
        log += (await asyncio.wait_for(process.communicate(), LIMIT))[1]
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"probes", "identity"} <= {line["event"] for line in lines}
    assert "PRIVATE KEY" not in log.decode()
    assert "token-relay" not in log.decode()


def test_workloads_are_read_from_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parsed(
        monkeypatch,
        "--issuer=https://127.0.0.1:1",
        "--bundle-file=/b",
        "--workload=name=a,token-file=/t,socket=/s",
        "--workload=name=b,token-file=/u,files=/d,signal-pid-file=/p",
    )
    assert settings.workloads == (
        Workload(name="a", token_file=Path("/t"), socket=Path("/s")),
        Workload(name="b", token_file=Path("/u"), files=Path("/d"), signal_pid_file=Path("/p")),
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["name=a,token-file=/t"], "socket=S or files=DIR"),
        (["name=a,socket=/s"], "token-file=T"),
        (["token-file=/t,socket=/s"], "name=NAME"),
        (["name=a,token-file=/t,socket=/s,colour=red"], "colour=red"),
        (["name=a,token-file=/t,token-file=/u,socket=/s"], "token-file once"),
        (["name=a,token-file=/t,socket=/s,signal-pid-file=/p"], "files=DIR beside it"),
        (["name=a,token-file=/t,socket=s"], "absolute path"),
        (["name=a,token-file=/t,socket=/" + "s" * 107], "at most 107"),
        (["name=a,token-file=/t,socket=/s", "name=a,token-file=/t,socket=/r"], "name=a"),
        (["name=a,token-file=/t,socket=/s", "name=b,token-file=/t,socket=/s"], "socket=/s"),
    ],
)
def test_a_workload_that_makes_no_sense_is_told(monkeypatch: pytest.MonkeyPatch, flags: list[str], told: str) -> None:
    workloads = [f"--workload={flag}" for flag in flags]
    settings = parsed(monkeypatch, "--issuer=https://127.0.0.1:1", "--bundle-file=/b", *workloads)
    with pytest.raises(InvalidField, match="--workload") as caught:
        _ = settings.workloads
    assert told in str(caught.value)


def test_an_issuer_without_tls_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "--issuer=http://x:1", "--bundle-file=/b", "--workload=name=a,token-file=/t,socket=/s")
    assert "--issuer" in capsys.readouterr().err


def test_renewal_comes_around_half_life() -> None:
    ends = NOW + timedelta(hours=1)
    assert renewal_seconds(ends, now=NOW, jitter=0) == pytest.approx(0.45 * 3600)
    assert renewal_seconds(ends, now=NOW, jitter=1) == pytest.approx(0.55 * 3600)


def test_a_valid_identity_outlives_every_answer_and_no_other_does() -> None:
    identity = Ca.of("a.test").identity()
    held: Held = Granted(identity)
    ends = identity.svid.expires
    for refused in (True, False):
        assert without_answer(held, refused=refused, problem="x", now=ends - timedelta(seconds=1)) == held
    assert without_answer(held, refused=True, problem="x", now=ends) == Refused("x")
    assert without_answer(held, refused=False, problem="x", now=ends) == Waiting("x")
    assert without_answer(Refused("x"), refused=False, problem="y", now=NOW) == Waiting("y")
