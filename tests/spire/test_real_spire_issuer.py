"""`python -m spire.issuer --authority spire` before a real SPIRE server (1.15 or later) with our composer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from crds.errors import Retryable
from scripts.simulator.dice import Image
from scripts.simulator.doors import React, attest
from scripts.simulator.factory import Factory, open_board
from scripts.simulator.identity import Answer, FileStore, Firmware, SimulatedIdentity
from scripts.testbed.cluster import Cluster
from spire.domain import cbor
from spire.domain.spiffe_id import device_spiffe_id
from spire.domain.svid import verify_svid
from spire.identity import Identity
from spire.issuer.own import csr_naming
from tests.spire.issuer.attesting import write_policy
from tests.spire.issuer.leaves import Leaves
from tests.spire.issuer.running import AUDIENCE, Issuer, csr_for, issuer_on
from tests.spire.real_spire import DOMAIN, SpireServer, needs_server, running

pytestmark = needs_server
CODE = b"thermometer 1.2"
KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def spire(tmp_path: Path) -> Iterator[SpireServer]:
    server = SpireServer(folder=tmp_path / "s")
    with running(server):
        yield server


@pytest.fixture
def factory(cluster: Cluster, tmp_path: Path) -> Iterator[Factory]:
    """A manufacturer whose boards the site accepts when they run the thermometer."""
    maker = Factory.open(tmp_path, name="acme")
    write_policy(cluster, "fluidos", maker.policy([Image(code=CODE, application="thermo", version="1.2")]))
    yield maker
    write_policy(cluster, "fluidos", None)


@pytest.fixture
async def issuer(spire: SpireServer, cluster: Cluster, factory: Factory, tmp_path: Path) -> AsyncIterator[Issuer]:
    flags = ("--authority", "spire", "--spire-socket", str(spire.socket), "--bindings", str(spire.bindings))
    async with issuer_on(cluster, tmp_path / "i", *flags, trust_domain=str(DOMAIN)) as before_spire:
        yield before_spire


@pytest.fixture
def firmware(issuer: Issuer, factory: Factory, tmp_path: Path) -> Firmware:
    """A board with the thermometer in its flash."""
    board, image = tmp_path / "board.json", tmp_path / "flash"
    open_board(board, factory=factory)
    image.write_bytes(CODE)
    files = {"board": board, "image": image, "attest": issuer.url, "bundle": issuer.bundle_file}
    words = {name: str(value) for name, value in files.items()}
    said = SimulatedIdentity.model_validate({**words, "application": "thermo", "version": "1.2"})
    return Firmware(said, FileStore(said))


async def ask(issuer: Issuer, firmware: Firmware, *, react: React | None = None) -> Answer:
    """One attempt of the device."""
    react = react or firmware.react
    return await asyncio.to_thread(attest, issuer.url, bundle=issuer.bundle_file, ueid=firmware.ueid, react=react)


async def ask_until_answered(issuer: Issuer, firmware: Firmware, *, react: React | None = None) -> Answer:
    """Attempts until the issuer knows device and policy, and SPIRE is there."""
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await ask(issuer, firmware, react=react)
            except Retryable:
                await asyncio.sleep(0.2)
                continue
            if not str(answer).startswith("NotExpected"):
                return answer
            await asyncio.sleep(0.2)


async def test_a_device_gets_its_svid_from_spire(issuer: Issuer, firmware: Firmware, namespace: str) -> None:
    leaves = Leaves(issuer.cluster, namespace)
    leaf = leaves.add(str(firmware.ueid))
    answer = await ask_until_answered(issuer, firmware)
    assert isinstance(answer, Identity), answer
    assert answer.svid.spiffe_id == device_spiffe_id(DOMAIN, ueid=firmware.ueid, application="thermo")
    assert verify_svid(answer.svid.chain, bundles=answer.bundles, now=datetime.now(UTC)) == answer.svid.spiffe_id
    certificate = x509.load_der_x509_certificate(answer.svid.chain[0])
    assert certificate.subject.rfc4514_string() == f"CN={firmware.ueid}"
    await leaves.eventually(leaf, "Attested", "Attested")
    assert leaves.status(leaf)["trust"]["spiffeID"] == str(answer.svid.spiffe_id)


async def test_a_device_whose_request_names_no_id_is_told_which(
    issuer: Issuer, firmware: Firmware, namespace: str
) -> None:
    Leaves(issuer.cluster, namespace).add(str(firmware.ueid))

    def without_id(message: bytes) -> bytes | Answer:
        said = firmware.react(message)
        if not isinstance(said, bytes):
            return said
        evidence = cbor.decode(said, field="answer", limit=len(said))
        assert isinstance(evidence, list)
        assert isinstance(firmware.key, ec.EllipticCurvePrivateKey)
        return cbor.encode([evidence[0], csr_for(firmware.key)])

    refusal = await ask_until_answered(issuer, firmware, react=without_id)
    assert isinstance(refusal, str)
    assert refusal.startswith("Malformed: csr.subjectAltName")
    assert f"expected spiffe://{DOMAIN}/device/{firmware.ueid}/app/thermo" in refusal


async def test_a_workload_has_to_name_its_id_and_is_told_so(issuer: Issuer) -> None:
    token = issuer.cluster.service_account_token(issuer.namespace, "router-manager", audience=AUDIENCE)
    manager = DOMAIN.spiffe_id("manager", "router-manager")
    for csr in (csr_for(KEY), csr_naming(KEY, DOMAIN.spiffe_id("issuer"))):
        refused = await issuer.trade(token, csr)
        assert refused.status == 400
        assert f"expected {manager} and nothing else" in refused.body["message"]
    answer = await issuer.trade(token, csr_naming(KEY, manager))
    assert answer.status == 200, answer
    assert verify_svid(answer.chain, bundles=answer.bundles, now=datetime.now(UTC)) == manager


async def test_a_server_that_is_away_puts_devices_off_and_takes_nothing_from_those_that_have_proven_themselves(
    issuer: Issuer, spire: SpireServer, firmware: Firmware, namespace: str
) -> None:
    leaves = Leaves(issuer.cluster, namespace)
    leaf = leaves.add(str(firmware.ueid))
    assert isinstance(await ask_until_answered(issuer, firmware), Identity)
    await leaves.eventually(leaf, "Attested", "Attested")
    spire.stop()
    with pytest.raises(Retryable, match="503"):
        await ask(issuer, firmware)
    assert (await issuer.call("GET", "/bundle")).status == 200
    assert leaves.stands(leaf) == ("Attested", "Attested")
    await asyncio.to_thread(spire.start)
    assert isinstance(await ask_until_answered(issuer, firmware), Identity)
