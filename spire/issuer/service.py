"""The parts of the issuer put together: an authority, its own identity, HTTPS, devices, and what it publishes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import web

from crds.errors import Terminal
from crds.kube.client import Kube
from crds.kube.process import probes, until_stopped
from spire.domain.authorization import any_known
from spire.issuer.app import Front
from spire.issuer.appraisal_policy import Policies
from spire.issuer.attestation import Attestation
from spire.issuer.backend import backend_of
from spire.issuer.devices import Devices
from spire.issuer.guard import Guard
from spire.issuer.own import OwnIdentity
from spire.issuer.publishing import Publisher
from spire.issuer.settings import IssuerSettings
from spire.issuer.workloads import Workloads
from spire.tls import server_context

log = structlog.get_logger(__name__)

HANDSHAKE_SECONDS: Final = 10.0


async def serve_issuer(settings: IssuerSettings, kube: Kube, stop: asyncio.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        EdgeError: the issuer cannot begin: a damaged or foreign store, a port that is taken.
    """
    async with backend_of(settings, kube) as backend:
        authority = backend.authority
        own = await OwnIdentity.of(authority, ttl=settings.ttl)
        policies = Policies(kube, namespace=settings.namespace)
        devices = Devices(kube, policies)
        attestation = Attestation(authority=authority, policies=policies, devices=devices, ttl=settings.ttl)
        front = Front(
            authority=authority,
            workloads=Workloads(kube, authority=authority, namespace=settings.namespace, ttl=settings.ttl),
            routes=attestation.routes(),
        )
        publisher = Publisher(kube, authority=authority, namespace=settings.namespace, file=settings.bundle_file)
        guard = Guard()
        context = server_context(own.source, authorize=any_known(), client_certificates="optional")
        async with (
            _served(front.app(guard), settings=settings, context=context) as server,
            probes(host=settings.metrics_host, port=settings.metrics_port, ready=devices.synced.is_set),
        ):
            await until_stopped(
                stop,
                *(work() for work in backend.work),
                own.run(),
                policies.run(),
                devices.run(),
                publisher.run(),
                guard.watch(server),
            )


@asynccontextmanager
async def _served(
    app: web.Application, *, settings: IssuerSettings, context: ssl.SSLContext
) -> AsyncIterator[web.Server]:
    """Listen. aiohttp's sites have no limit for handshakes, so this is the loop's own server."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    host, port = settings.address
    try:
        assert runner.server is not None  # noqa: S101 - set up just now
        try:
            listening = await asyncio.get_running_loop().create_server(
                runner.server, host, port, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS, backlog=1024
            )
        except OSError as error:
            raise Terminal(f"--listen {settings.listen}: {error.strerror}", reason="ListenFailed") from error
        try:
            bound = listening.sockets[0].getsockname()[1]
            log.info("serving", url=f"https://{host}:{bound}", trust_domain=settings.trust_domain)
            yield runner.server
        finally:
            listening.close()
    finally:
        await runner.cleanup()
