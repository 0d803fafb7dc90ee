"""`python -m router_manager.relay`: wires the relay to its broker, its API server and its probes."""

from __future__ import annotations

import asyncio
import gc
import sys

import structlog
import uvloop
from prometheus_client import REGISTRY

from crds.kube.client import Kube
from crds.kube.process import configure_logging, probes, run_process, settings_of, until_stopped
from router_manager.relay.engine import Bounds, Relay
from router_manager.relay.grants_source import KubeGrants
from router_manager.relay.metrics import RelayCollector
from router_manager.relay.reporter import KubeReporter, Reports
from router_manager.relay.routes_source import KubeRoutes
from router_manager.relay.settings import Settings
from router_manager.relay.targets.exits import Exits
from spire.domain.spiffe_id import SpiffeId
from spire.identity import IdentitySource
from spire.workload import identity_of

log = structlog.get_logger(__name__)


def uvloop_runner() -> asyncio.Runner:
    """A tenth less CPU for each message than asyncio's own loop."""
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain."""
    policy, bounds = settings.egress, Bounds(spool_bytes=settings.spool_bytes)
    async with identity_of(settings, stop=stop) as identity:
        exits = Exits(policy, identity=identity, timeout_seconds=settings.target_timeout_seconds)
        async with Relay(
            state=settings.state_dir,
            session=settings.session(identity),
            exits=exits,
            bounds=bounds,
            listen=settings.listening(identity),
        ) as relay:
            await serve(relay, settings, stop, agent=agent_of(settings, identity))


def agent_of(settings: Settings, identity: IdentitySource | None) -> SpiffeId | None:
    """Whose word counts for devices that cannot prove themselves; None where nobody asks who devices are."""
    if identity is None or settings.listen is None:
        return None
    return identity.current.svid.spiffe_id.trust_domain.spiffe_id("agent", settings.node)


async def serve(relay: Relay, settings: Settings, stop: asyncio.Event, *, agent: SpiffeId | None) -> None:
    """Keep the relay to the API server's routes, and its listener to the LeafDevices."""
    collector = RelayCollector(relay)
    REGISTRY.register(collector)
    async with (
        probes(host=settings.metrics_host, port=settings.metrics_port, ready=lambda: relay.ready),
        await Kube.connect(kubeconfig=settings.kubeconfig, context=settings.context) as kube,
    ):
        routes = KubeRoutes(kube, node=settings.node)
        reports = Reports(
            pumps=relay.pumps_by_route,
            node=settings.node,
            insecure=settings.insecure,
            to=KubeReporter(kube, node=settings.node),
        )
        works = [routes.run(relay.apply), reports.run(relay.first_delivery), relay.watch()]
        if agent is not None:
            works.append(KubeGrants(kube, node=settings.node, agent=agent).run(relay.permit))
        await until_stopped(stop, *works)
        log.info("draining", at_most_seconds=settings.drain_seconds)
        await relay.drain(settings.drain_seconds)
    REGISTRY.unregister(collector)


def cli() -> int:
    """Entry point."""
    # Records come and go by the thousand and hold no cycles: look for some rarely, and never among what stays.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    settings = settings_of(Settings)
    configure_logging(settings.log_level)
    return run_process(lambda stop: main(settings, stop), runner=uvloop_runner)


if __name__ == "__main__":
    sys.exit(cli())
