"""Helper and issuer as processes on a real API server: from a ServiceAccount's token to mutual TLS."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509

from crds.kube.process import settings_of
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import Child
from spire.domain.authorization import exactly
from spire.domain.spiffe_id import SpiffeId
from spire.identity import Identity, IdentitySource
from spire.tls import client_context
from spire.workload import IdentitySettings, identity_of
from tests.spire.test_workload import becomes, told

ROOT = Path(__file__).parents[2]
ISSUER = SpiffeId.parse("spiffe://site-a.test/issuer")


@pytest.fixture
def issuer(cluster: Cluster, tmp_path: Path) -> Iterator[Child]:
    config = cluster.service_account_kubeconfig("fluidos", "identity-issuer")
    flags = [
        f"--kubeconfig={config}",
        "--trust-domain=site-a.test",
        "--listen=127.0.0.1:0",
        f"--state-dir={tmp_path / 'issuer'}",
        f"--bundle-file={tmp_path / 'bundle.pem'}",
        "--ca-seconds=18",
        "--svid-seconds=3",
    ]
    child = Child(name="issuer", command=[sys.executable, "-m", "spire.issuer", *flags], directory=ROOT, logs=tmp_path)
    with child:
        child.wait_until(lambda: url_of(child) is not None and (tmp_path / "bundle.pem").exists(), what="serving")
        yield child


@pytest.fixture
def helper(cluster: Cluster, issuer: Child, tmp_path: Path) -> Iterator[Child]:
    cluster.add_node("edge-1")
    flags = [f"--issuer={url_of(issuer)}", f"--bundle-file={tmp_path / 'bundle.pem'}"]
    for account, node in (("relay", "edge-1"), ("rear-gateway", None), ("default", None)):
        token = tmp_path / f"token-{account}"
        token.write_text(cluster.service_account_token("fluidos", account, node=node, audience="fluidos-edge-issuer"))
        flags.append(f"--workload=name={account},token-file={token},socket={socket_of(tmp_path, account)}")
    with Child(
        name="helper", command=[sys.executable, "-m", "spire.helper", *flags], directory=ROOT, logs=tmp_path
    ) as child:
        yield child


def url_of(child: Child) -> str | None:
    lines = [json.loads(line) for line in child.log.read_text().splitlines() if line.startswith("{")]
    return next((line["url"] for line in lines if line["event"] == "listening"), None)


def socket_of(folder: Path, account: str) -> Path:
    return folder / account / "workload.sock"


class Workload:
    """A process as ours are, by its flags."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._patch = patch

    def settings(self, account: str, *flags: str) -> IdentitySettings:
        self._patch.setattr(sys, "argv", ["x", f"--identity-socket={socket_of(self._folder, account)}", *flags])
        return settings_of(IdentitySettings)


@pytest.fixture
async def gateway(helper: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IdentitySource]:
    async with identity_of(Workload(tmp_path, monkeypatch).settings("rear-gateway")) as source:
        assert source is not None
        yield source


@pytest.mark.control_plane
async def test_accounts_get_their_ids_and_renewals_and_others_a_refusal(
    gateway: IdentitySource, issuer: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = Workload(tmp_path, monkeypatch)
    assert str(gateway.current.svid.spiffe_id) == "spiffe://site-a.test/manager/rear-gateway"
    async with identity_of(workload.settings("relay")) as relay:
        assert relay is not None
        assert str(relay.current.svid.spiffe_id) == "spiffe://site-a.test/relay/edge-1"
    await told(workload.settings("default", "--identity-wait-seconds=0.5"), "PERMISSION_DENIED")
    first = gateway.current.svid
    await becomes(gateway, lambda identity: identity.svid != first)
    context = client_context(gateway, authorize=exactly(ISSUER))
    assert await bundle_by(issuer, context)
    foreign = client_context(gateway, authorize=exactly(gateway.current.svid.spiffe_id))
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await bundle_by(issuer, foreign)


async def bundle_by(issuer: Child, context: ssl.SSLContext) -> list[object]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{url_of(issuer)}/bundle", ssl=context) as response,
    ):
        keys: list[object] = (await response.json())["keys"]
        return keys


@pytest.mark.control_plane
async def test_an_authority_that_is_succeeded_changes_nobodys_id(gateway: IdentitySource, issuer: Child) -> None:
    first = gateway.current
    await becomes(gateway, lambda identity: signer_of(identity) != signer_of(first))
    assert gateway.current.svid.spiffe_id == first.svid.spiffe_id
    assert await bundle_by(issuer, client_context(gateway, authorize=exactly(ISSUER)))


def signer_of(identity: Identity) -> bytes:
    extensions = x509.load_der_x509_certificate(identity.svid.chain[0]).extensions
    return extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b""
