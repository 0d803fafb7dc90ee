"""The wall clock jumps under the relay, forward and back, as it does on a node that finds its time server late."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import pytest

from crds.models.delivery import PayloadFilter
from tests.faults.site import moments, site

_DAY = 86_400


class Clock:
    """Of one process, by a preloaded library (`clock.c`)."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler to make the library of")
        library, self._offset = directory / "clock.so", directory / "clock"
        source = Path(__file__).with_name("clock.c")
        command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True, timeout=60)
        self.set(0)
        self.environment = {**os.environ, "LD_PRELOAD": str(library), "FAULTS_CLOCK": str(self._offset)}

    def set(self, seconds: int) -> None:
        """So far from the machine's clock, from now on."""
        file = os.open(self._offset, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(file, seconds.to_bytes(8, sys.byteorder, signed=True))
        os.close(file)

    def ask(self) -> float:
        """What a process of this clock takes for the time."""
        command = [sys.executable, "-c", "import time; print(time.time())"]
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=60)
        return float(done.stdout)


def test_a_clock_that_jumps_drops_nothing_and_stops_no_rate_limit(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    generous = PayloadFilter(max_per_second=100_000)
    with site(tmp_path, environment=clock.environment, passing=generous) as running:
        for moment, seconds in zip(moments("clock"), cycle([_DAY, -30 * _DAY, 3600, 0]), strict=False):
            time.sleep(moment)
            clock.set(seconds)
            assert abs(clock.ask() - time.time() - seconds) < 600
            running.moves(what=f"a delivery {seconds} s off")
        running.settle(faults=0)
