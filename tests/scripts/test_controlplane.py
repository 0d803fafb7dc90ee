"""Control planes: isolated from each other, guarded by RBAC, restartable, gone at the end."""

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.testbed import cluster as cluster_module
from scripts.testbed.api import ApiError, load
from scripts.testbed.binaries import Binaries
from scripts.testbed.cluster import Cluster
from scripts.testbed.controlplane import ControlPlanes
from scripts.testbed.processes import ChildFailedError, free_port

pytestmark = pytest.mark.control_plane

WIDGETS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.testbed.example"},
    "spec": {
        "group": "testbed.example",
        "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets"},
        "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    },
}


def config_map(namespace: str, name: str = "settings", **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


def service_account(namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}


def get_with_token(cluster: Cluster, kubeconfig: Path, path: str) -> tuple[int, dict[str, Any]]:
    token = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
    context = ssl.create_default_context(cadata=cluster.ca.decode())
    connection = HTTPSConnection(cluster.url.removeprefix("https://"), context=context, timeout=10)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def eventually(check: Callable[[], bool], *, limit: float = 30) -> None:
    deadline = time.monotonic() + limit
    while not check():
        assert time.monotonic() < deadline, f"not within {limit} s"
        time.sleep(0.05)


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_clusters_on_one_etcd_share_nothing_and_leave_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with ControlPlanes(directory) as planes:
        one, two = planes.start_clusters(["consumer-1", "provider-1"], controllers=False)
        assert one.url != two.url
        one.apply([config_map("default", name="mine")])
        assert one.api.exists("/api/v1/namespaces/default/configmaps/mine")
        assert not two.api.exists("/api/v1/namespaces/default/configmaps/mine")
        one.restart_apiserver()
        assert one.api.exists("/api/v1/namespaces/default/configmaps/mine")
        pids = [*one.pids.values(), *two.pids.values()]
        merged = yaml.safe_load(planes.kubeconfig.read_text())
        assert [each["name"] for each in merged["contexts"]] == ["fluidos-consumer-1", "fluidos-provider-1"]
        assert planes.kubeconfig.stat().st_mode & 0o077 == 0
        assert directory.stat().st_mode & 0o077 == 0
        with pytest.raises(ssl.SSLCertVerificationError):  # each has a CA of its own
            HTTPSConnection(
                one.url.removeprefix("https://"),
                context=ssl.create_default_context(cadata=two.ca.decode()),
                timeout=10,
            ).request("GET", "/")
    assert not directory.exists()
    assert not any(exists(pid) for pid in pids)


def test_a_folder_that_holds_something_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty"):
        ControlPlanes(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("name", ["shared", "Provider", "", "-x", "a" * 41])
def test_a_cluster_name_that_is_taken_or_no_label_is_refused(
    cluster: Cluster, control_planes: ControlPlanes, name: str
) -> None:
    with pytest.raises(ValueError, match=f"cluster name '{name}'"):
        control_planes.start_cluster(name)


def test_kubectl_speaks_to_a_context_of_the_merged_kubeconfig(cluster: Cluster, control_planes: ControlPlanes) -> None:
    done = subprocess.run(
        [
            str(Binaries.find().kubectl),
            f"--kubeconfig={control_planes.kubeconfig}",
            f"--context={cluster.context}",
            *("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "admin"


def test_a_fresh_service_account_may_do_nothing_until_a_role_says_so(cluster: Cluster, namespace: str) -> None:
    cluster.apply([service_account(namespace, "probe")])
    kubeconfig = cluster.service_account_kubeconfig(namespace, "probe")
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    status, body = get_with_token(cluster, kubeconfig, path)
    assert (status, body["reason"]) == (403, "Forbidden")
    assert f"system:serviceaccount:{namespace}:probe" in body["message"]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "reader", "namespace": namespace},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reader", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "probe", "namespace": namespace}],
    }
    cluster.apply([role, binding])
    eventually(lambda: get_with_token(cluster, kubeconfig, path)[0] == 200)


def test_a_token_bound_to_a_node_says_so(cluster: Cluster, namespace: str) -> None:
    node = f"{namespace}-sensor-node"
    cluster.add_node(node)
    cluster.apply([service_account(namespace, "agent")])
    kubeconfig = cluster.service_account_kubeconfig(namespace, "agent", node=node)
    token = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"]
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token},
    }
    status = cluster.api.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=review)["status"]
    assert status["user"]["extra"]["authentication.kubernetes.io/node-name"] == [node]


def test_a_token_for_an_absent_account_is_an_error_that_names_it(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ApiError, match=r'404: serviceaccounts "ghost" not found'):
        cluster.service_account_kubeconfig(namespace, "ghost")


