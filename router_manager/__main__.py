"""`python -m router_manager`: the manager of routes, one active replica a cluster."""

from __future__ import annotations

import asyncio
import sys

from crds.kube.manager import run_manager
from crds.kube.process import configure_logging, run_process, settings_of
from router_manager.handlers import build
from router_manager.settings import RouterSettings
from spire.workload import identity_of


def main() -> int:
    """Run until SIGTERM; 1 when an error or the loss of the Lease ended it."""
    settings = settings_of(RouterSettings)
    configure_logging(settings.log_level)

    async def work(stop: asyncio.Event) -> None:
        # It speaks to the API server alone; but where identities are the rule, it does not start without one.
        async with identity_of(settings, stop=stop):
            await run_manager(stop, name="router-manager", settings=settings, build=lambda kube: build(kube, settings))

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
