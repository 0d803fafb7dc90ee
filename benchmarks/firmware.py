"""What updating devices costs. `scripts/bench.sh firmware [--short]`."""

from __future__ import annotations

import argparse
import sys

from benchmarks import firmware_claim, firmware_fleet, firmware_pull, firmware_smp
from benchmarks.report import finish


def main() -> int:
    """Measure, and say whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds: shows that it works, measures little")
    short = parser.parse_args().short
    figures = [
        *firmware_pull.measure(),
        *firmware_smp.measure(rounds=4 if short else 25),
        *firmware_claim.measure(rounds=1 if short else 3),
        *firmware_fleet.measure(boards=8 if short else 200),
    ]
    return finish("firmware", figures)


if __name__ == "__main__":
    sys.exit(main())
