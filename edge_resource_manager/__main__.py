"""`python -m edge_resource_manager`: devices, flavors and claims, one active replica a cluster."""

from __future__ import annotations

import asyncio
import sys

from crds.kube.manager import run_manager
from crds.kube.process import run_process, settings_of
from edge_resource_manager.handlers import build
from edge_resource_manager.settings import EdgeSettings


def main() -> int:
    """Run until SIGTERM; 1 when an error or the loss of the Lease ended it."""
    settings = settings_of(EdgeSettings)

    async def work(stop: asyncio.Event) -> None:
        await run_manager(
            stop, name="edge-resource-manager", settings=settings, build=lambda kube: build(kube, settings)
        )

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
