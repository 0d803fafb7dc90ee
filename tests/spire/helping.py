"""A helper's site for tests: an issuer that may do anything, one workload, and flags."""

from __future__ import annotations

import asyncio
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509

from crds.kube.process import settings_of
from spire.domain.authorization import any_known
from spire.domain.spiffe_id import TrustDomain
from spire.helper.__main__ import run
from spire.helper.issuer import Issuer, Roots
from spire.helper.settings import HelperSettings
from spire.identity import FixedIdentity, Identity, IdentitySource, Svid, certificates_pem
from spire.tls import server_context
from spire.workload import IdentitySettings, identity_of
from tests.spire.pki import Ca, bundles_of
from tests.spire.test_workload import told

LIMIT = 60
NOW = datetime.now(UTC)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeIssuer:
    """Keeps accounts and bundles as the real one does, and can answer something else instead."""

    ca: Ca = field(default_factory=lambda: Ca.of("a.test"))
    shown: Svid | None = None
    lifetime: timedelta = timedelta(hours=1)
    accounts: dict[str, str] = field(default_factory=lambda: {"token-relay": "/relay/edge-1"})
    instead: Answer | None = None
    trades: int = 0
    version: int = 1
    url: str = ""

    def __post_init__(self) -> None:
        self.bundles: dict[TrustDomain, tuple[bytes, ...]] = bundles_of(self.ca)
        self._news = asyncio.Condition()
        self._traded = asyncio.Condition()
        self._source = FixedIdentity(Identity(svid=self.shown or self.ca.svid("/issuer"), bundles=self.bundles))
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.add_routes([web.post("/v1/workloads", self._workloads), web.get("/v1/bundles", self._bundles)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        context = server_context(self._source, authorize=any_known(), client_certificates="optional")
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=context).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def restart(self) -> None:
        await self.stop()
        await self.start(int(self.url.rpartition(":")[2]))

    async def say(self, *authorities: Ca) -> None:
        """Change the bundles."""
        async with self._news:
            self.bundles = bundles_of(*authorities)
            self.version += 1
            self._news.notify_all()

    def renew_ca(self) -> None:
        """A new CA of the same domain, by which the issuer shows itself from now on."""
        self.ca = Ca(self.ca.trust_domain)
        self._source.replace(Identity(svid=self.ca.svid("/issuer"), bundles=bundles_of(self.ca)))

    async def traded(self, count: int) -> None:
        """Wait until so many requests for SVIDs came."""
        async with asyncio.timeout(LIMIT), self._traded:
            await self._traded.wait_for(lambda: self.trades >= count)

    def body(self, csr: bytes, path: str) -> dict[str, object]:
        key = x509.load_der_x509_csr(csr).public_key()
        svid = self.ca.svid(path, public_key=key, not_after=datetime.now(UTC) + self.lifetime)
        return {
            "spiffeID": str(svid.spiffe_id),
            "chain": [b64encode(each).decode() for each in svid.chain],
            "expiresAt": svid.expires.isoformat(),
            **self._said(),
        }

    def _said(self) -> dict[str, object]:
        bundles = {str(domain): [b64encode(root).decode() for root in roots] for domain, roots in self.bundles.items()}
        return {"bundles": bundles, "bundlesVersion": self.version}

    async def _workloads(self, request: web.Request) -> web.StreamResponse:
        async with self._traded:
            self.trades += 1
            self._traded.notify_all()
        if self.instead is not None:
            return await self.instead(request)
        path = self.accounts.get(request.headers["Authorization"].removeprefix("Bearer "))
        if path is None:
            return web.json_response({"message": "the account is not entitled"}, status=403)
        return web.json_response(self.body(await request.read(), path))

    async def _bundles(self, request: web.Request) -> web.StreamResponse:
        async with self._news:
            try:
                async with asyncio.timeout(30):
                    await self._news.wait_for(lambda: request.query.get("after") != str(self.version))
            except TimeoutError:
                pass
            return web.json_response(self._said())


@dataclass
class Site:
    """One workload, its helper's flags and the issuer."""

    folder: Path
    issuer: FakeIssuer
    patch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        self.socket = self.folder / "own" / "workload.sock"
        self.files = self.folder / "files"
        self.token = self.folder / "token"
        self.token.write_text("token-relay\n")
        self.roots = self.folder / "bundle.pem"
        self.roots.write_text(certificates_pem([self.issuer.ca.root]))

    def flags(self, *more: str, workload: str = "") -> list[str]:
        workload = f"name=relay,token-file={self.token},socket={self.socket},files={self.files}{workload}"
        return [f"--issuer={self.issuer.url}", f"--bundle-file={self.roots}", f"--workload={workload}", *more]

    @asynccontextmanager
    async def helper(self, *more: str, workload: str = "") -> AsyncIterator[None]:
        """A running helper."""
        stop = asyncio.Event()
        running = asyncio.create_task(run(stop, parsed(self.patch, *self.flags(*more, workload=workload))))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(LIMIT):
                await running

    @asynccontextmanager
    async def client(self, issuer: FakeIssuer) -> AsyncIterator[Issuer]:
        """What the helper asks an issuer with."""
        async with aiohttp.ClientSession() as session:
            yield Issuer(issuer.url, roots=Roots(self.roots, None), session=session, timeout=LIMIT)

    def flags_of_workload(self, seconds: float = LIMIT) -> IdentitySettings:
        self.patch.setattr(sys, "argv", ["x", f"--identity-socket={self.socket}", f"--identity-wait-seconds={seconds}"])
        return settings_of(IdentitySettings)

    async def refuses(self, problem: str) -> None:
        """Wait until the workload gets no identity because of this."""
        await told(self.flags_of_workload(0.5), problem)

    @asynccontextmanager
    async def workload(self) -> AsyncIterator[IdentitySource]:
        """What the workload sees."""
        async with identity_of(self.flags_of_workload()) as source:
            assert source is not None
            yield source


def parsed(patch: pytest.MonkeyPatch, *flags: str) -> HelperSettings:
    patch.setattr(sys, "argv", ["helper", *flags])
    return settings_of(HelperSettings)
