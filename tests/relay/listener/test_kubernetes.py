"""Grants come from LeafDevices on a real API server, read with the relay's own rights; withdrawn trust cuts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crds.conditions import Verdict, stamp, timestamp
from crds.kube.client import Kube
from crds.models.leafdevice import LeafDevice
from router_manager.relay.engine import Relay
from router_manager.relay.grants_source import KubeGrants
from router_manager.relay.mqtt.packets import Version
from scripts.testbed.cluster import Cluster
from tests.relay.listener.devices import NODE, OWN, SECOND, UEID, connected, device, granting, listening, port_of
from tests.relay.support import until
from tests.relay.test_admission import leaf

pytestmark = pytest.mark.control_plane


@asynccontextmanager
async def following(running: Relay, cluster: Cluster) -> AsyncIterator[None]:
    agent = OWN.trust_domain.spiffe_id("agent", NODE)
    async with await Kube.connect(kubeconfig=cluster.service_account_kubeconfig("fluidos", "relay")) as kube:
        task = asyncio.create_task(KubeGrants(kube, node=NODE, agent=agent).run(running.permit))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def believe(kube: Kube, namespace: str, name: str, *, ends: datetime | None) -> None:
    trust = {"tier": "Attested", "expirationTime": timestamp(ends)} if ends else {"tier": "None"}
    condition = Verdict(type="Attested", status="True" if ends else "False", reason="Test", message="")
    conditions = stamp([condition], before=(), generation=1, now=datetime.now(UTC))
    status = {"trust": trust, "conditions": [each.dump() for each in conditions]}
    await kube.apply_status(LeafDevice, name=name, namespace=namespace, status=status, manager="issuer")


async def test_a_device_is_let_in_while_its_status_believes_it_and_cut_when_not(
    tmp_path: Path, cluster: Cluster, namespace: str
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    for name, ueid, topic in (("meter", UEID, "a/b"), ("other", SECOND, "c/d")):
        obj = leaf(name, topic, ueid=ueid).manifest()
        obj.pop("status", None)
        cluster.apply([{**obj, "metadata": {"name": name, "namespace": namespace}}])
    async with (
        await Kube.connect(kubeconfig=cluster.service_account_kubeconfig("fluidos", "identity-issuer")) as kube,
        listening(tmp_path, grants=granting()) as running,
        following(running, cluster),
    ):
        assert running.listener is not None
        for name in ("meter", "other"):
            await believe(kube, namespace, name, ends=later)
        accounts = running.listener
        await until(lambda: {UEID, SECOND} <= accounts._grants.accounts.keys(), what="both grants")
        async with (
            connected(port_of(running), identity=device(), version=Version.V5) as meter,
            connected(port_of(running), identity=device(SECOND), version=Version.V5) as other,
        ):
            mids = [meter.publish("a/b", b"1"), meter.publish("c/d", b"1")]
            await until(lambda: len(meter.acknowledged) == 2)
            assert [meter.acknowledged[mid] for mid in mids] == ["Success", "Not authorized"]
            await believe(kube, namespace, "meter", ends=None)
            await until(lambda: meter.ended == ["Not authorized"], what="the cut")
            await believe(kube, namespace, "other", ends=datetime.now(UTC) + timedelta(seconds=2))
            await until(lambda: other.ended == ["Not authorized"], what="the end of the proof")
