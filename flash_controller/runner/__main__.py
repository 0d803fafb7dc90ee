"""`python -m flash_controller.runner`."""

from __future__ import annotations

import asyncio
import sys

from crds.errors import Terminal
from crds.kube.client import Kube
from crds.kube.process import configure_logging, run_process, settings_of
from flash_controller.runner.service import Runner
from flash_controller.runner.settings import RunnerSettings
from spire.workload import identity_of


async def main(settings: RunnerSettings, stop: asyncio.Event) -> None:
    """One attempt, until its end or until `stop` is set."""
    async with (
        identity_of(settings, stop=stop) as identity,
        await Kube.connect(kubeconfig=settings.kubeconfig, context=settings.context) as kube,
    ):
        if identity is None:
            raise Terminal("--insecure: without an identity no edge agent lends its links", reason="Insecure")
        await Runner(kube, identity, settings).run(stop)


def cli() -> int:
    """Entry point."""
    settings = settings_of(RunnerSettings)
    configure_logging(settings.log_level)
    return run_process(lambda stop: main(settings, stop))


if __name__ == "__main__":
    sys.exit(cli())