def test_a_node_is_as_ready_as_we_say_and_untainted(cluster: Cluster, namespace: str) -> None:
    name = f"{namespace}-node"
    path = f"/api/v1/nodes/{name}"

    def ready() -> str:
        (condition,) = cluster.api.request("GET", path)["status"]["conditions"]
        return f"{condition['type']}={condition['status']}"

    cluster.add_node(name, {"site": "roof"})
    assert ready() == "Ready=True"
    cluster.set_node_ready(name, ready=False)
    assert ready() == "Ready=Unknown"
    node = cluster.api.request("GET", path)
    assert node["metadata"]["labels"] == {"site": "roof", "kubernetes.io/hostname": name}
    assert "taints" not in node["spec"]


def test_objects_of_a_new_kind_apply_in_the_same_call(cluster: Cluster, namespace: str) -> None:
    widget = {
        "apiVersion": "testbed.example/v1",
        "kind": "Widget",
        "metadata": {"name": "one", "namespace": namespace},
    }
    cluster.apply([WIDGETS, widget])
    assert cluster.api.exists(f"/apis/testbed.example/v1/namespaces/{namespace}/widgets/one")


def test_an_unknown_kind_is_an_error_that_names_it(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ApiError, match="no kind Wodget in v1"):
        cluster.apply([{"apiVersion": "v1", "kind": "Wodget", "metadata": {"name": "x"}}])


def test_a_file_with_something_else_is_an_error_that_names_the_document(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all([config_map("default"), {"kind": "ConfigMap"}]))
    with pytest.raises(ValueError, match=r"objects\.yaml, document 2: needs apiVersion"):
        load(file)


def test_controllers_run(cluster: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    eventually(lambda: cluster.api.exists(path))


def test_an_owned_object_goes_with_its_owner(cluster: Cluster, namespace: str) -> None:
    cluster.apply([config_map(namespace, name="owner")])
    base = f"/api/v1/namespaces/{namespace}/configmaps"
    owner = cluster.api.request("GET", f"{base}/owner")["metadata"]
    owned = config_map(namespace, name="owned")
    owned["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    ]
    cluster.apply([owned])
    cluster.api.request("DELETE", f"{base}/owner")
    eventually(lambda: not cluster.api.exists(f"{base}/owned"), limit=60)


def test_requests_are_audited(cluster: Cluster, namespace: str) -> None:
    assert cluster.audit_log is not None
    cluster.apply([config_map(namespace, name="audited")])
    log = cluster.audit_log
    eventually(lambda: '"name":"audited"' in log.read_text())


def test_a_killed_api_server_comes_back_with_its_objects_and_accepts_old_tokens(
    start_cluster: Callable[[], Cluster],
) -> None:
    own = start_cluster()
    own.apply([config_map("default", colour="blue"), service_account("default", "probe")])
    kubeconfig = own.service_account_kubeconfig("default", "probe")
    url, pid = own.url, own.pids["kube-apiserver"]
    own.kill_apiserver()
    assert not own.api.ready()
    own.restart_apiserver()
    assert own.url == url
    assert own.pids["kube-apiserver"] != pid
    found = own.api.request("GET", "/api/v1/namespaces/default/configmaps/settings")
    assert found["data"] == {"colour": "blue"}
    assert get_with_token(own, kubeconfig, "/api/v1/namespaces/default/configmaps")[0] == 403  # known, not allowed
    # The controller manager has lived through it.
    own.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "after"}}])
    eventually(lambda: own.api.exists("/api/v1/namespaces/after/serviceaccounts/default"), limit=60)


def test_a_cluster_that_does_not_come_up_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    real = Binaries.find()
    broken = tmp_path / "kube-apiserver"
    broken.write_text("#!/bin/sh\necho cannot bind; exit 1\n")
    broken.chmod(0o755)
    with ControlPlanes(tmp_path / "state", binaries=replace(real, kube_apiserver=broken)) as planes:
        for _ in range(2):
            with pytest.raises(ChildFailedError, match=r"(?s)provider-1-kube-apiserver ended with code 1.*cannot bind"):
                planes.start_cluster("provider-1")
            assert planes.clusters == {}
            assert not (tmp_path / "state" / "provider-1").exists()


def test_an_etcd_that_does_not_come_up_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ChildFailedError, match="etcd ended with code 1"):
        ControlPlanes(tmp_path / "state", binaries=replace(Binaries.find(), etcd=Path("/bin/false")))
    assert not (tmp_path / "state").exists()


def test_a_port_that_someone_took_meanwhile_is_changed_for_another(
    control_planes: ControlPlanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        ports = iter([port])
        monkeypatch.setattr(cluster_module, "free_port", lambda: next(ports, None) or free_port())
        own = control_planes.start_cluster("unlucky", controllers=False)
        assert own.url != f"https://127.0.0.1:{port}"
        assert own.api.ready()
        own.kill()
