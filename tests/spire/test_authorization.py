"""Who of those that are known may talk."""

from __future__ import annotations

import pytest

from spire.domain.authorization import Authorize, any_known, exactly, in_domain, under
from spire.domain.errors import Reason, Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain

A = TrustDomain("a.test")
GATEWAY = SpiffeId.parse("spiffe://a.test/manager/rear-gateway")


def permits(authorize: Authorize, peer: str) -> bool:
    try:
        authorize(SpiffeId.parse(peer))
    except Untrusted as error:
        return (error.reason, peer in str(error)) != (Reason.PEER_REFUSED, True)
    return True


@pytest.mark.parametrize(
    ("authorize", "peer", "permitted"),
    [
        (any_known(), "spiffe://b.test/x", True),
        (exactly(GATEWAY), "spiffe://a.test/manager/rear-gateway", True),
        (exactly(GATEWAY), "spiffe://b.test/manager/rear-gateway", False),
        (exactly(GATEWAY), "spiffe://a.test/manager/rear-gateway/x", False),
        (exactly(), "spiffe://a.test/manager/rear-gateway", False),
        (in_domain(A), "spiffe://a.test/endpoint/ns/app", True),
        (in_domain(A), "spiffe://b.test/endpoint/ns/app", False),
        (in_domain(A), "spiffe://a.test/endpoint", False),
        (in_domain(A), "spiffe://a.test/endpoints/ns/app", False),
        (in_domain(A, path="/endpoint/ns"), "spiffe://a.test/endpoint/ns/app", True),
        (in_domain(A, path="/endpoint/ns"), "spiffe://a.test/endpoint/ns2/app", False),
        (in_domain(A, path="/"), "spiffe://a.test/issuer", True),
        (under("/manager/rear-gateway"), "spiffe://b.test/manager/rear-gateway", True),
        (under("/manager/rear-gateway"), "spiffe://b.test/manager/rear-gateway-2", False),
        (under("/relay/"), "spiffe://b.test/relay/edge-1", True),
        (under("/relay/"), "spiffe://b.test/device/relay/edge-1", False),
    ],
)
def test_policies_go_by_whole_segments_and_domains(authorize: Authorize, peer: str, *, permitted: bool) -> None:
    assert permits(authorize, peer) is permitted
