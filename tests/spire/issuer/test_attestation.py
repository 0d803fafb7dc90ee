"""What devices, and those who pretend to be devices, get for evidence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import aiohttp
import cbor2
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from crds.errors import Retryable
from crds.kube.client import Kube
from scripts.testbed.cluster import Cluster
from spire.domain.dice import Mode
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.svid import verify_svid
from spire.issuer.authority import EmbeddedAuthority, Issued
from tests.spire.issuer.attesting import (
    GLOBEX,
    OLDER,
    POLICY,
    PUMP,
    TAMPERED,
    THERMO,
    Clock,
    Issuer,
    changed,
    embedded,
    issuing,
    write_policy,
)
from tests.spire.issuer.leaves import Leaves, connect, grant, until


@pytest.fixture(scope="module")
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    grant(cluster)
    async with await connect(cluster, "identity-issuer") as made:
        yield made


@pytest.fixture
async def leaves(cluster: Cluster, namespace: str) -> Leaves:
    write_policy(cluster, namespace, POLICY)
    return Leaves(cluster, namespace)


@pytest.fixture
async def issuer(kube: Kube, leaves: Leaves, tmp_path: Path) -> AsyncIterator[Issuer]:
    async with issuing(kube, leaves, tmp_path) as made:
        await until(lambda: made.policies.current is not None, lambda: "no policy")
        yield made


@pytest.mark.parametrize("form", ["cbor", "x509"])
async def test_a_genuine_device_gets_an_svid_for_its_key(issuer: Issuer, form: str) -> None:
    thing = issuer.thing(form=form)
    await issuer.known(thing)
    answer = await issuer.attest(thing)
    assert answer.status == 200, answer
    spiffe_id = f"spiffe://site.test/device/{thing.ueid}/app/thermo"
    assert answer.body["spiffeID"] == spiffe_id
    bundles = {TrustDomain(name): roots for name, roots in answer.body["bundles"].items()}
    assert str(verify_svid(answer.body["chain"], bundles=bundles, now=issuer.clock())) == spiffe_id
    leaf = x509.load_der_x509_certificate(answer.body["chain"][0])
    assert leaf.public_key() == thing.own.public_key()
    assert leaf.subject.rfc4514_string() == f"CN={thing.ueid}"
    assert answer.body["expires"] == int(leaf.not_valid_after_utc.timestamp())

    await issuer.stands(thing, "Attested", "Attested")
    trust = issuer.leaves.status(thing.leaf)["trust"]
    assert trust["spiffeID"] == spiffe_id
    assert trust["manufacturer"] == "acme"
    assert trust["application"] == "thermo"
    assert trust["mode"] == "Normal"
    assert trust["firmware"] == {"measurement": THERMO.measurement.hex(), "version": "1.2", "securityCounter": 7}
    assert [each["mode"] for each in trust["boot"]] == ["Normal"]
    await until(lambda: issuer.leaves.events(thing.leaf)[-1:] == ["Attested"], lambda: "no Event")


async def test_of_a_request_nothing_counts_but_its_key(issuer: Issuer) -> None:
    thing, victim = issuer.thing(), issuer.thing()
    await issuer.known(thing)
    device = thing.boot()
    wish = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, victim.ueid)])
    nonce = await issuer.challenge(thing.ueid)
    answer = await issuer.show(thing.ueid, device.evidence(nonce=nonce), device.csr(wish))
    leaf = x509.load_der_x509_certificate(answer.body["chain"][0])
    assert leaf.subject.rfc4514_string() == f"CN={thing.ueid}"


async def test_renewal_moves_the_end_and_tells_nobody(issuer: Issuer) -> None:
    thing = await issuer.attested()
    await until(lambda: "Attested" in issuer.leaves.events(thing.leaf), lambda: "no Event")
    told, before = issuer.leaves.events(thing.leaf), issuer.leaves.status(thing.leaf)["trust"]
    issuer.clock.ahead = timedelta(minutes=30)
    assert (await issuer.attest(thing)).status == 200
    await until(
        lambda: issuer.leaves.status(thing.leaf)["trust"]["expirationTime"] > before["expirationTime"],
        lambda: "not renewed",
    )
    assert issuer.leaves.events(thing.leaf) == told


async def test_evidence_counts_once(issuer: Issuer) -> None:
    thing = issuer.thing()
    await issuer.known(thing)
    device = thing.boot()
    evidence = device.evidence(nonce=await issuer.challenge(thing.ueid))
    assert (await issuer.show(thing.ueid, evidence, device.csr())).status == 200
    again = await issuer.show(thing.ueid, evidence, device.csr())
    assert (again.status, again.reason) == (403, "NonceRefused")
    await issuer.stands(thing, "Attested", "Attested")


async def test_a_challenge_ends(issuer: Issuer) -> None:
    thing = issuer.thing()
    await issuer.known(thing)
    device = thing.boot()
    evidence = device.evidence(nonce=await issuer.challenge(thing.ueid))
    issuer.clock.ahead = timedelta(seconds=61)
    answer = await issuer.show(thing.ueid, evidence, device.csr())
    assert (answer.status, answer.reason) == (403, "NonceRefused")


async def test_a_challenge_is_for_the_device_that_it_was_given_to(issuer: Issuer) -> None:
    thing, other = issuer.thing(), issuer.thing()
    await issuer.known(thing, other)
    device = thing.boot()
    foreign = device.evidence(nonce=await issuer.challenge(other.ueid))
    invented = device.evidence(nonce=bytes(32))
    for evidence in (foreign, invented):
        answer = await issuer.show(thing.ueid, evidence, device.csr())
        assert (answer.status, answer.reason) == (403, "NonceRefused")


async def test_an_answer_comes_from_where_the_challenge_went(issuer: Issuer) -> None:
    thing = issuer.thing()
    await issuer.known(thing)
    device = thing.boot()
    evidence = device.evidence(nonce=await issuer.challenge(thing.ueid))
    elsewhere = aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0)))
    async with elsewhere as http:
        answer = await replace(issuer, http=http).show(thing.ueid, evidence, device.csr())
        assert (answer.status, answer.reason) == (403, "NonceRefused")
    assert (await issuer.show(thing.ueid, evidence, device.csr())).status == 200


async def test_nobody_is_attested_by_the_evidence_of_another(issuer: Issuer) -> None:
    thief, victim = issuer.thing(), await issuer.attested()
    await issuer.known(thief)
    device = thief.boot()
    nonce = await issuer.challenge(victim.ueid)
    for lies in ({}, {"ueid": victim.board.ueid}):
        answer = await issuer.show(victim.ueid, device.evidence(nonce=nonce, **lies), device.csr())
        assert (answer.status, answer.reason) == (403, "ClaimContradicted")
        assert "withdrawn" not in answer.body
    assert (await issuer.attest(victim)).status == 200
    assert issuer.leaves.stands(victim.leaf) == ("Attested", "Attested")


async def test_a_device_that_claims_the_name_of_another_loses_its_own_trust_only(issuer: Issuer) -> None:
    thing, victim = await issuer.attested(), await issuer.attested()
    answer = await issuer.attest(thing, ueid=victim.board.ueid)
    assert (answer.status, answer.reason, answer.body.get("withdrawn")) == (403, "ClaimContradicted", True)
    await issuer.stands(thing, "None", "ClaimContradicted")
    assert issuer.leaves.stands(victim.leaf) == ("Attested", "Attested")


async def test_evidence_does_not_certify_the_key_of_somebody_between(issuer: Issuer) -> None:
    thing, between = await issuer.attested(), issuer.thing()
    device = thing.boot()
    evidence = device.evidence(nonce=await issuer.challenge(thing.ueid))
    answer = await issuer.show(thing.ueid, evidence, between.boot().csr())
    assert (answer.status, answer.reason) == (403, "KeyNotNamed")
    forged = bytearray(device.csr())
    forged[-1] ^= 1
    answer = await issuer.show(thing.ueid, evidence, bytes(forged))
    assert (answer.status, answer.reason) == (403, "BadSignature")
    assert issuer.leaves.stands(thing.leaf) == ("Attested", "Attested")
    # Who stood between has not even cost the device its challenge.
    assert (await issuer.show(thing.ueid, evidence, device.csr())).status == 200


async def test_tampered_firmware_that_lies_loses_its_trust(issuer: Issuer) -> None:
    thing = await issuer.attested()
    answer = await issuer.attest(thing, thing.boot(TAMPERED), measurement=THERMO.measurement)
    assert (answer.status, answer.reason, answer.body["withdrawn"]) == (403, "ClaimContradicted", True)
    await issuer.stands(thing, "None", "ClaimContradicted")
    assert "spiffeID" not in issuer.leaves.status(thing.leaf)["trust"]
    await until(lambda: issuer.leaves.events(thing.leaf)[-1] == "ClaimContradicted", lambda: "no Event")
    assert (await issuer.attest(thing)).status == 200
    await issuer.stands(thing, "Attested", "Attested")


async def test_tampered_firmware_that_is_honest_loses_its_trust(issuer: Issuer) -> None:
    thing = await issuer.attested()
    answer = await issuer.attest(thing, thing.boot(TAMPERED))
    assert (answer.status, answer.reason) == (403, "MeasurementUnknown")
    await issuer.stands(thing, "None", "MeasurementUnknown")


async def test_good_firmware_under_another_name_is_not_it(issuer: Issuer) -> None:
    thing = await issuer.attested()
    renamed = type(THERMO)(code=THERMO.code, application="pump", version="1.2", counter=7)
    answer = await issuer.attest(thing, thing.boot(renamed))
    assert answer.reason == "ApplicationRefused"


async def test_debugging_loses_trust(issuer: Issuer) -> None:
    thing = await issuer.attested()
    answer = await issuer.attest(thing, thing.boot(mode=Mode.DEBUG))
    assert (answer.status, answer.reason) == (403, "ModeRefused")
    await issuer.stands(thing, "None", "ModeRefused")


async def test_a_device_does_not_go_back_behind_its_own_counter(issuer: Issuer) -> None:
    thing = issuer.thing()
    await issuer.known(thing)
    assert (await issuer.attest(thing, thing.boot(OLDER))).status == 200
    assert (await issuer.attest(thing, thing.boot(THERMO))).status == 200
    for _ in range(2):  # that it was refused does not make it be forgotten
        answer = await issuer.attest(thing, thing.boot(OLDER))
        assert (answer.status, answer.reason) == (403, "CounterTooLow")
        await issuer.stands(thing, "None", "CounterTooLow")
    assert (await issuer.attest(thing, thing.boot(PUMP))).status == 200, "counters of two applications do not compare"


async def test_another_manufacturers_device_is_a_stranger(issuer: Issuer) -> None:
    thing = issuer.thing(maker=GLOBEX)
    await issuer.known(thing)
    answer = await issuer.attest(thing)
    assert (answer.status, answer.reason) == (403, "UnknownManufacturer")


async def test_certificates_have_to_be_valid_by_the_issuers_clock(issuer: Issuer) -> None:
    """A device has no clock that counts: nothing that it signs says what time it is."""
    thing = issuer.thing(form="x509")
    await issuer.known(thing)
    issuer.clock.ahead = -timedelta(days=365 * 10)
    answer = await issuer.attest(thing)
    assert (answer.status, answer.reason) == (403, "NotValidNow")


async def test_what_a_stranger_sends_costs_no_device_its_trust(issuer: Issuer) -> None:
    thing = await issuer.attested()
    device = thing.boot()
    evidence = device.evidence(nonce=await issuer.challenge(thing.ueid))
    forged = bytearray(thing.boot(TAMPERED).evidence(nonce=await issuer.challenge(thing.ueid)))
    forged[-1] ^= 1
    for body in (
        b"",
        b"\xff" * 100,
        cbor2.dumps([bytes(forged), device.csr()]),
        cbor2.dumps([evidence[:-1], device.csr()]),
        cbor2.dumps([evidence + b"\x00", device.csr()]),
        cbor2.dumps([evidence]),
        cbor2.dumps([evidence, device.csr(), b""]),
        cbor2.dumps({"evidence": evidence}),
        b"\x9f" + cbor2.dumps(evidence) + cbor2.dumps(device.csr()) + b"\xff",
        b"\x81" * 10_000,
    ):
        answer = await issuer.post(f"{thing.ueid}/evidence", body)
        assert answer.status in {400, 403}, body
        assert "withdrawn" not in answer.body
    assert (await issuer.show(thing.ueid, evidence, device.csr())).status == 200
    assert issuer.leaves.stands(thing.leaf) == ("Attested", "Attested")


async def test_what_is_too_large_is_not_read(issuer: Issuer) -> None:
    thing = issuer.thing()
    await issuer.known(thing)
    answer = await issuer.post(f"{thing.ueid}/evidence", bytes(10_000_000))
    assert (answer.status, answer.reason) == (400, "Malformed")


@pytest.mark.parametrize("name", ["01", "zz", "01" + "AB" * 16, "04" + "00" * 16, "01" + "00" * 32])
async def test_a_name_that_is_none_is_told_so(issuer: Issuer, name: str) -> None:
    answer = await issuer.post(f"{name}/challenge")
    assert (answer.status, answer.reason) == (400, "Malformed")


async def test_a_device_that_nobody_expects_gets_nothing(issuer: Issuer) -> None:
    thing = issuer.thing(expected=False)
    for call in ("challenge", "evidence"):
        answer = await issuer.post(f"{thing.ueid}/{call}")
        assert (answer.status, answer.reason) == (403, "NotExpected")


async def test_a_device_that_asks_too_often_keeps_no_other_waiting(issuer: Issuer) -> None:
    eager, other = issuer.thing(), issuer.thing()
    await issuer.known(eager, other)
    answers = await asyncio.gather(*(issuer.post(f"{eager.ueid}/challenge") for _ in range(200)))
    assert {answer.status for answer in answers} == {200, 503}
    assert sum(answer.status == 200 for answer in answers) < 100
    assert (await issuer.attest(other)).status == 200


class SlowAuthority(EmbeddedAuthority):
    """Signs when it is told to."""

    asked: asyncio.Event
    go: asyncio.Event
    failure: Exception | None = None

    @classmethod
    async def at(cls, directory: Path) -> SlowAuthority:
        made = await embedded(directory, Clock(), kind=cls)
        assert isinstance(made, cls)
        made.asked, made.go = asyncio.Event(), asyncio.Event()
        return made

    async def issue(self, spiffe_id: SpiffeId, *, csr: bytes, common_name: str, ttl: timedelta) -> Issued:
        self.asked.set()
        await self.go.wait()
        if self.failure:
            raise self.failure
        return await super().issue(spiffe_id, csr=csr, common_name=common_name, ttl=ttl)


async def test_what_changes_while_the_authority_signs_counts(kube: Kube, leaves: Leaves, tmp_path: Path) -> None:
    slow = await SlowAuthority.at(tmp_path)
    async with issuing(kube, leaves, tmp_path, authority=slow) as issuer:
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        thing = issuer.thing()
        await issuer.known(thing)
        asking = asyncio.create_task(issuer.attest(thing))
        await slow.asked.wait()
        assert (await issuer.attest(thing, thing.boot(TAMPERED))).reason == "MeasurementUnknown"
        slow.go.set()
        assert ((await asking).status, (await asking).reason) == (503, "Busy")
        await issuer.stands(thing, "None", "MeasurementUnknown")

        slow.asked.clear()
        slow.go.clear()
        asking = asyncio.create_task(issuer.attest(thing))
        await slow.asked.wait()
        await issuer.in_force(changed(POLICY, revoked=(thing.ueid,)))
        slow.go.set()
        assert (await asking).status == 503
        assert (await issuer.attest(thing)).reason == "Revoked"


async def test_an_authority_that_is_away_is_worth_another_try(kube: Kube, leaves: Leaves, tmp_path: Path) -> None:
    slow = await SlowAuthority.at(tmp_path)
    slow.go.set()
    async with issuing(kube, leaves, tmp_path, authority=slow) as issuer:
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        thing = issuer.thing()
        await issuer.known(thing)
        slow.failure = Retryable("away")
        answer = await issuer.attest(thing)
        assert (answer.status, answer.reason) == (503, "Busy")
        slow.failure = None
        assert (await issuer.attest(thing)).status == 200
