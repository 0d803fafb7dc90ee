"""A site with a real SPIRE and one with our issuer, federated both ways, through a succession of our authority."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import orjson
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import free_port
from spire.domain.authorization import exactly
from spire.domain.bundle import roots_of_pem, to_pem
from spire.domain.errors import Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.svid import verify_svid
from spire.identity import FixedIdentity, Identity, IdentitySource, Svid
from spire.register import main as register
from spire.tls import client_context, peer_of, server_context
from spire.workload import identity_of
from tests.spire.issuer.running import AUDIENCE, Issuer, csr_for, issuer_on
from tests.spire.real_spire import DOMAIN, SpireAgent, SpireServer, needs_agent, running

pytestmark = needs_agent
OURS = TrustDomain("consumer.example")
GATEWAY = DOMAIN.spiffe_id("manager", "rear-gateway")
MANAGER = OURS.spiffe_id("manager", "router-manager")
LIFE = ("--ca-seconds", "72", "--svid-seconds", "12", "--refresh-hint-seconds", "5")
"""SPIRE asks every 15 s at most: the successor stands in the bundle for 24 s before it signs."""


def federating(folder: Path, issuer: Issuer, *, port: int) -> SpireServer:
    """A server that follows our issuer's bundle and serves its own."""
    block = f"""
  federation {{
    bundle_endpoint {{
      address = "127.0.0.1"
      port = {port}
      profile "https_spiffe" {{}}
    }}
    federates_with "{OURS}" {{
      bundle_endpoint_url = "{issuer.url}/bundle"
      bundle_endpoint_profile "https_spiffe" {{
        endpoint_spiffe_id = "spiffe://{OURS}/issuer"
      }}
    }}
  }}"""
    return SpireServer(folder=folder, settings=block)


def introduce(server: SpireServer, issuer: Issuer, *, port: int) -> None:
    """What an administrator of each side does once."""
    first = server.folder / "consumer.pem"
    first.write_text(to_pem(issuer.roots))
    server.command("bundle", "set", "-id", f"spiffe://{OURS}", "-path", str(first))
    server.command("federation", "refresh", "-id", f"spiffe://{OURS}")
    peer = {
        "bundleEndpointURL": f"https://127.0.0.1:{port}",
        "endpointSPIFFEID": f"spiffe://{DOMAIN}/spire/server",
        "trustDomainBundle": server.command("bundle", "show"),
    }
    metadata = {"name": "fluidos-edge-federation", "namespace": issuer.namespace}
    data = {str(DOMAIN): orjson.dumps(peer).decode()}
    issuer.cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}])


async def traded(issuer: Issuer) -> FixedIdentity:
    """What a workload of ours holds."""
    account = {"name": "router-manager", "namespace": issuer.namespace}
    issuer.cluster.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account}])
    token = issuer.cluster.service_account_token(issuer.namespace, "router-manager", audience=AUDIENCE)
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await issuer.trade(token, csr_for(key))
    assert answer.status == 200, answer
    secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return FixedIdentity(Identity(svid=Svid.parse(answer.chain, key=secret), bundles=answer.bundles))


def signed_by(svid: Svid, roots: set[bytes]) -> bool:
    try:
        verify_svid(svid.chain, bundles={OURS: tuple(roots)}, now=datetime.now(UTC))
    except Untrusted:
        return False
    return True


async def until(holds: Callable[[], Awaitable[bool]], what: str, *, limit: float = 90) -> None:
    try:
        async with asyncio.timeout(limit):
            while True:
                if await holds():
                    return
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"not within {limit:g} s: {what}") from None


async def meet(here: IdentitySource, there: IdentitySource, *, server: SpiffeId, client: SpiffeId) -> None:
    """`there` calls `here`; each lets in nobody but the other."""

    async def who(request: web.Request) -> web.Response:
        return web.Response(text=str(peer_of(request.transport)))

    app = web.Application()
    app.router.add_get("/", who)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        context = server_context(here, authorize=exactly(client))
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
        calling = client_context(there, authorize=exactly(server))
        async with aiohttp.ClientSession() as session, session.get(url, ssl=calling) as response:
            assert await response.text() == str(client)
    finally:
        await runner.cleanup()


async def test_each_side_knows_the_other_through_a_succession(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    async with issuer_on(cluster, tmp_path / "i", *LIFE, trust_domain=str(OURS), namespace=namespace) as issuer:
        port = free_port()
        spire = federating(tmp_path / "s", issuer, port=port)
        agent = SpireAgent(server=spire, folder=tmp_path / "a")
        before = set(issuer.roots)
        with running(spire, agent):
            introduce(spire, issuer, port=port)
            wanted = [
                *("--socket", str(spire.socket), "--trust-domain", str(DOMAIN), "--federates-with", str(OURS)),
                *("--parent", str(agent.spiffe_id), "--selector", f"unix:uid:{os.getuid()}"),
                *("--account", "rear-gateway"),
            ]
            assert await asyncio.to_thread(register, wanted) == 0
            own_roots = roots_of_pem(spire.command("bundle", "show").encode())

            async def ours_know_spire() -> bool:
                return (await issuer.call("GET", "/v1/bundles")).bundles.get(DOMAIN) == own_roots

            async with identity_of(agent.identity_settings) as gateway:
                assert gateway is not None
                assert gateway.current.svid.spiffe_id == GATEWAY
                await until(ours_know_spire, "our issuer knows SPIRE's roots")
                manager = await traded(issuer)
                assert manager.current.bundles[DOMAIN] == own_roots

                async def spires_know_ours() -> bool:
                    return OURS in gateway.current.bundles

                await until(spires_know_ours, "a workload of SPIRE's knows our roots")
                await meet(gateway, manager, server=GATEWAY, client=MANAGER)
                await meet(manager, gateway, server=MANAGER, client=GATEWAY)

                async def spires_know_the_successor() -> bool:
                    return bool(set(gateway.current.bundles[OURS]) - before)

                async def the_successor_signs() -> bool:
                    manager.replace((await traded(issuer)).current)
                    return not signed_by(manager.current.svid, before)

                await until(spires_know_the_successor, "a workload of SPIRE's knows the root that came")
                await until(the_successor_signs, "our successor signs")
                await meet(gateway, manager, server=GATEWAY, client=MANAGER)
                await meet(manager, gateway, server=MANAGER, client=GATEWAY)
