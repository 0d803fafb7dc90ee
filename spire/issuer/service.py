"""The parts of the issuer put together: an authority, its own identity, HTTPS, devices, and what it publishes."""

from __future__ import annotations

import asyncio

import structlog

from crds.kube.client import Kube
from crds.kube.process import probes, until_stopped
from spire.domain.authorization import any_known
from spire.issuer import metrics
from spire.issuer.app import Front
from spire.issuer.appraisal_policy import Policies
from spire.issuer.attestation import Attestation
from spire.issuer.backend import backend_of
from spire.issuer.devices import Devices
from spire.issuer.firmware_catalog import FirmwareCatalog
from spire.issuer.own import OwnIdentity
from spire.issuer.publishing import Publisher
from spire.issuer.settings import IssuerSettings
from spire.issuer.workloads import Workloads
from spire.serving.guard import Guard
from spire.serving.server import serving
from spire.tls import server_context

log = structlog.get_logger(__name__)


async def serve_issuer(settings: IssuerSettings, kube: Kube, stop: asyncio.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        EdgeError: the issuer cannot begin: a damaged or foreign store, a port that is taken.
    """
    async with backend_of(settings, kube) as backend:
        authority = backend.authority
        own = await OwnIdentity.of(authority, ttl=settings.ttl)
        catalog = FirmwareCatalog(kube)
        policies = Policies(kube, namespace=settings.namespace, catalogs=(catalog,))
        devices = Devices(kube, policies)
        attestation = Attestation(authority=authority, policies=policies, devices=devices, ttl=settings.ttl)
        front = Front(
            authority=authority,
            workloads=Workloads(kube, authority=authority, namespace=settings.namespace, ttl=settings.ttl),
            routes=attestation.routes(),
        )
        publisher = Publisher(kube, authority=authority, namespace=settings.namespace, file=settings.bundle_file)
        guard = Guard(cuts=metrics.CONNECTIONS_CUT)
        context = server_context(own.source, authorize=any_known(), client_certificates="optional")
        async with (
            serving(front.app(guard), settings.address, tls=context, guard=guard, refused=metrics.HANDSHAKES_REFUSED),
            probes(host=settings.metrics_host, port=settings.metrics_port, ready=devices.synced.is_set),
        ):
            await until_stopped(
                stop,
                *(work() for work in backend.work),
                own.run(),
                catalog.run(),
                policies.run(),
                devices.run(),
                publisher.run(),
            )
