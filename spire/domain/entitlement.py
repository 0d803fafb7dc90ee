"""Which SPIFFE ID a ServiceAccount stands for: the one table that says who may be whom among workloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from spire.domain.errors import Reason, Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain

ENDPOINT_LABEL: Final = "edge.fluidos.eu/endpoint"

MANAGERS: Final = ("edge-resource-manager", "rear-gateway", "router-manager", "flash-controller")
OF_NODES: Final = {
    "relay": "relay",
    "kubeedge-relay": "relay",
    "edge-agent": "agent",
    "flash-runner": "runner",
    "broker": "broker",
    "mapper": "mapper",
}
"""Accounts whose processes speak for one node, and the first segment of their IDs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who a ServiceAccount's token is for, as the API server says.

    Attributes:
        namespace: of the ServiceAccount.
        account: its name.
        node: which the token, or the pod that it was given to, is bound to.
    """

    namespace: str
    account: str
    node: str | None = None


def is_ours(caller: Caller, *, namespace: str) -> bool:
    """Whether the table alone says who this is; about others their ServiceAccount's labels do."""
    return caller.namespace == namespace and (caller.account in MANAGERS or caller.account in OF_NODES)


def entitled(
    caller: Caller, *, trust_domain: TrustDomain, namespace: str, labels: Mapping[str, str] | None
) -> SpiffeId:
    """The ID that a caller gets.

    Args:
        caller: who asks.
        trust_domain: of this cluster.
        namespace: where our own processes live.
        labels: of the ServiceAccount; None where `is_ours` says that they do not matter, or it is gone.

    Raises:
        Untrusted: it gets none.
    """
    if is_ours(caller, namespace=namespace):
        if caller.account in MANAGERS:
            return trust_domain.spiffe_id("manager", caller.account)
        if caller.node is None:
            message = f"{caller.account} speaks for a node, and its token is bound to none"
            raise Untrusted(Reason.NOT_ENTITLED, message)
        return trust_domain.spiffe_id(OF_NODES[caller.account], caller.node)
    if (labels or {}).get(ENDPOINT_LABEL) == "true":
        return trust_domain.spiffe_id("endpoint", caller.namespace, caller.account)
    who = f"ServiceAccount {caller.namespace}/{caller.account}"
    raise Untrusted(Reason.NOT_ENTITLED, f"{who} is none of ours and has no label {ENDPOINT_LABEL}: 'true'")
