"""A route changes among thousands, on a real API server: how soon its new target has a message, and what is lost."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.relay_engines import route, start_relay, target
from benchmarks.relay_scale import ROUTES
from benchmarks.relay_stage import TOPICS, Size, Stage
from benchmarks.report import Figure
from crds.kube.client import Kind, Kube
from crds.models.dataroute import DataRoute
from scripts.testbed.controlplane import ControlPlanes
from scripts.testbed.manifests import install

_NAMESPACE: Final = "default"
_KIND: Final = Kind.of(DataRoute.crd)
_RATE: Final = 1_000
_CHANGES: Final = 20
_IN_FLIGHT: Final = 32
_NAME: Final = "changes"
_LIMIT_SECONDS: Final = 30.0


def figures(size: Size) -> list[Figure]:
    """One run with many changes; each is counted from the moment that it is sent to the API server."""
    number = size.pick(short=500, full=ROUTES)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-change-")))
        planes = stack.enter_context(ControlPlanes(directory / "planes"))
        cluster = planes.start_cluster("site", controllers=False)
        install(cluster)
        stage = stack.enter_context(Stage(directory))
        print(f"creating {number:,} routes ...", flush=True)
        asyncio.run(_create(cluster.kubeconfig, stage, number))
        broker = stack.enter_context(stage.broker())
        kubeconfig = cluster.service_account_kubeconfig("fluidos", "relay")
        child = start_relay(stage, broker=broker, state=directory / "state", kubeconfig=kubeconfig)
        stack.callback(child.stop)
        _served(stage, broker.port)
        publisher = stack.enter_context(stage.publishing(broker.port, "-rate", str(_RATE)))
        took = asyncio.run(_changes(cluster.kubeconfig, stage))
        publisher.terminate()
        sent = stage.published(publisher, limit=60).published
        counts = stage.board.settled(sent, _NAME)
    return [
        Figure(
            key="routeChangeMilliseconds",
            text=f"a route of {number:,} changes until its new target has a message, slowest of {_CHANGES}, ms",
            value=max(took),
            goal=200,
            holds="at most",
            peer=f"median {statistics.median(took):.0f} ms, at {_RATE:,} messages/s",
        ),
        Figure(
            key="routeChangeLost",
            text="messages lost by changes",
            value=sent - counts.unique,
            goal=0,
            holds="at most",
            peer=f"{counts.duplicates} came twice",
        ),
    ]


async def _create(kubeconfig: Path, stage: Stage, number: int) -> None:
    """All routes: the first has the traffic."""
    async with await Kube.connect(kubeconfig=kubeconfig) as kube:
        shares = [range(first, number, _IN_FLIGHT) for first in range(_IN_FLIGHT)]
        await asyncio.gather(*(_create_some(kube, stage, share) for share in shares))


async def _create_some(kube: Kube, stage: Stage, numbers: Iterable[int]) -> None:
    for number in numbers:
        name = f"route-{number}"
        topics = TOPICS if number == 0 else [f"quiet/{number}/{part}" for part in range(2)]
        manifest = {
            "apiVersion": _KIND.api_version,
            "kind": "DataRoute",
            "metadata": {"name": name, "namespace": _NAMESPACE},
            "spec": {"source": {"flavors": ["f"]}, "targets": _targets(stage, 0)},
        }
        await kube.request("POST", _KIND.path(namespace=_NAMESPACE), body=manifest)
        sources = [each.dump() for each in route(name, topics, []).sources]
        await kube.apply_status(
            DataRoute, name=name, namespace=_NAMESPACE, status={"sources": sources}, manager="bench"
        )


def _served(stage: Stage, port: int) -> None:
    """Until the relay has the route: before, nothing is owed."""
    limit = time.monotonic() + _LIMIT_SECONDS
    while not stage.board.get(_NAME).unique:
        if time.monotonic() > limit:
            raise TimeoutError(f"the route is not served within {_LIMIT_SECONDS:g} s")
        stage.publish(port, "-count", "1")
        time.sleep(0.1)
    for name in (_NAME, f"{_NAME}/0"):
        stage.board.forget(name)


async def _changes(kubeconfig: Path, stage: Stage) -> list[float]:
    """Milliseconds from the request until the first message is at the new target, of each change."""
    took = []
    async with await Kube.connect(kubeconfig=kubeconfig) as kube:
        await _first(stage, 0)
        for number in range(1, _CHANGES + 1):
            began = time.time_ns()
            spec = {"spec": {"targets": _targets(stage, number)}}
            await kube.patch(DataRoute, "route-0", namespace=_NAMESPACE, body=spec, manager="bench")
            took.append((await _first(stage, number) - began) / 1e6)
    return took


async def _first(stage: Stage, number: int) -> int:
    """When the first message came to a target, in ns since 1970."""
    limit = time.monotonic() + _LIMIT_SECONDS
    while time.monotonic() < limit:
        counts = stage.board.get(f"{_NAME}/{number}")
        if counts.unique:
            return counts.first
        await asyncio.sleep(0.05)
    raise TimeoutError(f"target {number} got nothing within {_LIMIT_SECONDS:g} s")


def _targets(stage: Stage, number: int) -> list[dict[str, Any]]:
    return [target("sink", stage.url(f"{_NAME}/{number}")).dump()]
