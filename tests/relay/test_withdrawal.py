"""A flavor that is deleted, as it is when a device loses trust, stops its data at once, and nobody else's."""

import asyncio
import itertools
from pathlib import Path

import pytest

from crds.kube.client import Kube
from crds.models.dataroute import DataRoute
from scripts.testbed.broker import Broker
from scripts.testbed.cluster import Cluster
from tests.relay.support import Target, numbered, publish_all, serving, until
from tests.relay.test_process import RelayProcess
from tests.router_manager import samples
from tests.router_manager.test_manager import eventually, ready, start

pytestmark = [pytest.mark.broker, pytest.mark.control_plane]


async def test_a_flavor_that_goes_stops_its_route_at_once_and_no_other(
    tmp_path: Path, broker: Broker, cluster: Cluster, namespace: str
) -> None:
    relay = RelayProcess(tmp_path, broker.url, kubeconfig=cluster.service_account_kubeconfig("fluidos", "relay"))
    try:
        with start(cluster, tmp_path, "--egress-allow", "127.0.0.0/8"):
            async with (
                serving(Target()) as lost,
                serving(Target()) as kept,
                await Kube.connect(kubeconfig=cluster.kubeconfig) as kube,
            ):
                for name, target in (("lost", lost), ("kept", kept)):
                    flavors = {"flavors": [name]}
                    cluster.apply([samples.flavor(name, namespace=namespace)])
                    cluster.apply([samples.route(name, namespace=namespace, source=flavors, url=target.url)])
                    await eventually(kube, namespace, name, ready("True"))
                await relay.ready()
                publishing = asyncio.create_task(publish_for_ever(broker))
                await until(lambda: lost.accepted and kept.accepted)

                path = f"/apis/nodecore.fluidos.eu/v1alpha1/namespaces/{namespace}/flavors/lost"
                loop = asyncio.get_running_loop()
                deleted = loop.time()
                await asyncio.to_thread(cluster.api.request, "DELETE", path)
                await until(lambda: quiet(lost, kept))
                print(f"last message {(lost.times[-1] - deleted) * 1000:.0f} ms after the deletion")
                route = await kube.get(DataRoute, "lost", namespace=namespace)
                assert ready("False")(route)
                assert relay.get("/readyz") == "ready\n"
                publishing.cancel()
    finally:
        relay.child.kill()


def quiet(lost: Target, kept: Target) -> bool:
    """Two hundred requests came to the one since the last came to the other."""
    return sum(at > lost.times[-1] for at in kept.times) >= 200


async def publish_for_ever(broker: Broker) -> None:
    for number in itertools.count():
        messages = [*numbered([number], "sensor/lost"), *numbered([number], "sensor/kept")]
        await publish_all(broker.port, messages)
        await asyncio.sleep(0.005)
