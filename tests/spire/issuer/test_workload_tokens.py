"""Tokens of a real API server, traded at a real issuer that runs under its own account."""

import asyncio
import time
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from scripts.testbed.cluster import Cluster
from spire.domain.svid import verify_svid
from tests.spire.issuer.running import AUDIENCE, Issuer, csr_for, issuer_on

KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
async def issuer(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Issuer]:
    async with issuer_on(cluster, tmp_path_factory.mktemp("issuer")) as running:
        yield running


@pytest.fixture
def account(cluster: Cluster) -> str:
    """A ServiceAccount of a user, in the default namespace."""
    name = f"user-{uuid.uuid4().hex[:8]}"
    cluster.apply([_account(name, labels={"edge.fluidos.eu/endpoint": "true"})])
    return name


def _account(name: str, *, labels: dict[str, str], namespace: str = "default") -> dict[str, object]:
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def _token(cluster: Cluster, namespace: str, name: str, *, node: str | None = None, audience: str = AUDIENCE) -> str:
    return cluster.service_account_token(namespace, name, node=node, audience=audience)


async def test_a_manager_gets_its_svid_and_all_bundles(issuer: Issuer, cluster: Cluster) -> None:
    answer = await issuer.trade(_token(cluster, "fluidos", "rear-gateway"), csr_for(KEY))
    assert answer.status == 200, answer
    spiffe_id = verify_svid(answer.chain, bundles=answer.bundles, now=datetime.now(UTC))
    assert str(spiffe_id) == answer.body["spiffeID"] == "spiffe://a.example/manager/rear-gateway"
    assert answer.bundles[issuer.trust_domain] == issuer.roots
    leaf = x509.load_der_x509_certificate(answer.chain[0])
    assert leaf.public_key() == KEY.public_key()
    assert leaf.subject.rfc4514_string() == "CN=manager.rear-gateway"
    left = datetime.fromisoformat(answer.body["expiresAt"]) - datetime.now(UTC)
    assert timedelta(minutes=58) < left <= timedelta(hours=1)


async def test_a_relay_is_the_relay_of_its_node(issuer: Issuer, cluster: Cluster) -> None:
    node = f"edge-{uuid.uuid4().hex[:8]}"
    cluster.add_node(node)
    answer = await issuer.trade(_token(cluster, "fluidos", "relay", node=node), csr_for(KEY))
    assert answer.body["spiffeID"] == f"spiffe://a.example/relay/{node}"


async def test_a_relay_without_a_node_is_nobody(issuer: Issuer, cluster: Cluster) -> None:
    answer = await issuer.trade(_token(cluster, "fluidos", "relay"), csr_for(KEY))
    assert (answer.status, answer.body["reason"]) == (403, "NotEntitled")


async def test_an_endpoint_is_who_its_label_says(issuer: Issuer, cluster: Cluster, account: str) -> None:
    token = _token(cluster, "default", account)
    answer = await issuer.trade(token, csr_for(KEY))
    assert answer.body["spiffeID"] == f"spiffe://a.example/endpoint/default/{account}"

    cluster.apply([_account(account, labels={"edge.fluidos.eu/endpoint": "false"})])
    answer = await issuer.trade(token, csr_for(KEY))
    assert (answer.status, answer.body["reason"]) == (403, "NotEntitled")


async def test_the_name_of_one_of_ours_in_another_namespace_is_worth_nothing(issuer: Issuer, cluster: Cluster) -> None:
    cluster.apply([_account("rear-gateway", labels={})])
    answer = await issuer.trade(_token(cluster, "default", "rear-gateway"), csr_for(KEY))
    assert (answer.status, answer.body["reason"]) == (403, "NotEntitled")


async def test_a_token_for_another_audience_is_refused(issuer: Issuer, cluster: Cluster) -> None:
    answer = await issuer.trade(_token(cluster, "fluidos", "rear-gateway", audience="vault"), csr_for(KEY))
    assert (answer.status, answer.body["reason"]) == (401, "NotAuthenticated")
    answer = await issuer.trade(cluster.service_account_token("fluidos", "rear-gateway"), csr_for(KEY))
    assert (answer.status, answer.body["reason"]) == (401, "NotAuthenticated")


async def test_a_token_is_refused_once_its_account_is_gone(issuer: Issuer, cluster: Cluster, account: str) -> None:
    token = _token(cluster, "default", account)
    cluster.api.request("DELETE", f"/api/v1/namespaces/default/serviceaccounts/{account}")
    async with asyncio.timeout(30):  # the API server remembers tokens for some seconds
        while (answer := await issuer.trade(token, csr_for(KEY))).status != 401:
            assert answer.status == 403
            await asyncio.sleep(0.5)


async def test_an_expired_token_is_refused(issuer: Issuer, cluster: Cluster) -> None:
    fresh = _token(cluster, "fluidos", "rear-gateway")
    assert (await issuer.trade(_resigned(cluster, fresh, ago=timedelta()), csr_for(KEY))).status == 200
    answer = await issuer.trade(_resigned(cluster, fresh, ago=timedelta(days=2)), csr_for(KEY))
    assert (answer.status, answer.body["reason"]) == (401, "NotAuthenticated")
    assert "expired" in answer.body["message"]


