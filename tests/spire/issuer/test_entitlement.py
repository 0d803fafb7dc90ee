"""Who may be whom among workloads."""

import pytest

from spire.domain.entitlement import Caller, entitled, is_ours
from spire.domain.errors import Reason, Untrusted
from spire.domain.spiffe_id import TrustDomain
from spire.issuer.workloads import caller_of

HERE = TrustDomain("a.example")


def _named(caller: Caller, labels: dict[str, str] | None = None) -> str:
    return entitled(caller, trust_domain=HERE, namespace="fluidos", labels=labels).path


@pytest.mark.parametrize(
    ("account", "node", "path"),
    [
        ("edge-resource-manager", None, "/manager/edge-resource-manager"),
        ("rear-gateway", "edge-1", "/manager/rear-gateway"),
        ("router-manager", None, "/manager/router-manager"),
        ("flash-controller", None, "/manager/flash-controller"),
        ("relay", "edge-1", "/relay/edge-1"),
        ("edge-agent", "edge-1.example", "/agent/edge-1.example"),
        ("kubeedge-relay", "cloud-1", "/relay/cloud-1"),
        ("broker", "edge-1", "/broker/edge-1"),
        ("mapper", "edge-1", "/mapper/edge-1"),
        ("flash-runner", "edge-1", "/runner/edge-1"),
    ],
)
def test_accounts_of_ours(account: str, node: str | None, path: str) -> None:
    caller = Caller(namespace="fluidos", account=account, node=node)
    assert is_ours(caller, namespace="fluidos")
    assert _named(caller) == path


@pytest.mark.parametrize(
    ("caller", "labels"),
    [
        (Caller(namespace="fluidos", account="identity-issuer"), None),
        (Caller(namespace="fluidos", account="default"), None),
        (Caller(namespace="fluidos", account="relay"), None),
        (Caller(namespace="fluidos", account="relay"), {"edge.fluidos.eu/endpoint": "true"}),
        (Caller(namespace="other", account="relay", node="edge-1"), {}),
        (Caller(namespace="other", account="app"), None),
        (Caller(namespace="other", account="app"), {"edge.fluidos.eu/endpoint": "yes"}),
    ],
)
def test_accounts_that_are_nobody(caller: Caller, labels: dict[str, str] | None) -> None:
    with pytest.raises(Untrusted) as refused:
        _named(caller, labels)
    assert refused.value.reason == Reason.NOT_ENTITLED


def test_an_endpoint_keeps_to_its_namespace() -> None:
    labels = {"edge.fluidos.eu/endpoint": "true"}
    assert _named(Caller(namespace="other", account="relay", node="edge-1"), labels) == "/endpoint/other/relay"


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"authenticated": False, "error": "expired"},
        {"authenticated": True, "user": {"username": "system:serviceaccount:a:b"}},
        {"authenticated": True, "audiences": ["other"], "user": {"username": "system:serviceaccount:a:b"}},
        {"authenticated": True, "audiences": ["fluidos-edge-issuer"], "user": {"username": "admin"}},
        {"authenticated": True, "audiences": ["fluidos-edge-issuer"], "user": {"username": "system:node:a"}},
        {
            "authenticated": True,
            "audiences": ["fluidos-edge-issuer"],
            "user": {"username": "system:serviceaccount:a:b/c"},
        },
        {"authenticated": True, "audiences": ["fluidos-edge-issuer"]},
    ],
)
def test_reviews_that_name_nobody(status: dict[str, object]) -> None:
    with pytest.raises(Untrusted) as refused:
        caller_of({"status": status})
    assert refused.value.reason == Reason.NOT_AUTHENTICATED


def test_a_review_that_names_two_nodes_names_none() -> None:
    user = {
        "username": "system:serviceaccount:fluidos:relay",
        "extra": {"authentication.kubernetes.io/node-name": ["a", "b"]},
    }
    status = {"authenticated": True, "audiences": ["fluidos-edge-issuer"], "user": user}
    assert caller_of({"status": status}) == Caller(namespace="fluidos", account="relay", node=None)
