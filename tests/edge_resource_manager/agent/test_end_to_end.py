"""A device with a real DICE engine, over MQTT to a real appraisal and back, and what a tampered one is left with."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from scripts.simulator.dice import Device
from scripts.testbed.cluster import Cluster
from spire.domain import cbor
from spire.domain.authority import X509Authority, key_of_csr, sign_svid
from spire.domain.authorization import any_known
from spire.domain.bundle import Bundle
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.identity import FixedIdentity, Svid
from spire.issuer.authority import Issued
from spire.tls import server_context
from tests.edge_resource_manager.agent.peers import Client, ScriptedIssuer, Station
from tests.edge_resource_manager.agent.test_agent import Site, eventually, node_station
from tests.spire.issuer.attesting import POLICY, TAMPERED, THERMO, Issuer, Thing, issuing, write_policy
from tests.spire.issuer.leaves import Leaves, connect, grant, until
from tests.spire.pki import Ca, bundles_of, key_der

pytestmark = [pytest.mark.broker, pytest.mark.control_plane]
__all__ = ["node_station"]  # a fixture of the agent's tests


@dataclass
class CaAuthority:
    """The authority that the station's certificates are of, as the issuer sees one."""

    ca: Ca

    @property
    def trust_domain(self) -> TrustDomain:
        return self.ca.trust_domain

    @property
    def bundle(self) -> Bundle:
        raise NotImplementedError

    @property
    def bundles(self) -> Mapping[TrustDomain, tuple[bytes, ...]]:
        return bundles_of(self.ca)

    def on_change(self, _callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def issue(self, spiffe_id: SpiffeId, *, csr: bytes, common_name: str, ttl: timedelta) -> Issued:
        now = datetime.now(UTC)
        leaf = sign_svid(
            X509Authority(certificate=self.ca.certificate, key=self.ca.key, active_from=now),
            spiffe_id=spiffe_id,
            key=key_of_csr(csr),
            common_name=common_name,
            now=now,
            ttl=ttl,
            serial=secrets.randbits(64) + 1,
        )
        return Issued(chain=(leaf.public_bytes(Encoding.DER),), expires=leaf.not_valid_after_utc)


@asynccontextmanager
async def served(issuer: Issuer, ca: Ca) -> AsyncIterator[str]:
    """The appraisal over the TLS of an issuer."""
    app = web.Application()
    app.add_routes(issuer.attestation.routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    own = FixedIdentity(ca.identity("/issuer"))
    try:
        context = server_context(own, authorize=any_known(), client_certificates="optional")
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def world(
    cluster: Cluster, namespace: str, node_station: Station, tmp_path: Path
) -> AsyncIterator[tuple[Site, Issuer]]:
    """A node, and an issuer that appraises."""
    grant(cluster)
    write_policy(cluster, namespace, POLICY)
    async with (
        await connect(cluster, "identity-issuer") as kube,
        issuing(kube, Leaves(cluster, namespace), tmp_path, authority=CaAuthority(node_station.ca)) as issuer,
        served(issuer, node_station.ca) as url,
    ):
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        address = ScriptedIssuer()
        address.url = url
        yield Site(cluster, namespace, node_station, address, kube), issuer


def attest(connection: Client, thing: Thing, device: Device) -> dict[str, object]:
    """As a device does it, whatever firmware it runs."""
    topic = f"attest/{thing.ueid}"
    for name in ("challenge", "svid"):
        assert connection.may_subscribe(f"{topic}/{name}")
    assert connection.publish(f"{topic}/hello", b"") == 0
    challenged, challenge = connection.message()
    assert challenged == f"{topic}/challenge"
    said = cbor.decode(challenge, field="challenge", limit=1000)
    assert isinstance(said, dict)
    proof = cbor.encode([device.evidence(nonce=said["nonce"]), device.csr()])
    assert connection.publish(f"{topic}/evidence", proof) == 0
    while True:
        answered, body = connection.message()
        if answered == f"{topic}/svid":
            answer = cbor.decode(body, field="answer", limit=65536)
            assert isinstance(answer, dict)
            return answer


async def test_a_device_attests_publishes_is_tampered_with_and_loses_its_place(world: tuple[Site, Issuer]) -> None:
    site, issuer = world
    thing = issuer.thing(expected=False)
    site.add("tile", "sensor/tile", ueid=thing.ueid)
    await issuer.known(thing)
    async with site.agent():
        with site.station.client(client_id=thing.ueid) as newcomer:
            answer = await asyncio.to_thread(attest, newcomer, thing, thing.boot(THERMO))
        chain = answer["chain"]
        assert isinstance(chain, list)
        svid = Svid.parse(chain, key=key_der(thing.own))
        with site.station.client(svid) as device:
            assert await asyncio.to_thread(device.may_publish, "sensor/tile")  # at once: the account was there before
            tampered = thing.boot(TAMPERED)

            def lies_about_its_firmware() -> None:
                topic = f"attest/{thing.ueid}"
                device.may_subscribe(f"{topic}/challenge")
                device.publish(f"{topic}/hello", b"")
                said = cbor.decode(device.message()[1], field="challenge", limit=1000)
                assert isinstance(said, dict)
                good = tampered.evidence(nonce=said["nonce"], measurement=thing.boot(THERMO).claims.measurement)
                device.publish(f"{topic}/evidence", cbor.encode([good, tampered.csr()]))
                device.cut()

            await asyncio.to_thread(lies_about_its_firmware)
        with site.station.client(svid) as again:  # its SVID is valid for an hour
            assert not await asyncio.to_thread(again.may_publish, "sensor/tile")
        with site.station.client(client_id=thing.ueid) as newcomer:
            refusal = await asyncio.to_thread(attest, newcomer, thing, tampered)
            assert refusal["withdrawn"] is True
            answer = await asyncio.to_thread(attest, newcomer, thing, thing.boot(THERMO))
            assert "chain" in answer
        with site.station.client(svid) as mended:
            await eventually(mended, "sensor/tile")
