"""What crosses the network for one board of an index for eight, counted in front of a real registry."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from benchmarks.report import Figure
from flash_controller.oci.cache import Cache
from flash_controller.oci.pull import pull
from flash_controller.oci.registry import Registry
from scripts.testbed import registry as testbed
from tests.flash_controller.oci.proxy import proxied
from tests.flash_controller.oci.shelf import BOARDS, IMAGE_BYTES, stock

GOAL = 1.05


def measure() -> list[Figure]:
    """Pull once."""
    with tempfile.TemporaryDirectory(prefix="fluidos-bench-pull-") as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Figure]:
    with testbed.Registry(folder / "registry") as registry:
        shelf = await stock(registry.host, "firmware/bench")
        async with (
            proxied(registry.host) as proxy,
            Registry(f"{proxy.host}/{shelf.path}", plain_http=True) as repository,
        ):
            await pull(repository, digest=shelf.digest, board=BOARDS[0], cache=Cache(folder / "cache"))
    return [
        Figure(
            key="pulledPerImageByte",
            text="bytes pulled for one board of eight, for each byte of its image",
            value=round(proxy.bytes_sent / IMAGE_BYTES, 4),
            goal=GOAL,
            holds="below",
            peer=f"{proxy.bytes_sent} bytes in {len(proxy.seen)} answers for an image of {IMAGE_BYTES}",
        )
    ]
