"""`python -m edge_resource_manager.agent`."""

from __future__ import annotations

import asyncio
import sys

from crds.errors import Terminal
from crds.kube.client import Kube
from crds.kube.process import configure_logging, run_process, settings_of
from edge_resource_manager.agent.service import Agent
from edge_resource_manager.agent.settings import AgentSettings
from spire.workload import identity_of


async def main(settings: AgentSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    async with (
        identity_of(settings, stop=stop) as identity,
        await Kube.connect(kubeconfig=settings.kubeconfig, context=settings.context) as kube,
    ):
        if identity is None:
            raise Terminal("--insecure: without identities there is nothing that an edge agent does", reason="Insecure")
        await Agent(kube, settings, identity).run(stop)


def cli() -> int:
    """Entry point."""
    settings = settings_of(AgentSettings)
    configure_logging(settings.log_level)
    return run_process(lambda stop: main(settings, stop))


if __name__ == "__main__":
    sys.exit(cli())
