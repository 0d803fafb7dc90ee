"""The testbed's kubelet: pods of Jobs run as processes, are stopped, and say how they ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scripts.testbed.cluster import Cluster
from scripts.testbed.kubelet import COMMAND, expand, start_kubelet
from scripts.testbed.processes import Child

pytestmark = pytest.mark.control_plane

NODE = "kubelet-node"
JOBS = "/apis/batch/v1/namespaces/fluidos/jobs"
LABELS = {"app.kubernetes.io/component": "flash-runner"}


@pytest.fixture(scope="module")
def kubelet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    cluster.add_node(NODE)
    directory = tmp_path_factory.mktemp("kubelet")
    nodes, environment = {NODE: "127.0.0.9"}, {"TEST_VARIABLE": "seen"}
    with start_kubelet(
        cluster, nodes=nodes, directory=directory, environment=environment, runner="tests.scripts.pod"
    ) as child:
        yield child
        assert "Traceback" not in child.log.read_text()


@pytest.fixture
def run(cluster: Cluster, kubelet: Child) -> Iterator[Callable[..., None]]:
    """Creates a Job whose pod gets these arguments."""
    names = []

    def create(name: str, *words: str, command: list[str] = COMMAND, grace: int = 30, **spec: Any) -> None:
        host = {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
        container = {"name": "runner", "image": "edge", "command": command, "args": list(words), "env": [host]}
        template = {
            "metadata": {"labels": LABELS},
            "spec": {
                "nodeName": NODE,
                "serviceAccountName": "flash-runner",
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": grace,
                "containers": [container],
            },
        }
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": "fluidos"},
            "spec": {"backoffLimit": 0, "template": template, **spec},
        }
        cluster.api.request("POST", JOBS, body=job)
        names.append(name)

    yield create
    for name in names:
        cluster.api.request("DELETE", f"{JOBS}/{name}", body={"propagationPolicy": "Background"})


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def ended(cluster: Cluster, name: str) -> Callable[[], str]:
    """How a Job ended; empty while it runs."""

    def look() -> str:
        conditions = cluster.api.request("GET", f"{JOBS}/{name}")["status"].get("conditions", ())
        return next((each["type"] for each in conditions if each["type"] in ("Complete", "Failed")), "")

    return look


def pod(cluster: Cluster, job: str) -> dict[str, Any]:
    query = {"labelSelector": f"batch.kubernetes.io/job-name={job}"}
    items = cluster.api.request("GET", "/api/v1/namespaces/fluidos/pods", query=query)["items"]
    return dict(items[0]) if items else {}


def phase(cluster: Cluster, job: str) -> str:
    return str(pod(cluster, job).get("status", {}).get("phase", ""))


def test_a_pod_runs_with_what_it_says_and_completes_its_job(
    cluster: Cluster, kubelet: Child, run: Callable[..., None]
) -> None:
    run("says", "say", "at $(HOST_IP)")
    assert until(ended(cluster, "says")) == "Complete"
    found = pod(cluster, "says")
    output = (kubelet.log.parent / f"{found['metadata']['name']}.log").read_text()
    assert output.split() == ["at", "127.0.0.9", "seen"]
    assert found["status"]["hostIP"] == "127.0.0.9"


def test_the_exit_code_of_a_pod_that_fails_is_told(cluster: Cluster, run: Callable[..., None]) -> None:
    run("fails", "exit", "7")
    assert until(ended(cluster, "fails")) == "Failed"
    (status,) = pod(cluster, "fails")["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 7


def test_a_pod_that_is_deleted_is_told_to_stop(cluster: Cluster, kubelet: Child, run: Callable[..., None]) -> None:
    run("slow", "sleep", grace=60)
    name = until(lambda: pod(cluster, "slow").get("metadata", {}).get("name"))
    log = kubelet.log.parent / f"{name}.log"
    until(lambda: log.exists() and "sleeping" in log.read_text())
    cluster.api.request("DELETE", f"/api/v1/namespaces/fluidos/pods/{name}")
    assert until(ended(cluster, "slow")) == "Failed"
    assert log.read_text().splitlines() == ["sleeping", "told to stop"]


def test_a_pod_that_does_not_stop_in_its_time_is_killed(cluster: Cluster, run: Callable[..., None]) -> None:
    run("deaf", "sleep", "on", grace=1, activeDeadlineSeconds=1)
    assert until(ended(cluster, "deaf")) == "Failed"
    until(lambda: not pod(cluster, "deaf"))


def test_no_other_program_is_run(cluster: Cluster, run: Callable[..., None]) -> None:
    run("stranger", "say", "x", command=["sh", "-c"])
    run("witness", "say", "x")
    assert until(ended(cluster, "witness")) == "Complete"
    assert phase(cluster, "stranger") == "Pending"


def test_only_what_is_known_is_expanded() -> None:
    assert expand(["--a=$(A)", "$(B)"], {"A": "1"}) == ["--a=1", "$(B)"]
