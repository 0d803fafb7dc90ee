"""`python -m spire.helper`: tokens in, SVIDs out; one process a node or a pod."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

import aiohttp

from crds.kube.process import configure_logging, probes, run_process, settings_of, until_stopped
from spire.helper.api import serve
from spire.helper.held import Granted
from spire.helper.issuer import Issuer, Roots
from spire.helper.keeper import Keeper, follow_bundles
from spire.helper.settings import HelperSettings


def main() -> int:
    """Run until SIGTERM; 1 when an error ended it."""
    settings = settings_of(HelperSettings)
    configure_logging(settings.log_level)

    async def work(stop: asyncio.Event) -> None:
        await run(stop, settings)

    return run_process(work)


async def run(stop: asyncio.Event, settings: HelperSettings) -> None:
    """Serve all workloads until `stop` is set.

    Raises:
        Terminal: a flag is wrong, or a socket cannot be served.
    """
    workloads = settings.workloads
    roots = Roots(settings.bundle_file, settings.domain)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        issuer = Issuer(str(settings.issuer), roots=roots, session=session, timeout=settings.issuer_seconds)
        keepers = [Keeper(workload, issuer) for workload in workloads]
        for keeper in keepers:
            if keeper.workload.socket is not None:
                await stack.enter_async_context(serve(keeper.workload.socket, keeper.held))

        def ready() -> bool:
            return all(isinstance(keeper.held.value, Granted) for keeper in keepers)

        await stack.enter_async_context(probes(host=settings.metrics_host, port=settings.metrics_port, ready=ready))
        files = [keeper.keep_files(keeper.workload.files) for keeper in keepers if keeper.workload.files is not None]
        await until_stopped(stop, follow_bundles(issuer, keepers), *(keeper.keep() for keeper in keepers), *files)


if __name__ == "__main__":
    sys.exit(main())
