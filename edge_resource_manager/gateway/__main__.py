"""`python -m edge_resource_manager.gateway`."""

from __future__ import annotations

import asyncio
import sys

from crds.kube.client import Kube
from crds.kube.process import configure_logging, run_process, settings_of
from edge_resource_manager.gateway.egress import bound_lookups
from edge_resource_manager.gateway.service import Gateway
from edge_resource_manager.gateway.settings import GatewaySettings
from spire.workload import identity_of


async def main(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    async with (
        identity_of(settings, stop=stop) as identity,
        await Kube.connect(kubeconfig=settings.kubeconfig, context=settings.context) as kube,
    ):
        await Gateway(kube, settings, identity=identity).run(stop)


def cli() -> int:
    """Entry point."""
    settings = settings_of(GatewaySettings)
    configure_logging(settings.log_level)
    bound_lookups()
    return run_process(lambda stop: main(settings, stop))


if __name__ == "__main__":
    sys.exit(cli())
