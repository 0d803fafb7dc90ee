"""The gateway over mutual TLS: a buyer is who it proves to be, and what is another's does not exist."""

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from crds.annotations import BUYER_SPIFFE_ID, INSECURE, SIGNATURE
from crds.errors import Terminal
from edge_resource_manager.domain.signature import verify
from scripts.testbed.cluster import Cluster
from spire.identity import FixedIdentity, Identity
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Provider, running
from tests.edge_resource_manager.gateway.parties import (
    BUYER,
    CONFIGURATION,
    GATEWAY,
    ONE,
    SELLER,
    STRANGER,
    TWO,
    annotations_of,
    bought,
    buyer,
)
from tests.spire.pki import bundles_of


async def test_a_buyer_is_who_it_proves_to_be_and_not_what_it_says(
    one: Provider, two: Provider, namespace: str
) -> None:
    (flavor,) = await one.offer(samples.flavor("a", namespace=namespace))
    first, second = [(await each.reserve(flavor, buyer_id="the-same")).json for each in (one, two)]
    assert first["transactionID"] != second["transactionID"]
    # Whoever says another name is the same buyer all the same: its reservation is renewed.
    renewed = await one.reserve(flavor, buyer_id="another-name")
    assert renewed.json["transactionID"] == first["transactionID"]
    assert renewed.json["buyer"]["ID"] == "another-name"
    contract = await one.purchase(first["transactionID"])
    assert contract.status == 200
    proven = {BUYER_SPIFFE_ID: "spiffe://consumer-1/manager/edge-resource-manager"}
    (sold,) = annotations_of(one, "contracts", namespace)
    assert proven.items() <= sold.items()
    assert proven in annotations_of(one, "transactions", namespace)
    assert INSECURE not in sold


async def test_what_is_another_buyers_does_not_exist(one: Provider, two: Provider, namespace: str) -> None:
    (flavor,) = await one.offer(samples.flavor("a", namespace=namespace))
    transaction = (await one.reserve(flavor)).json["transactionID"]
    unknown = (await two.purchase("0" * 32)).json["detail"].replace("0" * 32, transaction)
    for attempt in (two.purchase(transaction), two.ask("DELETE", f"/transactions/{transaction}")):
        answer = await attempt
        assert answer.status == 404
        assert answer.json["detail"] == unknown
    contract = (await one.purchase(transaction)).json["contractID"]
    path = f"/contracts/{contract}"
    stored = one.objects("contracts", namespace)
    for attempt in (
        two.get(path),
        two.ask("DELETE", path),
        two.ask("PUT", f"{path}/configuration", json=CONFIGURATION),
        two.purchase(transaction),
    ):
        assert (await attempt).status == 404
    assert one.objects("contracts", namespace) == stored
    assert (await one.get(path)).status == 200
    assert (await one.ask("PUT", f"{path}/configuration", json=CONFIGURATION)).status == 200
    assert (await one.ask("DELETE", path)).status == 204


async def test_other_workloads_of_a_buyers_cluster_look_and_do_not_buy(secured: Provider, namespace: str) -> None:
    (flavor,) = await secured.offer(samples.flavor("a", namespace=namespace))
    for path in ("/endpoint/default/sink", "/device/0100112233445566/app/x", f"{BUYER}s", "/manager/router-manager"):
        workload = secured.to(buyer(ONE, path))
        assert (await workload.get(f"/flavors/sensors/{flavor}")).status == 200
        answer = await workload.reserve(flavor)
        assert answer.status == 403
        assert f"the peer is spiffe://consumer-1{path}" in answer.json["detail"]


@pytest.mark.parametrize(
    "source",
    [
        lambda: buyer(STRANGER),
        # Known roots, but not those of the domain that the ID is of: a pool of roots would take it.
        lambda: FixedIdentity(
            Identity(svid=TWO.svid(BUYER, trust_domain=ONE.trust_domain), bundles=bundles_of(ONE, SELLER))
        ),
        lambda: FixedIdentity(
            Identity(svid=ONE.svid(BUYER, not_after=datetime.now(UTC)), bundles=bundles_of(ONE, SELLER))
        ),
    ],
    ids=["unknown", "signed-by-another-domain", "expired"],
)
async def test_who_cannot_prove_who_it_is_is_answered_nothing(
    secured: Provider, source: Callable[[], FixedIdentity]
) -> None:
    with pytest.raises(aiohttp.ClientError):
        await secured.to(source()).get("/openapi.json")


