"""The issuer as a process: killed, doubled, succeeded by itself, and federated with another."""

import asyncio
import random
import sys
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from crds.kube.process import settings_of
from scripts.testbed.cluster import Cluster
from spire.domain.bundle import to_pem
from spire.domain.spiffe_id import TrustDomain
from spire.domain.svid import verify_svid
from spire.issuer.settings import IssuerSettings
from tests.spire.issuer.federating import Domain
from tests.spire.issuer.running import AUDIENCE, Issuer, csr_for, issuer_on

KEY = ec.generate_private_key(ec.SECP256R1())
CSR = csr_for(KEY)


@pytest.fixture
def token(cluster: Cluster) -> str:
    return cluster.service_account_token("fluidos", "router-manager", audience=AUDIENCE)


async def _until(true: Callable[[], bool], *, limit: float = 30.0) -> None:
    async with asyncio.timeout(limit):
        while True:
            if true():
                return
            await asyncio.sleep(0.05)


def _federate(cluster: Cluster, namespace: str, **peers: Mapping[str, object]) -> None:
    data = {name.replace("_", "."): orjson.dumps(peer).decode() for name, peer in peers.items()}
    metadata = {"name": "fluidos-edge-federation", "namespace": namespace}
    cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}])


async def test_an_issuer_that_is_killed_again_and_again_stays_the_same(
    cluster: Cluster, tmp_path: Path, namespace: str
) -> None:
    peer = Domain(TrustDomain("b.example"))
    _federate(cluster, namespace, b_example={"trustDomainBundle": to_pem(peer.bundle.roots)})
    dice = random.Random(4)  # noqa: S311 - when to kill
    async with issuer_on(cluster, tmp_path, namespace=namespace) as issuer:
        roots = issuer.roots
        for _ in range(4):
            issuer.kill()
            issuer.start()
            await asyncio.sleep(dice.uniform(0.5, 2.5))
        issuer.kill()
        issuer.bundle_file.unlink()
        issuer.start()
        await _until(issuer.bundle_file.exists)
        await issuer.answering()
        assert issuer.roots == roots
        await _until_known(issuer, peer)


async def _until_known(issuer: Issuer, *peers: Domain) -> None:
    expected = {issuer.trust_domain: issuer.roots} | {peer.name: peer.bundle.roots for peer in peers}
    async with asyncio.timeout(30):
        version = ""
        while True:
            answer = await issuer.call("GET", f"/v1/bundles?after={version}")
            version = answer.body["bundlesVersion"]
            if answer.bundles == expected:
                return


async def test_a_second_issuer_on_the_same_directory_says_so_and_ends(cluster: Cluster, tmp_path: Path) -> None:
    async with issuer_on(cluster, tmp_path) as issuer:
        second = Issuer(cluster, tmp_path, issuer.trust_domain)
        second.start()
        assert second.child is not None
        assert second.child.wait(limit=30) == 1
        assert "another issuer works on it" in second.child.tail()
        await issuer.answering()


async def test_two_issuers_on_the_same_secrets_are_one_authority(
    cluster: Cluster, tmp_path: Path, namespace: str
) -> None:
    async with (
        issuer_on(cluster, tmp_path / "1", in_secrets=True, namespace=namespace) as first,
        issuer_on(cluster, tmp_path / "2", in_secrets=True, namespace=namespace) as second,
    ):
        assert first.roots == second.roots
        assert (await first.call("GET", "/bundle")).body == (await second.call("GET", "/bundle")).body


async def test_an_issuer_keeps_its_keys_in_secrets_under_its_own_account(
    cluster: Cluster, tmp_path: Path, token: str
) -> None:
    secrets = "/api/v1/namespaces/fluidos/secrets"
    try:
        async with issuer_on(cluster, tmp_path, in_secrets=True) as issuer:
            roots = issuer.roots
            assert (await issuer.trade(token, CSR)).status == 200
        async with issuer_on(cluster, tmp_path, in_secrets=True) as issuer:
            assert issuer.roots == roots
    finally:
        cluster.api.request("DELETE", f"{secrets}/fluidos-edge-identity-authority")


