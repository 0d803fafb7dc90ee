"""`python -m spire.issuer`."""

from __future__ import annotations

import asyncio
import sys

from crds.kube.client import Kube
from crds.kube.process import configure_logging, run_process, settings_of
from spire.issuer.service import serve_issuer
from spire.issuer.settings import IssuerSettings


async def main(settings: IssuerSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    async with await Kube.connect(kubeconfig=settings.kubeconfig, context=settings.context) as kube:
        await serve_issuer(settings, kube, stop)


def cli() -> int:
    """Entry point."""
    settings = settings_of(IssuerSettings)
    configure_logging(settings.log_level)
    return run_process(lambda stop: main(settings, stop))


if __name__ == "__main__":
    sys.exit(cli())
