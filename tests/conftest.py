"""What tests of several rooms meet outside: real API servers and a real broker, by the code that the demo uses.

One etcd and one API server with our CRDs serve the whole run; each test gets a namespace of its own on it. A test that
breaks its API server, or needs an empty one, starts another with `start_cluster`.
"""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.testbed.broker import Broker
from scripts.testbed.cluster import Cluster
from scripts.testbed.controlplane import ControlPlanes
from scripts.testbed.manifests import install


@pytest.fixture(scope="session")
def control_planes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlanes]:
    """One etcd, on which clusters start in seconds."""
    with ControlPlanes(tmp_path_factory.mktemp("control-planes") / "state") as planes:
        yield planes


@pytest.fixture(scope="session")
def cluster(control_planes: ControlPlanes) -> Cluster:
    """The cluster that tests share, with all kinds and accounts installed; see `namespace`."""
    shared = control_planes.start_cluster("shared", audit=True)
    install(shared)
    return shared


@pytest.fixture
def start_cluster(control_planes: ControlPlanes) -> Iterator[Callable[..., Cluster]]:
    """Starts clusters, with the same kinds and accounts, for one test alone."""
    started: list[Cluster] = []

    def start(*, controllers: bool = True) -> Cluster:
        own = control_planes.start_cluster(f"own-{uuid.uuid4().hex[:8]}", controllers=controllers)
        started.append(own)
        install(own)
        return own

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace of the shared cluster."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
    yield name
    cluster.api.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A mosquitto of the test's own; takes about 30 ms."""
    with Broker(tmp_path / "broker") as own:
        yield own
