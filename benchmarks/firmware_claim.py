"""From a claim that no device satisfies to the first reading of the one that was flashed for it: the demo's time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Figure, spread
from scripts.demo.idle import SIZE
from scripts.testbed.manifests import REPOSITORY

GOAL_SECONDS = 15.0
LIMIT_SECONDS = 600.0


def measure(*, rounds: int) -> list[Figure]:
    """Show the demo so many times; the slowest counts."""
    seconds = [_demo() for _ in range(rounds)]
    return [
        Figure(
            key="claimToFirstMessageSeconds",
            text=f"claim until the first reading of a device flashed for it, image of {SIZE // 1024} KiB",
            value=max(seconds),
            goal=GOAL_SECONDS,
            holds="below",
            peer=f"s: {spread(seconds)} in {rounds} runs",
        )
    ]


def _demo() -> float:
    with tempfile.TemporaryDirectory(prefix="fluidos-bench-claim-") as folder:
        file = Path(folder) / "report.json"
        size = ("--consumers", "1", "--providers", "1", "--messages", "10")
        command = [sys.executable, "-m", "scripts.demo", "--repurpose", *size, "--report", str(file)]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the demo failed:\n{done.stdout[-4000:]}{done.stderr}")
        (repurposed,) = json.loads(file.read_text())["repurposed"]
        return float(repurposed["secondsToFirstMessage"])
