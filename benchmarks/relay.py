"""The relay's figures beside those of its peers, by theme: each line with its goal, whether it holds, and the peer.

`scripts/bench.sh relay [--short] [--only cpu,latency,...] [--repetitions N]`. Everything real, every id checked; runs
are interleaved and medians count.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks import relay_change, relay_cpu, relay_kafka, relay_latency, relay_listener, relay_memory, relay_scale
from benchmarks.relay_stage import Size
from benchmarks.report import Figure, finish
from scripts.testbed.processes import exit_on_signals

THEMES: Final[dict[str, Callable[[Size], list[Figure]]]] = {
    "cpu": relay_cpu.figures,
    "listener": relay_listener.figures,
    "latency": relay_latency.figures,
    "scale": relay_scale.figures,
    "change": relay_change.figures,
    "memory": relay_memory.figures,
    "kafka": relay_kafka.figures,
}


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.relay", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer and smaller runs, for CI")
    parser.add_argument("--repetitions", type=int, help="of each run")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"some of {','.join(THEMES)}")
    parser.add_argument("--page", type=Path, help="a page in Markdown whose table this run shall be")
    options = parser.parse_args()
    chosen = options.only or list(THEMES)
    if unknown := set(chosen) - THEMES.keys():
        parser.error(f"--only {','.join(sorted(unknown))}: expected some of {','.join(THEMES)}")
    size = Size(short=options.short, repetitions=options.repetitions or (3 if options.short else 5))
    with exit_on_signals():
        figures = [figure for name in THEMES if name in chosen for figure in THEMES[name](size)]
    return finish("relay", figures, page=options.page)


if __name__ == "__main__":
    sys.exit(main())
