"""Following a kind: complete at first, then every change, also across a restart of the API server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from crds.kube.client import AlreadyExists, Conflict, Kind, Kube, NotFound, Refused, Unavailable
from crds.kube.watch import Change, Gone, Key, Put, follow
from crds.models.dataroute import DataRoute
from scripts.testbed.cluster import Cluster
from tests.router_manager import samples

CONFIG_MAPS = Kind("v1", "configmaps")


class Mirror:
    def __init__(self) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}

    def changed(self, change: Change) -> None:
        match change:
            case Put(key, obj):
                self.objects[key] = obj
            case Gone(key):
                self.objects.pop(key, None)


async def eventually(holds: Callable[[], bool], what: str) -> None:
    for _ in range(600):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"never: {what}")


def config_map(name: str, namespace: str, value: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"value": value},
    }


async def test_a_mirror_is_complete_when_synced_and_follows_across_a_restart(
    start_cluster: Callable[[], Cluster],
) -> None:
    own = start_cluster()
    own.apply([config_map("old", "default", "1"), config_map("going", "default", "1")])
    mirror, synced = Mirror(), asyncio.Event()
    async with await Kube.connect(kubeconfig=own.kubeconfig) as kube:
        following = asyncio.create_task(
            follow(kube, CONFIG_MAPS, changed=mirror.changed, synced=synced, namespace="default")
        )
        await asyncio.wait_for(synced.wait(), 10)
        assert {("default", "old"), ("default", "going")} <= mirror.objects.keys()
        own.apply([config_map("new", "default", "1")])
        await eventually(lambda: ("default", "new") in mirror.objects, "a new object is seen")

        await asyncio.to_thread(own.restart_apiserver)
        own.api.request("DELETE", "/api/v1/namespaces/default/configmaps/going")
        own.apply([config_map("old", "default", "2")])
        await eventually(lambda: ("default", "going") not in mirror.objects, "a deletion is seen after the restart")
        await eventually(
            lambda: mirror.objects[("default", "old")]["data"]["value"] == "2", "a change is seen after the restart"
        )
        following.cancel()


async def test_a_kind_that_is_not_installed_counts_as_empty(cluster: Cluster) -> None:
    synced = asyncio.Event()
    mirror = Mirror()
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        following = asyncio.create_task(
            follow(kube, Kind("nothing.example/v1", "things"), changed=mirror.changed, synced=synced)
        )
        await asyncio.wait_for(synced.wait(), 10)
        assert mirror.objects == {}
        following.cancel()


async def test_errors_say_whether_a_retry_helps(cluster: Cluster, namespace: str) -> None:
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        route = DataRoute.parse(samples.route("r", namespace=namespace, source={"flavors": ["f"]}))
        await kube.create(route, manager="test")
        with pytest.raises(AlreadyExists):
            await kube.create(route, manager="test")
        with pytest.raises(NotFound):
            await kube.request("GET", Kind.of(DataRoute.crd).path(namespace=namespace, name="absent"))
        assert await kube.get(DataRoute, "absent", namespace=namespace) is None
        with pytest.raises(Refused, match="flavors"):
            await kube.request(
                "POST",
                Kind.of(DataRoute.crd).path(namespace=namespace),
                body=samples.route("bad", namespace=namespace, source={}),
            )
        with pytest.raises(Conflict):
            await kube.patch(
                DataRoute,
                "r",
                namespace=namespace,
                body={"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}},
                manager="test",
            )
        assert await kube.delete(DataRoute, "r", namespace=namespace, uid="another-life") is False
        assert await kube.delete(DataRoute, "r", namespace=namespace) is True
    kube.configuration.host = "https://127.0.0.1:1"
    async with Kube(kube.configuration) as nowhere:
        with pytest.raises(Unavailable):
            await nowhere.request("GET", "/version")
