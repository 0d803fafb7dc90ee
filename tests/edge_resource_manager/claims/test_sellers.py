"""Buying over mutual TLS: from who proves to be a provider, what it signed, and later from nobody else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest

from crds.annotations import BUYER_SPIFFE_ID, SPIFFE_ID
from crds.models.fluidos import Contract
from crds.models.sensorclaim import SensorClaim
from edge_resource_manager.adapters.rear_client import ProviderSilent, RearProvider
from edge_resource_manager.adapters.rear_session import MAX_SELLERS, RearSession
from scripts.testbed.cluster import Cluster
from spire.identity import FixedIdentity
from tests.edge_resource_manager.claims.conftest import NEED, Site, bindings, condition, eventually, is_ready
from tests.edge_resource_manager.claims.rear_simulator import Json, RearSimulator, hang
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import running
from tests.spire.pki import Ca

BUYER, X, Y, STRANGER = (Ca.of(name) for name in ("consumer", "provider-x", "provider-y", "stranger"))
GATEWAY, MANAGER = "/manager/rear-gateway", "/manager/edge-resource-manager"
SELLER_X, SELLER_Y = (f"spiffe://{each.trust_domain}{GATEWAY}" for each in (X, Y))
ENDPOINT = {"name": "sink", "url": "https://192.0.2.7:4487/telegraf"}
WANTED: dict[str, Any] = {**NEED, "minimumTier": "None", "endpoints": [ENDPOINT]}


def gateway(authority: Ca, path: str = GATEWAY) -> FixedIdentity:
    return FixedIdentity(authority.identity(path, knows=(BUYER,)))


@pytest.fixture
def buyer() -> FixedIdentity:
    return FixedIdentity(BUYER.identity(MANAGER, knows=(X, Y)))


async def provider(site: Site, identity: FixedIdentity | None, name: str = "provider-1") -> RearSimulator:
    simulator = RearSimulator(name, identity=identity)
    await site.stack.enter_async_context(simulator.serve())
    simulator.offer("flavor")
    know(site, simulator)
    return simulator


def know(site: Site, simulator: RearSimulator, *, pin: str | None = None) -> None:
    site.cluster.apply(
        [
            {
                "apiVersion": "network.fluidos.eu/v1alpha1",
                "kind": "KnownCluster",
                "metadata": {
                    "name": simulator.name,
                    "namespace": site.namespace,
                    "annotations": {} if pin is None else {SPIFFE_ID: pin},
                },
                "spec": {"address": simulator.address},
            }
        ]
    )


def says(words: str) -> Callable[[SensorClaim], bool]:
    return lambda claim: any(words in condition(claim, name)[2] for name in ("Bound", "Ready"))


async def test_a_binding_says_who_sold_it(site: Site, buyer: FixedIdentity) -> None:
    await provider(site, gateway(X))
    async with site.reconciler(svid=buyer):
        site.claim(**WANTED)
        claim = await site.until(is_ready)
    assert bindings(claim)["flavor"].seller == SELLER_X


async def test_a_claim_is_bound_and_moved_through_a_gateway_that_proves_who_it_is(
    cluster: Cluster, site: Site, buyer: FixedIdentity
) -> None:
    cluster.apply([samples.IDENTITY])
    selling = gateway(X)
    async with running(cluster, identity=selling, egress_allow="192.0.2.0/24") as seller:
        site.know("provider-1", seller.url.removeprefix("https://").removesuffix("/api/v2"))
        (flavor,) = await seller.offer(samples.sensor("fast", namespace=site.namespace, latency="12"))
        wanted = {**WANTED, "selector": f'device.attributes["sensor.fluidos.eu"].node == "{site.namespace}"'}
        async with site.reconciler(svid=buyer):
            site.claim(**wanted)
            claim = await site.until(is_ready)
            assert bindings(claim)[flavor].seller == SELLER_X
            (contract,) = await site.kube.list(Contract, namespace=site.namespace)
            proven = f"spiffe://consumer{MANAGER}"
            assert contract.metadata.annotations[BUYER_SPIFFE_ID] == proven
            # Both sides get new certificates, and the events go on.
            selling.replace(gateway(X).current)
            buyer.replace(BUYER.identity(MANAGER, knows=(X, Y)))
            site.claim(**{**wanted, "endpoints": [{"name": "there", "url": "https://192.0.2.8/"}]})
            await site.until(lambda claim: claim.metadata.generation == 2 and is_ready(claim))
            (contract,) = await site.kube.list(Contract, namespace=site.namespace)
            assert contract.spec.ingress_telemetry_endpoint is not None
            assert contract.spec.ingress_telemetry_endpoint.endpoint == "https://192.0.2.8/"
            await site.kube.delete(SensorClaim, "humidity", namespace=site.namespace)

            async def ended() -> bool:
                return await site.read() is None and await site.kube.list(Contract, namespace=site.namespace) == []

            await eventually(ended)


def changed(**members: Any) -> Callable[[Json], Json]:
    return lambda contract: {**contract, **members}


def unsigned(contract: Json) -> Json:
    return {key: value for key, value in contract.items() if key != "signature"}


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (unsigned, "no JWS"),
        (changed(signature="e30..AA"), "no JWS"),
        (changed(expirationTime="2099-01-01T00:00:00Z"), "the signature is wrong"),
        (changed(buyerClusterID="another"), "the signature is wrong"),
        (changed(more="than was signed"), "the signature is wrong"),
    ],
    ids=["unsigned", "garbage", "longer", "for-another", "with-more"],
)
async def test_a_contract_that_is_not_signed_as_it_is_sent_is_given_back(
    site: Site, buyer: FixedIdentity, forge: Callable[[Json], Json], why: str
) -> None:
    seller = await provider(site, gateway(X))
    seller.forge = forge
    async with site.reconciler(svid=buyer):
        site.claim(**WANTED)
        claim = await site.until(says("its contract is not accepted"))
        assert why in condition(claim, "Bound")[2]
        await eventually(lambda: seller.sold() == [], "given back")
        await site.until(lambda claim: not bindings(claim))
        seller.forge = lambda contract: contract
        await site.until(is_ready)


async def test_a_contract_that_somebody_else_signed_is_given_back(site: Site, buyer: FixedIdentity) -> None:
    seller = await provider(site, gateway(X))
    other = RearSimulator("other", identity=gateway(Y))
    seller.forge = lambda contract: _signed_by(other, contract)
    async with site.reconciler(svid=buyer):
        site.claim(**WANTED)
        await site.until(says(f"signed by {SELLER_Y}, but sold by {SELLER_X}"))
        await eventually(lambda: seller.sold() == [], "given back")


def _signed_by(simulator: RearSimulator, contract: Json) -> Json:
    body = simulator._sold(contract).body
    assert isinstance(body, bytes)
    signed: Json = orjson.loads(body)
    return signed


async def test_a_change_that_is_not_signed_is_not_believed(site: Site, buyer: FixedIdentity) -> None:
    seller = await provider(site, gateway(X))
    async with site.reconciler(svid=buyer):
        site.claim(**WANTED)
        before = bindings(await site.until(is_ready))["flavor"]
        seller.forge = unsigned
        site.claim(**{**WANTED, "filter": {"maxPerSecond": 1}})
        claim = await site.until(says("its contract is not accepted"))
        assert bindings(claim)["flavor"].configuration_digest == before.configuration_digest
        seller.forge = lambda contract: contract
        claim = await site.until(is_ready)
        assert bindings(claim)["flavor"].configuration_digest != before.configuration_digest


async def test_what_one_sold_is_never_changed_or_ended_at_another(site: Site, buyer: FixedIdentity) -> None:
    seller = await provider(site, gateway(X))
    async with site.reconciler(svid=buyer):
        site.claim(**WANTED)
        await site.until(is_ready)
        # The same address, the same contract by name: but somebody else.
        other = RearSimulator("provider-1", identity=gateway(Y))
        await site.stack.enter_async_context(other.serve())
        other.flavors, other.contracts = dict(seller.flavors), dict(seller.contracts)
        site.know("provider-1", other.address)
        site.claim(**{**WANTED, "filter": {"maxPerSecond": 1}})
        claim = await site.until(says("does not prove to be"))
        assert condition(claim, "Ready")[1] == "ProviderSilent"
        assert bindings(claim)["flavor"].seller == SELLER_X
        message = condition(claim, "Ready")[2] + condition(claim, "Bound")[2]
        assert f"the peer is {SELLER_Y}, expected {SELLER_X}" in message
        await site.kube.delete(SensorClaim, "humidity", namespace=site.namespace)

        async def gone() -> bool:
            return await site.read() is None

        await eventually(gone, "the claim goes when its time is up")
        assert "flavor of provider-1" in (await site.told("ContractsLeft"))[0]
        assert set(other.asked) <= {"list", "events"}
        assert list(other.contracts) == list(seller.contracts)


async def test_a_known_cluster_can_name_the_one_who_it_must_be(site: Site, buyer: FixedIdentity) -> None:
    seller = await provider(site, gateway(X))
    know(site, seller, pin=SELLER_Y)
    async with site.reconciler(svid=buyer):
        site.claim(**WANTED)
        await site.until(says(f"the peer is {SELLER_X}, expected {SELLER_Y}"))
        assert seller.asked == []
        know(site, seller, pin="provider-x")
        await site.until(says("edge.fluidos.eu/spiffe-id"))
        know(site, seller, pin=SELLER_X)
        claim = await site.until(is_ready)
        # Who sold stays who sold, whatever the KnownCluster says later.
        know(site, seller, pin=SELLER_Y)
        site.claim(**{**WANTED, "filter": {"maxPerSecond": 1}})
        await site.until(says("expected spiffe://provider-y"))
        assert bindings(claim)["flavor"].seller == SELLER_X
        assert seller.contracts["contract-t1"]["configuration"]["data"].get("filter") is None


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (lambda: gateway(STRANGER), "does not prove to be a provider that we know"),
        (lambda: gateway(X, "/endpoint/default/sink"), "does not prove to be a provider that we know"),
        (lambda: None, "does not speak TLS"),
    ],
    ids=["unknown-domain", "no-gateway", "plain"],
)
async def test_a_provider_that_proves_nothing_is_not_used_and_it_is_said_why(
    site: Site, buyer: FixedIdentity, identity: Callable[[], FixedIdentity | None], words: str
) -> None:
    await provider(site, identity(), "bad")
    good = await provider(site, gateway(Y), "good")
    good.flavors.clear()
    async with site.reconciler(svid=buyer):
        site.claim(**WANTED)
        await site.until(says(words))
        good.offer("other")
        claim = await site.until(is_ready)
        assert bindings(claim)["other"].seller == SELLER_Y


async def test_a_provider_that_asks_for_proof_is_silent_to_those_without(site: Site) -> None:
    await provider(site, gateway(X))
    async with site.reconciler():
        site.claim(**WANTED)
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "ProvidersSilent")
        message = condition(claim, "Bound")[2]
        assert "provider-1 did not answer: closed the connection (does it ask for TLS?)" in message


async def test_a_provider_that_does_not_know_us_is_told_from_one_that_is_away(site: Site, buyer: FixedIdentity) -> None:
    await provider(site, FixedIdentity(X.identity(GATEWAY)))
    async with site.reconciler(svid=buyer):
        site.claim(**WANTED)
        claim = await site.until(lambda claim: condition(claim, "Bound")[1] == "ProvidersSilent")
        assert "closed the connection (does it know our trust domain?)" in condition(claim, "Bound")[2]


# One session, many sellers.


@pytest.fixture
async def session(buyer: FixedIdentity) -> AsyncIterator[RearSession]:
    async with RearSession(buyer) as opened:
        yield opened


async def test_whoever_answers_first_is_the_seller_from_then_on(session: RearSession) -> None:
    first, second = RearSimulator("x", identity=gateway(X)), RearSimulator("x", identity=gateway(Y))
    async with first.serve():
        one = RearProvider(session, first.address, seconds=2)
        assert one.seller is None
        await one.sensors(())
        assert str(one.seller) == SELLER_X
    second.address = first.address
    async with second.serve():
        with pytest.raises(ProviderSilent, match=f"the peer is {SELLER_Y}, expected {SELLER_X}"):
            await one.end("contract")
        assert second.asked == []
        other = RearProvider(session, second.address, seconds=2)
        await other.sensors(())
        assert str(other.seller) == SELLER_Y


async def test_sellers_are_kept_apart_and_their_number_is_bounded(session: RearSession) -> None:
    names = [X.trust_domain.spiffe_id("manager", f"g{number}") for number in range(MAX_SELLERS + 10)]
    contexts = [session.tls(name) for name in names]
    assert len({id(each) for each in contexts}) == len(names)
    assert session.tls(names[-1]) is contexts[-1]
    assert session.tls(names[0]) is not contexts[0]


async def test_a_handshake_that_hangs_is_left_in_time(session: RearSession) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    mute = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with mute:
        host, port = mute.sockets[0].getsockname()
        with pytest.raises(ProviderSilent, match=r"no answer within 0\.2 s"):
            await RearProvider(session, f"{host}:{port}", seconds=0.2).sensors(())
    slow = RearSimulator("slow", identity=gateway(X))
    slow.faults["*"] = hang
    async with slow.serve():
        with pytest.raises(ProviderSilent, match=r"no answer within 0\.2 s"):
            await RearProvider(session, slow.address, seconds=0.2).sensors(())
