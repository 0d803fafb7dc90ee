"""Answers of a real API server as errors that say whether a retry helps."""

import pytest

from crds.kube.client import Kind, Kube, Refused, Unavailable
from scripts.testbed.cluster import Cluster

CONFIG_MAPS = Kind("v1", "configmaps")
ACCOUNT = "stranger"


async def test_a_right_that_is_missing_may_be_granted_later(cluster: Cluster, namespace: str) -> None:
    cluster.apply([_object("v1", "ServiceAccount", namespace)])
    kubeconfig = cluster.service_account_kubeconfig(namespace, ACCOUNT)
    async with await Kube.connect(kubeconfig=kubeconfig) as kube:
        with pytest.raises(Unavailable, match="403"):
            await kube.request("GET", CONFIG_MAPS.path(namespace=namespace))
        rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT}
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
        cluster.apply(
            [
                _object("rbac.authorization.k8s.io/v1", "Role", namespace) | {"rules": [rule]},
                _object("rbac.authorization.k8s.io/v1", "RoleBinding", namespace)
                | {"roleRef": role, "subjects": [subject]},
            ]
        )
        for _ in range(600):
            try:
                await kube.request("GET", CONFIG_MAPS.path(namespace=namespace))
                break
            except Unavailable:  # until the authorizer has read the role
                continue
        else:
            pytest.fail("the right was never granted")


async def test_an_admission_that_says_no_judges_the_object(cluster: Cluster, namespace: str) -> None:
    cluster.apply([_object("v1", "ResourceQuota", namespace) | {"spec": {"hard": {"count/configmaps": "0"}}}])
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        body = {"metadata": {"name": "refused", "namespace": namespace}}
        with pytest.raises(Refused) as refused:
            await kube.request("POST", CONFIG_MAPS.path(namespace=namespace), body=body)
        assert refused.value.status == 403


def _object(api_version: str, kind: str, namespace: str) -> dict[str, object]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": ACCOUNT, "namespace": namespace}}
