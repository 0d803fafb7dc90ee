"""Nodes that lose their label, are lost or deleted, and devices that fall silent."""

from datetime import UTC, datetime, timedelta

import pytest

from crds.conditions import timestamp
from edge_resource_manager.domain.liveness import Graces
from tests.edge_resource_manager.discovery import samples
from tests.edge_resource_manager.discovery.conftest import Site, condition
from tests.edge_resource_manager.discovery.states import (
    events,
    idle,
    label,
    looks_again,
    nothing,
    offered,
    withdrawn,
)


async def test_the_label_decides_at_once(site: Site) -> None:
    node = site.node(offers=False)
    async with site.discovery():
        site.apply(samples.device("board", namespace=site.namespace, node=node))
        label(site, node, "true")
        await site.until(offered)
        label(site, node, "no")
        await site.until(nothing)


async def test_a_lost_node_is_waited_for_then_its_sensors_are_withdrawn_until_it_is_back(site: Site) -> None:
    node = site.node()
    async with site.discovery() as discovery:
        site.apply(samples.device("board", namespace=site.namespace, node=node))
        before = await site.until(offered)
        site.cluster.set_node_ready(node, ready=False)
        site.clock.now = datetime.now(UTC) + timedelta(seconds=20)
        await looks_again(discovery, (site.namespace, "board"))
        assert offered(await site.leaves(), await site.flavors())
        site.clock.advance(15)
        discovery.queue.add((site.namespace, "board"))
        await site.until(withdrawn("NodeNotReady"))
        site.cluster.set_node_ready(node, ready=True)
        after = await site.until(offered)
    assert [flavor.metadata.uid for flavor in after] == [flavor.metadata.uid for flavor in before]


async def test_the_grace_ends_by_itself(site: Site) -> None:
    node = site.node()
    graces = Graces(node=timedelta(seconds=1))
    async with site.discovery(graces=graces, clock=lambda: datetime.now(UTC)):
        site.apply(samples.device("board", namespace=site.namespace, node=node))
        await site.until(offered)
        site.cluster.set_node_ready(node, ready=False)
        await site.until(withdrawn("NodeNotReady"))


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_deleted_node_is_waited_for_too(site: Site, restarted: bool) -> None:
    node = site.node()
    key = (site.namespace, "board")
    async with site.discovery() as discovery:
        site.apply(samples.device("board", namespace=site.namespace, node=node))
        await site.until(offered)
        site.cluster.api.request("DELETE", f"/api/v1/nodes/{node}")
        await looks_again(discovery, key)
        assert offered(await site.leaves(), await site.flavors())
        site.clock.advance(31)
        discovery.queue.add(key)
        await site.until(withdrawn("NodeGone"))
        if not restarted:
            site.cluster.add_node(node, samples.LABEL)
            await site.until(offered)
            return
    written = site.writes()
    async with site.discovery() as discovery:
        assert await discovery.reconcile(key) is None
        await idle(discovery)
        assert site.writes() == written
        site.cluster.add_node(node, samples.LABEL)
        await site.until(offered)


async def test_a_device_that_falls_silent_is_withdrawn_and_back_when_it_speaks(site: Site) -> None:
    key = (site.namespace, "board")

    def says(state: str, *, after: float) -> None:
        moment = timestamp(site.clock.now + timedelta(seconds=after))
        site.apply(samples.device_status("board", namespace=site.namespace, state=state, last_online=moment))

    async with site.discovery() as discovery:
        says("online", after=0)  # first: a device that nothing is known of comes to report with an event
        site.apply(samples.device("board", namespace=site.namespace, node=site.node()))
        await site.until(
            lambda leaves, flavors: offered(leaves, flavors) and condition(leaves["board"], "Online")[1] == "Reporting"
        )
        says("offline", after=0)
        await site.until(withdrawn("DeviceOffline"))
        says("online", after=1)
        await site.until(offered)
        site.clock.advance(70)
        discovery.queue.add(key)
        await site.until(withdrawn("DeviceSilent"))
        says("online", after=0)
        await site.until(offered)
    assert await events(site) == ["DeviceOffline", "DeviceSilent", "Reporting", "Reporting"]
