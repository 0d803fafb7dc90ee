"""Every parser of strangers' bytes holds for a second of fuzzing; `scripts/bench.sh fuzz` takes longer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fuzz_targets import Target, run, targets
from scripts.testbed.manifests import REPOSITORY

TARGETS = targets()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_fuzzing_starts_from_input_that_is_taken(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].parse(seed)


def test_an_exception_that_is_no_refusal_is_a_finding() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Target(lambda data: 1 / len(data), ()), b"")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_parser_holds(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", name, "--seconds", "1", "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
