"""Who asks: what TLS proved, and what of it entitles to what."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from edge_resource_manager.gateway.problems import Rejected
from spire.domain.authorization import under
from spire.domain.errors import Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain
from spire.identity import IdentitySource
from spire.tls import peer_of

BUYER = "/manager/edge-resource-manager"


class Peers:
    """Of one gateway.

    Args:
        identity: of the gateway, which knows the trust domains of others; None where nobody proves anything.
    """

    def __init__(self, identity: IdentitySource | None) -> None:
        self._identity = identity
        self._entitle = under(BUYER)

    def knows(self, viewer: TrustDomain | None) -> bool:
        """Whether a trust domain is known, still."""
        return self._identity is None or viewer in self._identity.current.bundles

    def viewer(self, request: web.Request) -> TrustDomain | None:
        """For whom somebody looks. None where nobody proves anything.

        Raises:
            Rejected: 403.
        """
        peer = self.peer(request)
        return peer.trust_domain if peer else None

    def buyer(self, request: web.Request) -> SpiffeId | None:
        """Who buys: the manager of its cluster, and none of the cluster's other workloads.

        Raises:
            Rejected: 403.
        """
        peer = self.peer(request)
        if peer is not None:
            try:
                self._entitle(peer)
            except Untrusted as error:
                raise Rejected(HTTPStatus.FORBIDDEN, str(error)) from error
        return peer

    def peer(self, request: web.Request) -> SpiffeId | None:
        """Who asks: of a trust domain that is still known, for connections may be older than that.

        Raises:
            Rejected: 403.
        """
        if self._identity is None:
            return None
        peer = peer_of(request.transport)
        if peer is None or not self.knows(peer.trust_domain):
            raise Rejected(HTTPStatus.FORBIDDEN, f"{peer} is not of a trust domain that is known here")
        return peer