def _resigned(cluster: Cluster, token: str, *, ago: timedelta) -> str:
    """The same token as the API server would have made it some time ago."""
    header, payload, _ = token.split(".")
    claims = orjson.loads(urlsafe_b64decode(payload + "=="))
    for name in ("exp", "iat", "nbf"):
        claims[name] -= int(ago.total_seconds())
    signed = f"{header}.{_base64url(orjson.dumps(claims))}"
    key = load_pem_private_key((cluster.kubeconfig.parent / "service-accounts.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é", "x" * 6000])
async def test_what_is_no_token_is_refused(issuer: Issuer, token: str) -> None:
    answer = await issuer.trade(token, csr_for(KEY))
    assert (answer.status, answer.body["reason"]) == (401, "NotAuthenticated")


async def test_a_call_without_a_token_is_refused(issuer: Issuer) -> None:
    answer = await issuer.call("POST", "/v1/workloads", body=csr_for(KEY))
    assert (answer.status, answer.body["reason"]) == (401, "NotAuthenticated")


async def test_names_in_a_request_are_ignored(issuer: Issuer, cluster: Cluster) -> None:
    csr = csr_for(KEY, name="manager.flash-controller", uri="spiffe://a.example/issuer")
    answer = await issuer.trade(_token(cluster, "fluidos", "router-manager"), csr)
    leaf = x509.load_der_x509_certificate(answer.chain[0])
    assert str(verify_svid(answer.chain, bundles=answer.bundles, now=datetime.now(UTC))).endswith("/router-manager")
    assert leaf.subject.rfc4514_string() == "CN=manager.router-manager"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://a.example/manager/router-manager"]


async def test_a_request_for_a_key_that_the_caller_does_not_hold_is_refused(issuer: Issuer, cluster: Cluster) -> None:
    form = (Encoding.X962, PublicFormat.UncompressedPoint)
    victim = ec.generate_private_key(ec.SECP256R1()).public_key()
    csr = csr_for(KEY).replace(KEY.public_key().public_bytes(*form), victim.public_bytes(*form))
    answer = await issuer.trade(_token(cluster, "fluidos", "router-manager"), csr)
    assert (answer.status, answer.body["reason"]) == (400, "BadSignature")


@pytest.mark.parametrize("csr", [b"", b"hello", csr_for(KEY)[:-1], csr_for(KEY) + b"\x00"])
async def test_a_request_that_is_none_is_refused(issuer: Issuer, cluster: Cluster, csr: bytes) -> None:
    answer = await issuer.trade(_token(cluster, "fluidos", "router-manager"), csr)
    assert (answer.status, answer.body["reason"]) == (400, "Malformed")


async def test_a_body_that_is_too_large_is_refused(issuer: Issuer, cluster: Cluster) -> None:
    answer = await issuer.trade(_token(cluster, "fluidos", "router-manager"), bytes(1 << 20))
    assert answer.status == 413


async def test_a_waiting_caller_is_answered_when_bundles_change_and_not_before(
    issuer: Issuer, cluster: Cluster
) -> None:
    version = (await issuer.call("GET", "/v1/bundles")).body["bundlesVersion"]
    waiting = asyncio.create_task(issuer.call("GET", f"/v1/bundles?after={version}"))
    assert (await issuer.call("GET", "/v1/bundles?after=other")).body["bundlesVersion"] == version
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_the_roots_are_published(issuer: Issuer, cluster: Cluster) -> None:
    path = "/api/v1/namespaces/fluidos/configmaps/fluidos-edge-trust-bundle"
    async with asyncio.timeout(20):
        while True:
            published = cluster.api.request("GET", path)["data"] if cluster.api.exists(path) else {}
            if published == {"bundle.pem": issuer.bundle_file.read_text()}:
                break
            await asyncio.sleep(0.05)


async def test_a_flood_is_bounded_and_others_are_served_after_it(issuer: Issuer, cluster: Cluster) -> None:
    token, csr = _token(cluster, "fluidos", "router-manager"), csr_for(KEY)
    answers: list[int] = []
    begun = time.monotonic()
    async with issuer.session(connections=20) as session:

        async def ask(times: int) -> None:
            for _ in range(times):
                headers = {"Authorization": f"Bearer {token}"}
                async with session.post("/v1/workloads", data=csr, headers=headers) as response:
                    answers.append(response.status)

        await asyncio.gather(*(ask(500) for _ in range(20)))
    seconds = time.monotonic() - begun
    assert set(answers) <= {200, 429, 503}
    assert 1 <= answers.count(200) <= 200 + 20 * seconds + 1
    async with asyncio.timeout(10):
        while True:
            if (await issuer.trade(token, csr)).status == 200:
                break
            await asyncio.sleep(0.1)


async def test_connections_that_ask_nothing_are_cut(issuer: Issuer) -> None:
    plain, plain_writer = await asyncio.open_connection("127.0.0.1", issuer.port)
    secured, writer = await asyncio.open_connection("127.0.0.1", issuer.port, ssl=issuer.context())
    async with asyncio.timeout(40):
        assert await plain.read() == b""
        assert await secured.read() == b""
    plain_writer.close()
    writer.close()
