"""A device proves itself, is published, sold over mutual TLS and bound; it fails to, and all of that ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic_settings import CliApp

from crds.kube.client import Kube
from crds.models.sensorclaim import SensorClaim
from edge_resource_manager.gateway.service import Gateway
from edge_resource_manager.gateway.settings import GatewaySettings
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import free_port
from spire.identity import FixedIdentity
from tests.edge_resource_manager.claims.conftest import Site, bindings, condition, eventually, is_ready
from tests.edge_resource_manager.discovery.conftest import Clock
from tests.edge_resource_manager.discovery.conftest import Site as Devices
from tests.edge_resource_manager.discovery.samples import device
from tests.edge_resource_manager.discovery.test_trust import UEID, Appraiser, proves, vouch
from tests.edge_resource_manager.gateway import samples
from tests.spire.pki import Ca

PROVIDER, CONSUMER = Ca.of("provider"), Ca.of("consumer")
SELLER = FixedIdentity(PROVIDER.identity("/manager/rear-gateway", knows=[CONSUMER]))
BUYER = FixedIdentity(CONSUMER.identity("/manager/edge-resource-manager", knows=[PROVIDER]))
ENDPOINTS = [{"name": "there", "url": "https://192.0.2.8/"}]


@pytest.fixture
async def gateway(cluster: Cluster, site: Site) -> AsyncIterator[Gateway]:
    """One that everybody proves himself to, and that the site knows."""
    cluster.apply([samples.IDENTITY])
    account = cluster.service_account_kubeconfig("fluidos", "rear-gateway")
    address = f"127.0.0.1:{free_port()}"
    flags = ["--kubeconfig", str(account), "--listen", address, "--egress-allow", "192.0.2.0/24"]
    settings, stop = CliApp.run(GatewaySettings, cli_args=flags), asyncio.Event()
    async with await Kube.connect(kubeconfig=account) as kube:
        started = Gateway(kube, settings, identity=SELLER)
        task = asyncio.create_task(started.run(stop))
        await eventually(started.is_ready)
        site.know("provider-1", address)
        yield started
        stop.set()
        await asyncio.wait_for(task, 10)


@asynccontextmanager
async def market(site: Site) -> AsyncIterator[tuple[Devices, Appraiser]]:
    """Discovery, and somebody to judge what it discovers."""
    devices = Devices(cluster=site.cluster, kube=site.kube, namespace=site.namespace, clock=Clock())
    issuer = site.cluster.service_account_kubeconfig("fluidos", "identity-issuer")
    async with (
        await Kube.connect(kubeconfig=issuer) as kube,
        devices.discovery(insecure=False, clock=lambda: datetime.now(UTC)),
    ):
        yield devices, Appraiser(kube, devices, manager="identity-issuer")


def claims(site: Site, *, tier: str | None = None) -> None:
    wish: dict[str, Any] = {
        "sensor": {"model": "hts221"},
        "selector": f'device.attributes["sensor.fluidos.eu"].node.endsWith("{site.namespace}")',
        "endpoints": ENDPOINTS,
    }
    site.claim(**wish, **({"minimumTier": tier} if tier else {}))


async def test_what_proves_itself_is_bound_and_what_no_longer_does_is_not(site: Site, gateway: Gateway) -> None:
    async with market(site) as (devices, issuer), site.reconciler(svid=BUYER):
        claims(site, tier="Attested")
        proves(devices)
        await issuer.attest()
        claim = await site.until(is_ready)
        (binding,) = bindings(claim).values()
        assert (binding.tier, binding.seller) == ("Attested", "spiffe://provider/manager/rear-gateway")
        assert binding.spiffe_id == f"spiffe://provider/device/{UEID}/app/thermometer"
        assert condition(claim, "Insecure") == ("", "", "")

        await issuer.refuse()
        start = time.monotonic()
        claim = await site.until(lambda claim: condition(claim, "Bound")[0] == "False")
        print(f"\ntrust withdrawn to told in the claim: {1000 * (time.monotonic() - start):.0f} ms")
        assert "device is not trusted (MeasurementUnknown)" in condition(claim, "Bound")[2]
        assert bindings(claim) == {}

        await issuer.attest()
        await site.until(is_ready)


async def test_a_claim_moves_to_a_device_that_is_still_trusted(site: Site, gateway: Gateway) -> None:
    other = "01" + "cd" * 16
    async with market(site) as (devices, issuer), site.reconciler(svid=BUYER):
        node = devices.node()
        proves(devices, "first", node=node)
        await issuer.attest("first")
        claims(site)
        (before,) = bindings(await site.until(is_ready)).values()
        proves(devices, "second", ueid=other, node=node)
        await issuer.attest("second", ueid=other)
        await devices.until(lambda _, flavors: len(flavors) == 4)
        await issuer.refuse("first")
        claim = await site.until(lambda claim: is_ready(claim) and before.flavor not in bindings(claim))
    (after,) = bindings(claim).values()
    assert after.spiffe_id == f"spiffe://provider/device/{other}/app/thermometer"


async def test_a_gateways_word_is_not_enough_for_a_claim_that_asks_for_more(site: Site, gateway: Gateway) -> None:
    async with market(site) as (devices, _), site.reconciler(svid=BUYER):
        node = devices.node()
        devices.apply(device("board", namespace=site.namespace, node=node))
        await vouch(devices, node=node)
        claims(site, tier="Attested")
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "NoMatch")
        assert "trust GatewayVouched, asked at least Attested" in condition(claim, "Bound")[2]
        claims(site)
        claim = await site.until(is_ready)
        (binding,) = bindings(claim).values()
        assert (binding.tier, binding.spiffe_id) == ("GatewayVouched", None)
        claims(site, tier="Attested")
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "NoMatch")
        assert bindings(claim) == {}
        await site.kube.delete(SensorClaim, "humidity", namespace=site.namespace)