async def test_an_authority_of_another_trust_domain_is_not_taken(cluster: Cluster, tmp_path: Path) -> None:
    async with issuer_on(cluster, tmp_path):
        pass
    other = Issuer(cluster, tmp_path, TrustDomain("other.example"))
    other.start()
    assert other.child is not None
    assert other.child.wait(limit=30) == 1
    assert "'a.example' is not valid, expected other.example" in other.child.tail()


async def test_connections_live_through_successions_and_every_svid_is_trusted_until_it_ends(
    cluster: Cluster, tmp_path: Path, token: str
) -> None:
    flags = ("--ca-seconds", "6", "--svid-seconds", "1")
    async with issuer_on(cluster, tmp_path, *flags) as issuer, issuer.session() as session:
        headers = {"Authorization": f"Bearer {token}"}
        seen: set[bytes] = set()
        held: list[bytes] = []
        verified = 0
        async with asyncio.timeout(60):
            while len(seen) < 4:
                async with session.post("/v1/workloads", data=CSR, headers=headers) as response:
                    assert response.status == 200
                    answer = await response.json()
                roots = tuple(b64decode(root) for root in answer["bundles"]["a.example"])
                assert 1 <= len(roots) <= 3
                seen.update(roots)
                bundles, now = {issuer.trust_domain: roots}, datetime.now(UTC)
                # On a busy machine the newest may have ended as well.
                held = [leaf for leaf in (*held, b64decode(answer["chain"][0])) if _still(leaf, now)]
                for leaf in held:
                    verify_svid([leaf], bundles=bundles, now=now)
                verified += len(held)
                await asyncio.sleep(0.2)
        assert verified
        # Whoever comes new needs the newest roots, which the file has.
        await issuer.answering()


def _still(leaf: bytes, now: datetime) -> bool:
    return x509.load_der_x509_certificate(leaf).not_valid_after_utc > now


async def test_two_trust_domains_follow_each_other(
    cluster: Cluster, tmp_path: Path, namespace: str, other_namespace: str
) -> None:
    flags = ("--ca-seconds", "18", "--svid-seconds", "3", "--refresh-hint-seconds", "5")
    async with (
        issuer_on(cluster, tmp_path / "a", *flags, namespace=namespace) as first,
        issuer_on(cluster, tmp_path / "b", *flags, trust_domain="b.example", namespace=other_namespace) as second,
    ):
        before = first.roots, second.roots
        for here, there in ((first, second), (second, first)):
            peer = {
                "bundleEndpointURL": f"{there.url}/bundle",
                "endpointSPIFFEID": f"spiffe://{there.trust_domain}/issuer",
                "trustDomainBundle": to_pem(there.roots),
            }
            _federate(cluster, here.namespace, **{str(there.trust_domain).replace(".", "_"): peer})
        for here, there, old in ((first, second, before[1]), (second, first, before[0])):
            async with asyncio.timeout(60):
                while True:
                    bundles = (await here.call("GET", "/v1/bundles")).bundles
                    if there.trust_domain in bundles and set(bundles[there.trust_domain]) - set(old):
                        break  # a root that nobody but its owner could tell
                    await asyncio.sleep(0.2)


async def test_an_api_server_that_is_away_puts_callers_off_and_takes_nothing_from_the_bundles(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start_cluster(controllers=False)
    token = cluster.service_account_token("fluidos", "router-manager", audience=AUDIENCE)
    async with issuer_on(cluster, tmp_path) as issuer:
        cluster.kill_apiserver()
        answer = await issuer.trade(token, CSR)
        assert (answer.status, answer.body["reason"]) == (503, "Unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await issuer.call("GET", "/bundle")).status == 200
        # One that starts now knows its keys, too.
        issuer.kill()
        issuer.start()
        await issuer.answering()
        await asyncio.to_thread(cluster.restart_apiserver)
        async with asyncio.timeout(30):
            while True:
                if (await issuer.trade(token, CSR)).status == 200:
                    break
                await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--trust-domain", "Not One"], "--trust-domain: 'Not One' is not valid"),
        ([], "--trust-domain: it is required"),
        (["--trust-domain", "a", "--ca-seconds", "3600"], "--svid-seconds"),
        (["--trust-domain", "a", "--ca-seconds", "60", "--svid-seconds", "11"], "expected at most 10"),
    ],
)
def test_a_wrong_flag_is_named(
    flags: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["issuer", *flags])
    with pytest.raises(SystemExit):
        settings_of(IssuerSettings)
    assert told in capsys.readouterr().err
