"""`python -m router_manager.relay`: wires the relay to its broker, its API server and its probes."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from prometheus_client import REGISTRY

from crds.kube.client import Kube
from crds.kube.lease import Election, Elector
from crds.kube.process import configure_logging, probes, run_process, settings_of, until_stopped
from crds.models.dataroute import DataRoute
from router_manager.domain.partition import Partition
from router_manager.domain.site import collected, route_of_site
from router_manager.domain.table import Route, Table, route_of_inlet, route_of_node
from router_manager.relay.engine import Relay
from router_manager.relay.grants_source import KubeGrants
from router_manager.relay.inlet.doors_source import KubeDoors
from router_manager.relay.kafka.cluster import Clusters
from router_manager.relay.kafka.commands import Commands
from router_manager.relay.kafka.devices_source import KubeUeids
from router_manager.relay.metrics import RelayCollector
from router_manager.relay.partition import held
from router_manager.relay.reporter import KubeReporter, Reports
from router_manager.relay.routes_source import KubeRoutes
from router_manager.relay.settings import Settings
from router_manager.relay.targets.credentials import Credentials
from router_manager.relay.targets.exits import Exits
from spire.domain.spiffe_id import SpiffeId
from spire.identity import IdentitySource
from spire.workload import identity_of

log = structlog.get_logger(__name__)

LEASES = "fluidos-relays"
"""Namespace of the Leases: whose names are those of nodes, so that rights are for all of them."""


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Stand by until there is a part of the node to serve; serve it until `stop` is set, then drain."""
    policy = settings.egress
    if settings.to_kafka:
        policy = replace(policy, kafka=policy.kafka | set(settings.to_kafka))
    serving: list[Relay] = []
    async with (
        probes(
            host=settings.metrics_host,
            port=settings.metrics_port,
            ready=lambda: any(relay.ready for relay in serving),
        ),
        identity_of(settings, stop=stop) as identity,
        await Kube.connect(kubeconfig=settings.kubeconfig, context=settings.context) as kube,
        held(settings.state_dir, partitions=settings.partitions, stop=stop) as place,
        Relay(
            state=place.directory,
            session=settings.session(identity, place.partition),
            exits=(
                exits := Exits(
                    policy,
                    identity=identity,
                    credentials=Credentials(settings.credentials_dir),
                    kafka_roots=settings.brokers_roots,
                    timeout_seconds=settings.target_timeout_seconds,
                )
            ),
            bounds=settings.bounds,
            listen=settings.listening(identity),
            inlet=settings.taking_in(identity),
            site=settings.site(identity),
            begun=settings.lease_seconds is None,
        ) as relay,
    ):
        serving.append(relay)
        await serve(
            relay,
            settings,
            stop,
            kube=kube,
            partition=place.partition,
            agent=agent_of(settings, identity),
            clusters=exits.clusters,
        )


def agent_of(settings: Settings, identity: IdentitySource | None) -> SpiffeId | None:
    """Whose word counts for devices that cannot prove themselves; None where nobody asks who devices are."""
    if identity is None or settings.listen is None:
        return None
    return identity.current.svid.spiffe_id.trust_domain.spiffe_id("agent", settings.node)


async def serve(
    relay: Relay,
    settings: Settings,
    stop: asyncio.Event,
    *,
    kube: Kube,
    partition: Partition,
    agent: SpiffeId | None,
    clusters: Clusters,
) -> None:
    """Keep the relay to the API server's routes, and its listener to the LeafDevices."""
    name = partition.name(settings.node)
    commands = Commands(clusters, node=name, send=relay.command) if settings.allow_commands else None
    collector = RelayCollector(relay, commands)
    REGISTRY.register(collector)
    routes, into = KubeRoutes(kube, part=part_of(relay, settings, partition)), settings.collecting
    reports = Reports(
        # Who collects serves no route: deliver relays report.
        pumps=relay.pumps_by_route if into is None else dict,
        node=name,
        insecure=settings.insecure,
        trouble=lambda: relay.ingest.problem,
        to=KubeReporter(kube, node=name),
        forwarding=None if relay.inlet is None else relay.inlet.forwarding,
    )

    def apply(table: Table) -> None:
        relay.apply(table if into is None else collected(table, into=into))
        if commands is not None:
            commands.serve(table)

    works = [routes.run(apply), relay.watch()]
    if commands is not None:
        works += [commands.run(), KubeUeids(kube, node=settings.node).run(commands.know)]
    report = partial(reports.run, relay.first_delivery)
    elector = elector_of(settings, kube=kube, relay=relay, part=name)
    works.append(report() if elector is None else lead(elector, relay, report))
    if agent is not None:
        works.append(KubeGrants(kube, node=settings.node, agent=agent).run(relay.permit))
    if relay.inlet is not None:
        works.append(KubeDoors(kube).run(relay.admit))
    await until_stopped(stop, *works)
    log.info("draining", at_most_seconds=settings.drain_seconds)
    await relay.drain(settings.drain_seconds)
    if elector is not None:
        await elector.release()
    REGISTRY.unregister(collector)


def part_of(relay: Relay, settings: Settings, partition: Partition) -> Callable[[DataRoute], Route | None]:
    """What this relay serves of a route: by where its readings come from."""
    if relay.site is not None:
        return route_of_site
    if relay.inlet is not None:
        return route_of_inlet
    return partial(route_of_node, node=settings.node, partition=partition)


def elector_of(settings: Settings, *, kube: Kube, relay: Relay, part: str) -> Elector | None:
    """For the Lease of a part of the node; None where no other machine serves it."""
    seconds = settings.lease_seconds
    if seconds is None:
        return None
    # Its holder is the spool: whoever has that need not wait.
    holder = relay.spool.identity
    election = Election(name=f"relay-{part}", namespace=LEASES, identity=holder, duration=seconds, renew=seconds / 3)
    return Elector(kube, election)


async def lead(elector: Elector, relay: Relay, report: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Take readings, and report, while the Lease is held.

    Raises:
        crds.kube.lease.Lost: another machine has it; the process ends and its supervisor starts it anew.
    """
    await elector.acquire()
    relay.begin()
    async with asyncio.TaskGroup() as group:
        group.create_task(report())
        group.create_task(elector.hold())


def cli() -> int:
    """Entry point."""
    # Records come and go by the thousand and hold no cycles: look for some rarely, and never among what stays.
    gc.freeze()
    # A thread that parses the spool gives way to what comes within this time, of 5 ms by default.
    sys.setswitchinterval(0.0005)
    gc.set_threshold(50_000, 20, 100)
    settings = settings_of(Settings)
    configure_logging(settings.log_level)
    return run_process(lambda stop: main(settings, stop))


if __name__ == "__main__":
    sys.exit(cli())
