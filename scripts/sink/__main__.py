"""`python -m scripts.sink --port 4487`: receives at any `http://127.0.0.1:4487/<name>` until it is stopped.

With `--tls-dir` it receives at `https://127.0.0.1:<--tls-port>/<name>`, and shows what it has at `--port`; with
`--verify-readings` too it says which device signed a reading, and keeps none that its device did not sign as it came.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from scripts.sink.identity import identity_in
from scripts.sink.server import Sink
from scripts.testbed.console import say


async def serve(*, port: int, tls_dir: Path | None, tls_port: int, verify_readings: bool) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        identity_in(tls_dir) as identity,
        Sink(port=port, identity=identity, tls_port=tls_port, verify_readings=verify_readings) as sink,
    ):
        say(f"sink: {sink.url('<name>')}")
        await stop.wait()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m scripts.sink", description="Endpoints that receive readings.")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; a free one when absent")
    parser.add_argument(
        "--tls-dir", type=Path, help="folder with svid.pem, key.pem, bundle.pem: receive over mutual TLS"
    )
    parser.add_argument("--tls-port", type=int, default=0, help="where to; a free one when absent")
    parser.add_argument(
        "--verify-readings", action="store_true", help="verify readings that their devices signed, by bundle.pem"
    )
    options = parser.parse_args()
    if options.verify_readings and options.tls_dir is None:
        parser.error("--verify-readings: expected --tls-dir beside it, whose bundle.pem says who is believed")
    try:
        asyncio.run(serve(**vars(options)))
    except (OSError, ValueError) as error:
        say(f"sink: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
