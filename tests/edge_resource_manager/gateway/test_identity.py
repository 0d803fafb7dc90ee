"""The gateway over mutual TLS: a buyer is who it proves to be, and what is another's does not exist."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from crds.annotations import BUYER_SPIFFE_ID, INSECURE, SIGNATURE
from crds.errors import Terminal
from edge_resource_manager.domain.signature import verify
from scripts.testbed.cluster import Cluster
from spire.domain.authorization import any_known
from spire.identity import FixedIdentity, Identity
from spire.tls import client_context
from tests.edge_resource_manager.gateway import samples
from tests.edge_resource_manager.gateway.conftest import Answer, Provider, eventually, running
from tests.spire.pki import Ca, bundles_of

SELLER, ONE, TWO, STRANGER = Ca.of("provider"), Ca.of("consumer-1"), Ca.of("consumer-2"), Ca.of("stranger")
CONFIGURATION = samples.configuration(url=samples.SECURE_TARGET)
GATEWAY, BUYER = "/manager/rear-gateway", "/manager/edge-resource-manager"


def buyer(authority: Ca, path: str = BUYER) -> FixedIdentity:
    return FixedIdentity(authority.identity(path, knows=(SELLER,)))


@pytest.fixture
def identity() -> FixedIdentity:
    return FixedIdentity(SELLER.identity(GATEWAY, knows=(ONE, TWO)))


@pytest.fixture
async def secured(provider_cluster: Cluster, identity: FixedIdentity) -> AsyncIterator[Provider]:
    async with running(provider_cluster, identity=identity) as started:
        yield started


@pytest.fixture
def one(secured: Provider) -> Provider:
    return secured.to(buyer(ONE))


@pytest.fixture
def two(secured: Provider) -> Provider:
    return secured.to(buyer(TWO))


async def bought(provider: Provider, flavor: str, **changed: Any) -> dict[str, Any]:
    reserved = await provider.reserve(flavor, **changed)
    assert reserved.status == 200, reserved.json
    answer = await provider.purchase(reserved.json["transactionID"])
    assert answer.status == 200, answer.json
    contract: dict[str, Any] = answer.json
    return contract


def annotations(provider: Provider, plural: str, namespace: str) -> list[dict[str, str]]:
    return [each["metadata"].get("annotations", {}) for each in provider.objects(plural, namespace)]


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
    (sold,) = annotations(one, "contracts", namespace)
    assert proven.items() <= sold.items()
    assert proven in annotations(one, "transactions", namespace)
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
        (stored,) = annotations(one, "contracts", namespace)
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
        assert annotations(provider, plural, namespace) == [{INSECURE: "true"}]


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


# The policy on buyers.


@asynccontextmanager
async def policy(provider: Provider, text: str) -> AsyncIterator[None]:
    """A ConfigMap for a while; waits until the gateway obeys it by the flavors that `consumer-1` sees."""
    path = "/api/v1/namespaces/fluidos/configmaps/fluidos-edge-buyers"
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "fluidos-edge-buyers", "namespace": "fluidos"},
        "data": {"policy.yaml": text},
    }
    provider.cluster.apply([document])
    try:
        yield
    finally:
        if provider.cluster.api.exists(path):
            provider.cluster.api.request("DELETE", path)


def rule(trust_domain: str, may: str, *, node: str | None = None) -> str:
    selector = f', selector: \'device.attributes["sensor.fluidos.eu"].node == "{node}"\'' if node else ""
    return f"- {{trustDomains: [{trust_domain}], may: {may}{selector}}}\n"


async def seen(provider: Provider, flavor: str) -> bool:
    return (await provider.get(f"/flavors/sensors/{flavor}")).status == 200


async def test_who_may_see_may_not_buy_and_who_may_not_see_finds_nothing(
    secured: Provider, one: Provider, two: Provider, namespace: str
) -> None:
    (flavor,) = await secured.offer(samples.flavor("a", namespace=namespace))
    async with policy(secured, f"rules:\n{rule('consumer-1', 'See', node=namespace)}"):

        async def obeyed() -> bool:
            return not await seen(two, flavor)

        await eventually(obeyed, "the policy holds")
        assert await seen(one, flavor)
        query = {"filter[node][match]": namespace}
        assert [each["flavorID"] for each in (await one.get("/flavors/sensors", **query)).json] == [flavor]
        hidden = await two.get("/flavors/sensors", **query)
        assert hidden.json == []
        assert hidden.headers["Total-Count"] == "0"
        refused = await one.reserve(flavor)
        assert refused.status == 403
        assert "consumer-1 may not buy" in refused.json["detail"]
        assert (await two.reserve(flavor)).status == 404
        missing = await two.get("/flavors/sensors/none")
        assert (await two.get(f"/flavors/sensors/{flavor}")).json["detail"] == missing.json["detail"].replace(
            "none", flavor
        )
        assert secured.objects("transactions", namespace) == []

    async def open_again() -> bool:
        return await seen(two, flavor)

    await eventually(open_again, "without a policy everybody sees")
    assert (await two.reserve(flavor)).status == 200


async def test_other_types_are_for_whom_a_rule_without_selector_names(
    secured: Provider, one: Provider, two: Provider, namespace: str
) -> None:
    (name,) = await secured.offer(samples.flavor("x", namespace=namespace, kind="K8Slice", data=samples.K8SLICE))

    def listed(answer: Answer) -> bool:
        return name in {each["flavorID"] for each in answer.json or ()}

    async with policy(secured, f"rules:\n{rule('consumer-1', 'Buy')}{rule('consumer-2', 'Buy', node=namespace)}"):

        async def obeyed() -> bool:
            return not listed(await two.get("/flavors"))

        await eventually(obeyed, "the policy holds")
        for path in ("/flavors", "/flavors/k8slice"):
            assert listed(await one.get(path))
            assert not listed(await two.get(path))


async def test_a_policy_that_turns_against_a_buyer_leaves_it_its_contract_until_the_end_of_its_time(
    secured: Provider, one: Provider, two: Provider, namespace: str
) -> None:
    (flavor,) = await secured.offer(samples.flavor("a", namespace=namespace))
    contract = await bought(one, flavor)
    reserved = (await one.reserve(flavor, claim="another")).json["transactionID"]
    async with policy(secured, "rules: []"):

        async def obeyed() -> bool:
            return not await seen(two, flavor)

        await eventually(obeyed, "the policy holds")
        path = f"/contracts/{contract['contractID']}"
        assert await seen(one, flavor)
        assert (await one.get(path)).status == 200
        assert (await one.reserve(flavor)).json["transactionID"] == contract["transactionID"]
        # But no more of it, and no longer.
        assert (await one.purchase(reserved)).status == 409
        assert (await one.reserve(flavor, claim="third")).status == 404
        assert (await one.ask("PUT", f"{path}/configuration", json=CONFIGURATION)).status == 403
        assert (await one.ask("DELETE", path)).status == 204
        assert not await seen(one, flavor)


async def test_events_tell_each_trust_domain_what_it_may_see(
    secured: Provider, one: Provider, two: Provider, namespace: str
) -> None:
    open_to_both = f"rules:\n{rule('consumer-1', 'Buy')}{rule('consumer-2', 'See', node='shared')}"
    flavor = samples.named("a", namespace)

    async def told(provider: Provider) -> list[str]:
        """Types of events about the flavor, until it is withdrawn for all."""
        events: list[str] = []
        async with (
            asyncio.timeout(20),
            provider.http.get(f"{provider.url}/flavors/sensors/events", ssl=provider.tls) as stream,
        ):
            async for line in stream.content:
                event = orjson.loads(line)
                name = event.get("flavorID") or event.get("flavor", {}).get("flavorID")
                if name == flavor:
                    events.append(event["type"])
                if name == samples.named("end", namespace):
                    return events
        raise AssertionError(events)

    def sensor(name: str, *, node: str) -> dict[str, Any]:
        made = samples.sensor(name, namespace=namespace)
        made["spec"]["flavorType"]["typeData"]["characteristics"]["node"] = node
        return made

    async with policy(secured, open_to_both):

        async def obeyed() -> bool:
            slices = await two.get("/flavors/sensors", **{"filter[node][match]": "own"})
            return bool(slices.json == [])

        await eventually(obeyed, "the policy holds")
        listeners = [asyncio.create_task(told(each)) for each in (one, two)]
        await eventually(lambda: len(secured.gateway.hub) == 2, "both listen")
        for node in ("own", "shared", "own"):
            await secured.offer(sensor("a", node=node))
        await secured.offer(sensor("end", node="shared"))
        assert await listeners[0] in (["REFRESH"], ["REFRESH"] * 2, ["REFRESH"] * 3)
        assert await listeners[1] in (["REFRESH", "WITHDRAW"], ["WITHDRAW"])


async def test_streams_end_when_the_policy_changes(secured: Provider, one: Provider) -> None:
    async with one.http.get(f"{one.url}/flavors/sensors/events", ssl=one.tls) as stream:
        await stream.content.readline()
        async with policy(secured, f"rules:\n{rule('consumer-1', 'See')}"), asyncio.timeout(20):
            while await stream.content.readline():
                pass


# What strangers can hold open, and what honest ones do not notice.


async def test_handshakes_that_never_end_take_no_place_from_honest_ones(secured: Provider, one: Provider) -> None:
    secured.gateway.guard.max_handshakes = 8
    host, port = secured.url.removeprefix("https://").split("/")[0].split(":")
    slow = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
    for number in range(5):
        assert (await secured.to(buyer(ONE)).get("/openapi.json")).status == 200, number

    async def ended(reader: asyncio.StreamReader) -> bool:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                return await reader.read() == b""
        return False

    cut = [await ended(reader) for reader, _ in slow[:30]]
    assert all(cut)
    for _, writer in slow:
        writer.close()


async def test_a_handshake_has_its_time(provider_cluster: Cluster, identity: FixedIdentity) -> None:
    async with running(provider_cluster, identity=identity) as secured:
        secured.gateway.guard.handshake_seconds = 0.3
        host, port = secured.url.removeprefix("https://").split("/")[0].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01\x02\x00")  # the beginning of a ClientHello
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        assert (await secured.to(buyer(ONE)).get("/openapi.json")).status == 200


async def test_a_rotation_under_load_drops_nothing(
    provider_cluster: Cluster, secured: Provider, identity: FixedIdentity
) -> None:
    source = buyer(ONE)
    client = secured.to(source)
    leaves: set[int] = set()
    done = 0

    async def load() -> None:
        nonlocal done
        for _ in range(100):
            async with client.http.get(f"{client.url}/flavors/sensors", ssl=client.tls) as response:
                assert response.status == 200
                await response.read()
            done += 1

    async with client.http.get(f"{client.url}/flavors/sensors/events", ssl=client.tls) as stream:
        await stream.content.readline()
        working = [asyncio.create_task(load()) for _ in range(3)]
        for number in range(1, 6):
            await eventually(lambda: done >= 50 * number, "under load")  # noqa: B023 - waited for at once
            identity.replace(SELLER.identity(GATEWAY, knows=(ONE, TWO)))
            source.replace(ONE.identity(BUYER, knows=(SELLER,)))
            # New connections show what is new.
            fresh = client_context(source, authorize=any_known())
            leaves.add(await asyncio.to_thread(_serial, client.url, fresh))
        await asyncio.gather(*working)
        secured.gateway.rear.heartbeat_seconds = 0.05
        assert await stream.content.readline()
    assert len(leaves) == 5
    assert done == 300


def _serial(url: str, context: ssl.SSLContext) -> int:
    """Of the certificate that the gateway shows."""
    host, port = url.removeprefix("https://").split("/")[0].split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain, context.wrap_socket(plain) as secured:
        der = secured.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number
