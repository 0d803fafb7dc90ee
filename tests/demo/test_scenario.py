"""The demo as a newcomer runs it: real processes from start to end, and nothing left of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.testbed.manifests import REPOSITORY


@pytest.fixture
def state() -> Iterator[Path]:
    """Where the demo keeps its state, for this test alone: no longer a path than the sockets in it can bear."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        state = Path(folder) / "state"
        state.mkdir()
        yield state


def command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "scripts.demo", *arguments]


@contextmanager
def demo(state: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    with (state.parent / "output").open("w") as output:
        process = subprocess.Popen(
            command(*arguments),
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": str(state)},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def output(state: Path) -> str:
    return (state.parent / "output").read_text()


def wait_for(text: str, state: Path, process: subprocess.Popen[str], *, limit: float) -> None:
    deadline = time.monotonic() + limit
    while text not in output(state):
        assert process.poll() is None, output(state)
        assert time.monotonic() < deadline, output(state)
        time.sleep(0.1)


def processes_of(state: Path) -> dict[int, str]:
    """Whatever runs with this folder in its arguments, its working directory or its environment."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            marks = [
                (entry / "cmdline").read_bytes(),
                (entry / "environ").read_bytes(),
                os.fsencode((entry / "cwd").readlink()),
            ]
        except OSError:  # it has ended meanwhile
            continue
        if any(os.fsencode(state) in mark for mark in marks):
            found[int(entry.name)] = marks[0].replace(b"\0", b" ").decode()
    return found


def assert_nothing_left(state: Path) -> None:
    assert processes_of(state) == {}
    assert list(state.iterdir()) == []


@pytest.mark.control_plane
@pytest.mark.broker
@pytest.mark.timeout(300)
def test_claims_become_delivered_readings_and_stop_ends_it_all(state: Path, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    size = ("--consumers", "1", "--providers", "1", "--messages", "40", "--rate", "20")
    with demo(state, *size, "--keep", "--repurpose", "--report", report_file) as process:
        assert process.wait(240) == 0, output(state)  # it returns, and what it started stays
        assert "to end it" in output(state)
        report = json.loads(report_file.read_text())
        kubeconfig = re.search(r"^export KUBECONFIG=(.+)$", output(state), re.MULTILINE)
        assert kubeconfig
        assert "fluidos-provider-1" in Path(kubeconfig[1]).read_text()
        stopped = subprocess.run(
            command("--stop"), cwd=REPOSITORY, env={**os.environ, "TMPDIR": str(state)}, timeout=40, check=False
        )
        assert stopped.returncode == 0
    assert_nothing_left(state)
    assert report["ok"], report
    assert_scenarios(report)
    assert_flashed(report)


def assert_scenarios(report: dict[str, Any]) -> None:
    claims = {claim["name"]: claim for claim in report["claims"]}
    targets = {target["name"]: target for target in report["targets"]}
    assert all(claim["secondsToFirstMessage"] >= 0 for claim in claims.values())
    # One consumer, several endpoints; the same sensors shared, and another one for one of the two.
    many, shared = claims["pressure-many-endpoints"], claims["pressure-shared"]
    assert many["bound"] == shared["bound"]
    assert claims["wind"]["bound"] != shared["bound"]
    assert {name for name, each in targets.items() if each["claim"] == many["name"]} == {
        "pressure-many-endpoints.dashboard",
        "pressure-many-endpoints.archive",
        "pressure-many-endpoints.influx",
    }
    # < 16 ms is one STM32; < 25 ms is that one and another, and never the nRF52 that is faster than both.
    fast, slow = claims["humidity-under-16ms"], claims["humidity-under-25ms"]
    assert len(fast["bound"]) == 1
    assert len(slow["bound"]) == 2
    assert fast["bound"][0] in slow["bound"]
    # One of the two signs its readings, and nobody else is bound where that is asked for.
    (signing,) = claims["humidity-signed"]["bound"]
    assert signing in slow["bound"]
    signed = {name: target["signed"] for name, target in targets.items() if target["signed"]}
    assert signed == {"humidity-signed.archive": 40, "humidity-under-25ms.control": 40}
    for target in targets.values():
        flavors = len(claims[target["claim"]]["bound"])
        assert (target["published"], target["delivered"], target["lost"]) == (40 * flavors, 40 * flavors, 0)


def assert_flashed(report: dict[str, Any]) -> None:
    (repurposed,) = report["repurposed"]
    assert (repurposed["from"], repurposed["to"]) == ("idle", "visibility")
    assert repurposed["digest"].startswith("sha256:")
    assert repurposed["secondsToFirstMessage"] > 0
    (halted,) = report["halted"]
    assert halted["state"] == "RolledBack"
    assert halted["device"] != repurposed["device"]
    assert halted["untouched"] == halted["others"] == 2


@pytest.mark.control_plane
def test_sigterm_in_the_middle_leaves_nothing(state: Path, tmp_path: Path) -> None:
    report_file = tmp_path / "report.json"
    report_file.write_text('{"ok": true}')
    with demo(state, "--consumers", "1", "--providers", "1", "--report", report_file) as process:
        wait_for("  control planes (", state, process, limit=120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM, output(state)
    assert_nothing_left(state)
    assert json.loads(report_file.read_text())["ok"] is False


@pytest.mark.control_plane
def test_sigkill_leaves_no_process(state: Path, tmp_path: Path) -> None:
    with demo(state, "--consumers", "1", "--providers", "1", "--report", tmp_path / "report.json") as process:
        wait_for("control planes ...", state, process, limit=60)
        process.kill()
        process.wait(10)
    deadline = time.monotonic() + 10
    while processes_of(state) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(state) == {}


def test_a_file_that_cannot_be_replayed_ends_it_at_once(state: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.touch()
    with demo(state, "--replay", empty, "--report", tmp_path / "report.json") as process:
        assert process.wait(30) == 2
    assert str(empty) in output(state)
    assert_nothing_left(state)


def test_a_report_that_cannot_be_written_ends_it_at_once(state: Path, tmp_path: Path) -> None:
    with demo(state, "--report", tmp_path / "absent" / "report.json") as process:
        assert process.wait(30) == 2
    assert "absent" in output(state)
    assert_nothing_left(state)


def test_nobody_is_flashed_who_can_prove_nothing(state: Path) -> None:
    with demo(state, "--repurpose", "--insecure") as process:
        assert process.wait(30) == 2
    assert "--repurpose" in output(state)


def test_stop_without_a_demo_says_so(state: Path) -> None:
    with demo(state, "--stop") as process:
        assert process.wait(30) == 0
    assert "no demo is running" in output(state)
