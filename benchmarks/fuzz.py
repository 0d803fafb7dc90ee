"""Coverage-guided fuzzing of every parser of strangers' bytes: `scripts/bench.sh fuzz [--seconds N] [target]`.

Ends with 1 when a parser lets out an exception that is not a refusal in our words; the input is kept, and
`python -m benchmarks.fuzz_one TARGET FILE` shows it again. `--seconds` are shared among the targets.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.fuzz_targets import targets
from benchmarks.report import Figure, finish

_DONE = re.compile(r"Done (\d+) runs")
_COVERED = re.compile(r"cov: (\d+)")
INPUT_SECONDS = 5
MEMORY_MEGABYTES = 1024


def main() -> int:
    names = sorted(targets())
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="target", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together (600)")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-crashes"), help="where inputs go that break a parser")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(names):
        parser.error(f"no target {', '.join(unknown)}; there are: {', '.join(names)}")
    chosen = options.targets or names
    each = max(1, round(options.seconds / len(chosen)))
    broken = [name for name in chosen if not _fuzz(name, seconds=each, keep=options.keep)]
    return finish(
        "fuzz", [Figure(key="brokenParsers", text="parsers that break", value=len(broken), goal=0, holds="at most")]
    )


def _fuzz(name: str, *, seconds: int, keep: Path) -> bool:
    """Fuzz one target in a process of its own; whether it held."""
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        limits = [f"-max_total_time={seconds}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MEGABYTES}"]
        command = [
            sys.executable,
            "-m",
            "benchmarks.fuzz_one",
            name,
            corpus,
            *limits,
            f"-artifact_prefix={keep}/{name}-",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 120)
    runs, covered = _DONE.findall(done.stderr), _COVERED.findall(done.stderr)
    if done.returncode == 0 and runs:
        print(f"{name}: {runs[-1]} inputs, {covered[-1] if covered else 0} edges, held", flush=True)
        return True
    print(f"{name}: BROKEN\n{done.stdout[-3000:]}{done.stderr[-3000:]}", flush=True)
    return False


if __name__ == "__main__":
    sys.exit(main())
