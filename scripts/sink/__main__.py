"""`python -m scripts.sink --port 4487`: receives at any `http://127.0.0.1:4487/<name>` until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from scripts.sink.server import Sink
from scripts.testbed.console import say


async def serve(port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Sink(port=port) as sink:
        say(f"sink: {sink.url('<name>')}")
        await stop.wait()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m scripts.sink", description="Endpoints that receive readings.")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; a free one when absent")
    port = parser.parse_args().port
    try:
        asyncio.run(serve(port))
    except OSError as error:
        say(f"sink: port {port}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
