"""A manager and a kubelet at work, for all tests of a module; each test has a namespace of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from crds.kube.client import Kube
from scripts.testbed.cluster import Cluster
from tests.flash_controller.rollouts.site import NODE, POLICY, Site


@pytest.fixture(scope="module")
def flash_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster, with a node and a policy."""
    cluster.add_node(NODE)
    cluster.apply([POLICY])
    yield cluster
    cluster.api.request("DELETE", "/api/v1/namespaces/fluidos/configmaps/fluidos-edge-firmware")


@pytest.fixture
async def kube(flash_cluster: Cluster) -> AsyncIterator[Kube]:
    async with await Kube.connect(kubeconfig=flash_cluster.kubeconfig) as connected:
        yield connected


@pytest.fixture
def site(flash_cluster: Cluster, kube: Kube, namespace: str, tmp_path: Path) -> Site:
    """Objects only: nobody works yet."""
    return Site(flash_cluster, kube, namespace, tmp_path)


@pytest.fixture(scope="module")
def crew(flash_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a manager and a kubelet at work."""
    directory = tmp_path_factory.mktemp("crew")
    with Site(flash_cluster, None, "none", directory).at_work():  # type: ignore[arg-type] # asks for nothing
        yield directory


@pytest.fixture
def working(flash_cluster: Cluster, kube: Kube, namespace: str, crew: Path) -> Site:
    """A namespace of the crew's."""
    return Site(flash_cluster, kube, namespace, crew, catalog=True)