async def test_a_client_without_a_certificate_is_answered_nothing(secured: Provider) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secured.tls = context
    with pytest.raises(aiohttp.ClientError):
        await secured.get("/openapi.json")


async def test_plain_http_on_the_port_of_tls_is_answered_nothing_and_harms_nobody(
    secured: Provider, one: Provider
) -> None:
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        async with secured.http.get(secured.url.replace("https", "http") + "/flavors"):
            pass
    assert (await one.get("/openapi.json")).status == 200


async def test_a_trust_domain_that_is_known_no_more_is_out_also_where_it_is_connected(
    provider_cluster: Cluster, identity: FixedIdentity, one: Provider, secured: Provider
) -> None:
    secured.gateway.rear.heartbeat_seconds = 0.1
    async with secured.http.get(f"{one.url}/flavors/sensors/events", ssl=one.tls) as stream:
        await stream.content.readline()
        assert (await one.get("/flavors/sensors")).status == 200
        identity.replace(SELLER.identity(GATEWAY, knows=(TWO,)))
        assert (await one.get("/flavors/sensors")).status == 403  # the connection of before
        async with asyncio.timeout(10):
            while await stream.content.readline():
                pass
    with pytest.raises(aiohttp.ClientError):
        await secured.to(buyer(ONE)).get("/flavors/sensors")


async def test_contracts_are_signed_as_they_are_sent_and_stored(
    one: Provider, identity: FixedIdentity, namespace: str
) -> None:
    (flavor,) = await one.offer(samples.flavor("a", namespace=namespace))

    def signer(contract: dict[str, Any]) -> str:
        (stored,) = annotations_of(one, "contracts", namespace)
        assert contract["signature"] == stored[SIGNATURE]
        bundles = bundles_of(SELLER)
        return str(verify(contract["signature"], contract, bundles=bundles, now=datetime.now(UTC)))

    seller = f"spiffe://provider{GATEWAY}"
    contract = await bought(one, flavor, filter={"maxPerSecond": 1})
    assert signer(contract) == seller
    path = f"/contracts/{contract['contractID']}"
    assert (await one.get(path)).json == contract
    wanted = samples.configuration(url="https://192.0.2.9/new")
    changed = (await one.ask("PUT", f"{path}/configuration", json=wanted)).json
    assert changed["signature"] != contract["signature"]
    assert signer(changed) == seller
    # A buyer that asks again after the SVID of then has ended has something that it can check today.
    again = (await one.purchase(contract["transactionID"])).json
    assert again == changed
    identity.replace(SELLER.identity(GATEWAY, knows=(ONE, TWO)))
    renewed = (await one.purchase(contract["transactionID"])).json
    assert renewed["signature"] != changed["signature"]
    assert signer(renewed) == seller
    assert {**renewed, "signature": ""} == {**changed, "signature": ""}


async def test_a_key_that_signs_no_contract_is_told_at_the_start(provider_cluster: Cluster) -> None:
    key = rsa.generate_private_key(65537, 2048)
    identity = FixedIdentity(Identity(svid=SELLER.svid(GATEWAY, key=key), bundles=bundles_of(SELLER)))
    with pytest.raises(Terminal, match="EC or Ed25519"):
        async with running(provider_cluster, identity=identity):
            pass


async def test_without_identities_nothing_is_proven_and_every_object_says_so(
    provider: Provider, namespace: str
) -> None:
    (flavor,) = await provider.offer(samples.flavor("a", namespace=namespace))
    contract = await bought(provider, flavor)
    assert "signature" not in contract
    for plural in ("transactions", "contracts"):
        assert annotations_of(provider, plural, namespace) == [{INSECURE: "true"}]


async def test_what_was_bought_with_proof_is_out_of_reach_without(
    provider_cluster: Cluster, identity: FixedIdentity, namespace: str
) -> None:
    flavor = samples.flavor("a", namespace=namespace)
    async with running(provider_cluster, identity=identity) as before:
        await before.offer(flavor)
        contract = await bought(before.to(buyer(ONE)), flavor["metadata"]["name"])
    async with running(provider_cluster) as insecure:
        assert (await insecure.get(f"/contracts/{contract['contractID']}")).status == 404
        assert (await insecure.purchase(contract["transactionID"])).status == 404
