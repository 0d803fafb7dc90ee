"""The issuer where a SPIRE server signs: here one that speaks its calls, in test_real_spire.py a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from scripts.testbed.cluster import Cluster
from spire.domain.bundle import to_pem
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.domain.svid import verify_svid
from spire.issuer.own import csr_naming
from spire.proto import spire_pb2 as pb
from tests.spire.issuer.federating import Domain
from tests.spire.issuer.running import AUDIENCE, Issuer, csr_for, issuer_on

HERE = TrustDomain("a.example")
KEY = ec.generate_private_key(ec.SECP256R1())


class SpireServer(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs alone
    """Mints what a CSR asks for, and tells bundles: its own, one federated, and one that has no X.509 roots."""

    def __init__(self) -> None:
        self.own, self.federated = Domain(HERE), Domain()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        calls: dict[str, tuple[Callable[[Any, Any], Awaitable[Any]], Any]] = {
            "/spire.api.server.svid.v1.SVID/MintX509SVID": (self.mint, pb.MintX509SvidRequest),
            "/spire.api.server.bundle.v1.Bundle/GetBundle": (self.get_bundle, pb.Empty),
            "/spire.api.server.bundle.v1.Bundle/ListFederatedBundles": (
                self.list_bundles,
                pb.ListFederatedBundlesRequest,
            ),
        }
        if details.method not in calls:
            return None
        call, request = calls[details.method]
        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    async def mint(self, request: Any, _: Any) -> Any:
        asked = x509.load_der_x509_csr(request.csr)
        names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = asked.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        leaf = self.own.sign(SpiffeId.parse(names[0].value), key)
        svid = pb.X509Svid(cert_chain=[leaf], expires_at=int(datetime.now(UTC).timestamp()) + request.ttl)
        return pb.MintX509SvidResponse(svid=svid)

    async def get_bundle(self, _: Any, __: Any) -> Any:
        return _told(self.own)

    async def list_bundles(self, _: Any, __: Any) -> Any:
        without_x509 = pb.Bundle(trust_domain="jwt.example", sequence_number=1)
        return pb.ListFederatedBundlesResponse(bundles=[without_x509, _told(self.federated)])


def _told(domain: Domain) -> Any:
    authorities = [pb.X509Authority(asn1=root) for root in domain.bundle.roots]
    return pb.Bundle(trust_domain=str(domain.name), x509_authorities=authorities, sequence_number=1, refresh_hint=60)


@pytest.fixture
async def spire(tmp_path: Path) -> AsyncIterator[SpireServer]:
    server, serving = grpc.aio.server(), SpireServer()
    server.add_generic_rpc_handlers([serving])
    server.add_insecure_port(f"unix:{tmp_path / 'api.sock'}")
    await server.start()
    yield serving
    await server.stop(None)


@pytest.fixture
async def issuer(spire: SpireServer, cluster: Cluster, tmp_path: Path) -> AsyncIterator[Issuer]:
    flags = ("--authority", "spire", "--spire-socket", str(tmp_path / "api.sock"))
    (tmp_path / "bundle.pem").write_text(to_pem(spire.own.bundle.roots))
    async with issuer_on(cluster, tmp_path, *flags) as running:
        yield running


async def test_spire_signs_and_its_bundles_are_ours(issuer: Issuer, spire: SpireServer, cluster: Cluster) -> None:
    token = cluster.service_account_token("fluidos", "router-manager", audience=AUDIENCE)
    manager = HERE.spiffe_id("manager", "router-manager")
    answer = await issuer.trade(token, csr_naming(KEY, manager))
    assert answer.status == 200, answer
    assert verify_svid(answer.chain, bundles=answer.bundles, now=datetime.now(UTC)) == manager
    assert answer.bundles == {HERE: spire.own.bundle.roots, spire.federated.name: spire.federated.bundle.roots}


async def test_a_request_for_somebody_else_never_reaches_spire(issuer: Issuer, cluster: Cluster) -> None:
    token = cluster.service_account_token("fluidos", "router-manager", audience=AUDIENCE)
    for csr in (csr_for(KEY), csr_naming(KEY, HERE.spiffe_id("issuer"))):
        assert (await issuer.trade(token, csr)).status == 400
