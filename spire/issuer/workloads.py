"""Workloads at the issuer's door: a ServiceAccount's token and a request, then an SVID.

The API server says whose token it is (TokenReview); the table in `domain.entitlement` says who that is.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

import structlog

from crds.kube.client import Kind, Kube, NotFound, Object
from spire.domain.authority import workload_common_name
from spire.domain.entitlement import Caller, entitled, is_ours
from spire.domain.errors import Reason, Untrusted
from spire.domain.spiffe_id import SpiffeId
from spire.issuer.authority import Authority, Issued

log = structlog.get_logger(__name__)

AUDIENCE: Final = "fluidos-edge-issuer"
TOKEN_REVIEWS: Final = Kind("authentication.k8s.io/v1", "tokenreviews")
SERVICE_ACCOUNTS: Final = Kind("v1", "serviceaccounts")

_NODE: Final = "authentication.kubernetes.io/node-name"
_USER: Final = re.compile(r"system:serviceaccount:([a-z0-9-]{1,63}):([a-z0-9.-]{1,253})")


class Workloads:
    """Trades tokens for SVIDs.

    Args:
        kube: the API server.
        authority: makes the SVIDs.
        namespace: where our own processes live.
        ttl: of the SVIDs.
    """

    def __init__(self, kube: Kube, *, authority: Authority, namespace: str, ttl: timedelta) -> None:
        self._kube = kube
        self._authority = authority
        self._namespace = namespace
        self._ttl = ttl

    async def trade(self, token: str, *, csr: bytes) -> tuple[SpiffeId, Issued]:
        """An SVID for whoever holds the token.

        Raises:
            Untrusted: `NOT_AUTHENTICATED` or `NOT_ENTITLED`, or a request that is not signed by its key.
            Malformed: a request that is none.
            Retryable: the API server or the authority is away.
        """
        caller = await self._review(token)
        spiffe_id = entitled(
            caller,
            trust_domain=self._authority.trust_domain,
            namespace=self._namespace,
            labels=None if is_ours(caller, namespace=self._namespace) else await self._labels(caller),
        )
        issued = await self._authority.issue(
            spiffe_id, csr=csr, common_name=workload_common_name(spiffe_id), ttl=self._ttl
        )
        return spiffe_id, issued

    async def _review(self, token: str) -> Caller:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        return caller_of(await self._kube.request("POST", TOKEN_REVIEWS.path(), body=body))

    async def _labels(self, caller: Caller) -> dict[str, str] | None:
        path = SERVICE_ACCOUNTS.path(namespace=caller.namespace, name=caller.account)
        try:
            account = await self._kube.request("GET", path)
        except NotFound:
            return None
        return dict(account["metadata"].get("labels") or {})


def caller_of(review: Object) -> Caller:
    """Whom a TokenReview names.

    Raises:
        Untrusted: nobody, nobody for us, or no ServiceAccount.
    """
    status: dict[str, Any] = review.get("status") or {}
    if not status.get("authenticated"):
        raise Untrusted(Reason.NOT_AUTHENTICATED, f"the API server refuses the token: {status.get('error', '')[:200]}")
    # An authenticator that knows no audiences answers for its own: only the intersection says that it is for us.
    if AUDIENCE not in (status.get("audiences") or ()):
        raise Untrusted(Reason.NOT_AUTHENTICATED, f"the token is not for the audience {AUDIENCE}")
    user = status.get("user") or {}
    named = _USER.fullmatch(user.get("username") or "")
    if named is None:
        raise Untrusted(Reason.NOT_AUTHENTICATED, f"the token is of {user.get('username')}, which is no ServiceAccount")
    nodes = (user.get("extra") or {}).get(_NODE) or []
    return Caller(namespace=named[1], account=named[2], node=nodes[0] if len(nodes) == 1 else None)
