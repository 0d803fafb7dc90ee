"""The manager as a process of its own, under its own account: with the identity that a Workload API gives it."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crds.kube.client import Kube
from scripts.testbed.cluster import Cluster
from scripts.testbed.processes import Child
from spire.helper.api import serve
from spire.helper.held import Granted, Held, Latest
from tests.edge_resource_manager.discovery.conftest import IDENTITY, Clock, Site, condition
from tests.edge_resource_manager.discovery.test_trust import Appraiser, asks, proves, published, withheld
from tests.spire.pki import Ca

REPOSITORY = Path(__file__).resolve().parents[3]
PROVIDER = Ca.of("provider")


@pytest.fixture
async def own_site(start_cluster: Callable[..., Cluster]) -> AsyncIterator[Site]:
    """A cluster that no other test's discovery works in."""
    cluster = start_cluster(controllers=False)
    data = {"domain": IDENTITY.domain, "nodeID": IDENTITY.node_id, "ip": "192.0.2.1", "port": "3004"}
    metadata = {"name": "fluidos-node-identity", "namespace": "fluidos"}
    cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}])
    for plural in ("edge.fluidos.eu/v1alpha1/leafdevices", "nodecore.fluidos.eu/v1alpha1/flavors"):
        cluster.api.request("GET", f"/apis/{plural}")  # waits until they can be stored
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        yield Site(cluster=cluster, kube=kube, namespace="default", clock=Clock())


@contextmanager
def manager(site: Site | None, logs: Path, *flags: str | Path) -> Iterator[Child]:
    account: tuple[str | Path, ...] = ()
    if site is not None:
        account = ("--kubeconfig", site.cluster.service_account_kubeconfig("fluidos", "edge-resource-manager"))
    environment = {name: value for name, value in os.environ.items() if name != "SPIFFE_ENDPOINT_SOCKET"}
    child = Child(
        name="manager",
        command=[sys.executable, "-m", "edge_resource_manager", *account, "--standalone", *flags],
        directory=REPOSITORY,
        logs=logs,
        environment=environment,
    )
    try:
        yield child
    finally:
        child.stop()


async def test_with_an_identity_what_is_attested_is_published_and_without_one_everything(
    own_site: Site, tmp_path: Path
) -> None:
    site, socket = own_site, tmp_path / "api" / "workload.sock"
    held: Latest[Held] = Latest(Granted(PROVIDER.identity("/manager/edge-resource-manager")))
    issuer = site.cluster.service_account_kubeconfig("fluidos", "identity-issuer")
    async with serve(socket, held), await Kube.connect(kubeconfig=issuer) as kube:
        with manager(site, tmp_path, "--identity-socket", socket) as child:
            proves(site)
            await site.until(withheld("NotAttested", "Unknown"))
            await Appraiser(kube, site, manager="identity-issuer").attest()
            await site.until(published)
            asks(site, "Platinum")
            await site.until(withheld("MinimumTierInvalid"))
    with manager(site, tmp_path, "--insecure"):
        await site.until(published)
    assert condition((await site.leaves())["board"], "Insecure") == ("True", "InsecureMode")
    assert "is forbidden" not in child.log.read_text()


def test_a_manager_with_neither_says_what_it_needs(tmp_path: Path) -> None:
    with manager(None, tmp_path) as child:
        assert child.wait(limit=60) == 1
    told = child.log.read_text()
    assert "--identity-socket" in told
    assert "--insecure" in told
    assert "Traceback" not in told
