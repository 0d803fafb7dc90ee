"""`python -m flash_controller`: the catalog and the rollouts, one active replica a cluster."""

from __future__ import annotations

import asyncio
import sys

from crds.kube.manager import run_manager
from crds.kube.process import configure_logging, run_process, settings_of
from flash_controller.handlers import build
from flash_controller.settings import FlashSettings
from spire.workload import identity_of


def main() -> int:
    """Run until SIGTERM; 1 when an error or the loss of the Lease ended it."""
    settings = settings_of(FlashSettings)
    configure_logging(settings.log_level)

    async def work(stop: asyncio.Event) -> None:
        # It speaks to the API server and to registries alone; but where identities are the rule, none starts without.
        async with identity_of(settings, stop=stop):
            await run_manager(
                stop, name="flash-controller", settings=settings, build=lambda kube: build(kube, settings)
            )

    return run_process(work)


if __name__ == "__main__":
    sys.exit(main())
