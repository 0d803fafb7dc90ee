"""`python -m edge_resource_manager`: devices, flavors and claims, one active replica a cluster."""

from __future__ import annotations

import asyncio
import sys

from crds.kube.manager import run_manager
from crds.kube.process import configure_logging, run_process, settings_of
from edge_resource_manager.handlers import build
from edge_resource_manager.settings import EdgeSettings
from spire.workload import identity_of


def main() -> int:
    """Run until SIGTERM; 1 when an error or the loss of the Lease ended it."""
    settings = settings_of(EdgeSettings)
    configure_logging(settings.log_level)

    async def work(stop: asyncio.Event) -> None:
        async with identity_of(settings, stop=stop) as identity:
            await run_manager(
                stop,
                name="edge-resource-manager",
                settings=settings,
                build=lambda kube: build(kube, settings, identity),
            )

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
