"""A manager: leads by Lease, watches with kopf, works off queues, answers probes, stops cleanly.

kopf is used for watching only (`@kopf.on.event`): it finds kinds whose CRD comes later and in which version, it resumes
cut watches, and with such handlers alone it writes nothing. What is written goes through `crds.kube.client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import kopf
import structlog
from pydantic import Field

from crds.kube.client import Kind, Kube, Object
from crds.kube.lease import Election, Elector
from crds.kube.process import ProcessSettings, configure_logging, probes, until_stopped
from crds.kube.watch import Change, Gone, Put, follow, key_of
from crds.models.base import Crd

log = structlog.get_logger(__name__)

STOP_SECONDS = 5.0


class ManagerSettings(ProcessSettings):
    """Flags of every manager."""

    namespace: str = Field(default="fluidos", description="namespace of the Lease and of FLUIDOS' node identity")
    standalone: bool = Field(default=False, description="lead without a Lease: for a single replica on a bench")
    identity: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="who holds the Lease; a replica that keeps its name takes over from its own earlier life at once",
    )
    lease_seconds: float = Field(default=15.0, ge=3.0, le=300.0)


Seen = Callable[[Change], None]
Work = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind to watch and what to do with every change of it. Without `version` the preferred one is watched."""

    group: str
    plural: str
    changed: Seen
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Followed:
    """A kind of ours in many thousands: followed by `crds.kube.watch`, at a third of what kopf takes for an event."""

    crd: Crd
    changed: Seen
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when all that is there has been seen."""


@dataclass(frozen=True, slots=True)
class Manager:
    """What a manager consists of once it is connected."""

    watched: tuple[Watched, ...]
    followed: tuple[Followed, ...]
    work: tuple[Work, ...]


def change_of(event: Mapping[str, Any]) -> Change:
    """A raw watch event as a value."""
    obj: Object = event["object"]
    return Gone(key_of(obj)) if event["type"] == "DELETED" else Put(key_of(obj), obj)


def registry_of(watched: tuple[Watched, ...], *, kube: Kube) -> kopf.OperatorRegistry:
    """The handlers of kopf for these kinds, and its login with the same credentials as ours.

    The handlers run in kopf's thread; what they saw is handed over to the loop that calls this.
    """
    registry = kopf.OperatorRegistry()
    home = asyncio.get_running_loop()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        scheme, _space, secret = (await kube.authorization() or "").partition(" ")
        configuration = kube.configuration
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            scheme=scheme or None,
            token=secret or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    for number, kind in enumerate(watched):
        _register(registry, kind, home, name=f"{number}-{kind.plural}-seen")
    return registry


def _register(registry: kopf.OperatorRegistry, kind: Watched, home: asyncio.AbstractEventLoop, *, name: str) -> None:
    @kopf.on.event(group=kind.group, version=kind.version, plural=kind.plural, registry=registry, id=name)
    async def seen(event: Mapping[str, Any], **_: Any) -> None:
        home.call_soon_threadsafe(kind.changed, change_of(event))


def kopf_settings() -> kopf.OperatorSettings:
    """Watching only: no Events of kopf's own, short batches, a server-side limit so that no watch hangs for ever."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = (0.2, 0.5, 1, 2, 3, 5)
    # A worker task per object stays alive for this long; thousands of objects at start need not keep theirs for 5 s.
    settings.queueing.idle_timeout = 0.5
    settings.queueing.error_delays = (0.5, 1, 2, 3, 5)
    settings.peering.standalone = True
    return settings


async def run_manager(
    stop: asyncio.Event, *, name: str, settings: ManagerSettings, build: Callable[[Kube], Awaitable[Manager]]
) -> None:
    """Connect, lead, watch, work, until `stop` is set or the lead is lost.

    Raises:
        crds.kube.lease.Lost: another replica leads; the process ends and its supervisor starts it anew.
    """
    configure_logging(settings.log_level)
    ready = threading.Event()
    async with (
        await Kube.connect(kubeconfig=settings.kubeconfig, context=settings.context) as kube,
        probes(host=settings.metrics_host, port=settings.metrics_port, ready=ready.is_set),
        contextlib.AsyncExitStack() as stack,
    ):
        extra: list[Coroutine[Any, Any, None]] = []
        if not settings.standalone:
            elector = Elector(
                kube,
                Election(
                    name=name,
                    namespace=settings.namespace,
                    identity=settings.identity,
                    duration=settings.lease_seconds,
                    renew=settings.lease_seconds / 3,
                ),
            )
            if not await _acquire(elector, stop):
                return
            stack.push_async_callback(elector.release)
            extra.append(elector.hold())
        manager = await build(kube)
        registry = registry_of(manager.watched, kube=kube)
        log.info("manager started", name=name, identity=settings.identity, standalone=settings.standalone)
        await until_stopped(
            stop,
            _watch(registry, ready=ready),
            *(follow(kube, Kind.of(each.crd), changed=each.changed, synced=each.synced) for each in manager.followed),
            *(work() for work in manager.work),
            *extra,
        )
        log.info("manager stopped", name=name)


async def _watch(registry: kopf.OperatorRegistry, *, ready: threading.Event) -> None:
    """Run kopf until cancelled, in a thread and a loop of its own.

    It takes every task of its loop for its own and waits for it, and cancels it, when it stops; and in the main thread
    it would take the signals from us.
    """
    stop = threading.Event()
    running = asyncio.create_task(
        asyncio.to_thread(
            kopf.run,
            registry=registry,
            settings=kopf_settings(),
            clusterwide=True,
            standalone=True,
            ready_flag=ready,
            stop_flag=stop,
        )
    )
    try:
        await asyncio.shield(running)
    finally:
        stop.set()
        await asyncio.wait([running], timeout=STOP_SECONDS)


async def _acquire(elector: Elector, stop: asyncio.Event) -> bool:
    """Lead, or give up because we are asked to stop."""
    leading = asyncio.create_task(elector.acquire())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((leading, stopping), return_when=asyncio.FIRST_COMPLETED)
        return leading.done() and leading.exception() is None
    finally:
        stopping.cancel()
        leading.cancel()
