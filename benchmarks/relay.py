"""The relay against the same bridge written with paho: CPU for each message in a flood, latency at a steady rate.

Everything real: mosquitto, the relay as its own process with its spool and fdatasync, HTTP batches into a sink that
checks every id. Publisher, broker, engine and sink share the machine, so wall time says little; what is compared is
the engine's own user and system time. Runs are interleaved, and their median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.relay_publisher import TOPICS
from benchmarks.report import Figure, finish
from crds.models.dataroute import ResolvedSource
from crds.models.delivery import Endpoint
from router_manager.domain.table import Route, Table
from scripts.testbed.broker import SEARCH_PATH
from scripts.testbed.processes import Child, accepts, free_port

Engine = Literal["relay", "paho"]
_TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parent.parent

# No persistence: mosquitto would write its database instead of routing, and be the limit of both engines.
_BROKER = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One engine, one load."""

    cpu_us: float
    """Engine's CPU for a message, in microseconds."""
    seconds: float
    p50_us: int
    p99_us: int
    lost: int
    duplicates: int


class Bench:
    """One sink for all runs; each has its own broker, on which no session of the last one queues."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._sink_port = free_port()
        command = [sys.executable, "-m", "benchmarks.relay_sink", str(self._sink_port)]
        stack.callback(self._serve("sink", command, self._sink_port).stop)

    def run(self, engine: Engine, *, count: int, rate: float) -> Run:
        """Start the engine, publish, wait until the sink has all, stop it."""
        self.sink("DELETE")
        with self.broker() as broker_port, self.engine(engine, broker_port) as child:
            before, started = _cpu_seconds(child.pid), time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "benchmarks.relay_publisher", str(broker_port), str(count), str(rate)],
                cwd=ROOT,
                check=True,
                timeout=300,
            )
            limit = time.monotonic() + 60
            while (counts := self.sink("GET"))["unique"] < count and time.monotonic() < limit:
                time.sleep(0.05)
            seconds = time.perf_counter() - started
            used = _cpu_seconds(child.pid) - before
        return Run(
            cpu_us=used * 1e6 / count,
            seconds=seconds,
            p50_us=counts["p50"],
            p99_us=counts["p99"],
            lost=count - counts["unique"],
            duplicates=counts["duplicates"],
        )

    @contextmanager
    def broker(self) -> Iterator[int]:
        """A mosquitto of its own; yields its port."""
        port = free_port()
        configuration = self._directory / "mosquitto.conf"
        configuration.write_text(_BROKER.format(port=port))
        program = shutil.which("mosquitto", path=SEARCH_PATH)
        if program is None:
            sys.exit("mosquitto is not installed; on Debian: apt-get install mosquitto")
        child = self._serve("mosquitto", [program, "-c", str(configuration)], port)
        try:
            yield port
        finally:
            child.stop()

    @contextmanager
    def engine(self, engine: Engine, broker_port: int, *flags: str) -> Iterator[Child]:
        """One of them, subscribed; `flags` are the relay's."""
        state = Path(tempfile.mkdtemp(dir=self._directory))
        child = self._relay(state, broker_port, *flags) if engine == "relay" else self._paho(state, broker_port)
        try:
            yield child
        finally:
            child.stop()
            shutil.rmtree(state)

    def _relay(self, state: Path, broker_port: int, *more: str) -> Child:
        """The relay's own process, on the table of its last life: its API server is away."""
        kubeconfig, probes = state / "kubeconfig", free_port()
        kubeconfig.write_text(json.dumps(_nowhere()))
        (state / "table.json").write_text(self._table().model_dump_json(by_alias=True))
        flags = {
            "--node": "bench",
            "--broker": f"mqtt://127.0.0.1:{broker_port}",
            "--state-dir": state,
            "--kubeconfig": kubeconfig,
            "--metrics-port": probes,
            "--egress-allow": "127.0.0.0/8",
        }
        words = [str(word) for pair in flags.items() for word in pair]
        command = [sys.executable, "-m", "router_manager.relay", "--insecure", *words, *more]
        child = Child(name="relay", command=command, directory=ROOT, logs=self._directory)
        child.wait_until(lambda: _ready(probes), what="/readyz of the relay", limit=20)
        return child

    def _paho(self, state: Path, broker_port: int) -> Child:
        child = Child(
            name="paho",
            command=[sys.executable, "-m", "benchmarks.relay_peer", str(broker_port), str(self._sink_port)],
            directory=ROOT,
            logs=state,
        )
        child.wait_until(lambda: "ready" in child.tail(), what="subscription of the peer", limit=20)
        return child

    def _table(self) -> Table:
        sources = tuple(
            ResolvedSource(
                flavor=f"flavor-{number}", device=f"sensor-{number}", sensor="humidity", node="n", topic=topic
            )
            for number, topic in enumerate(TOPICS)
        )
        target = Endpoint(name="sink", url=f"http://127.0.0.1:{self._sink_port}/")
        return Table(routes=(Route(uid="bench", namespace="bench", name="bench", sources=sources, targets=(target,)),))

    def sink(self, method: str) -> Any:
        """What the sink counted (GET), or have it begin anew (DELETE)."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._sink_port}/", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
            return json.loads(answer.read() or b"{}")

    def _serve(self, name: str, command: list[str], port: int) -> Child:
        child = Child(name=name, command=command, directory=ROOT, logs=self._directory)
        child.wait_until(lambda: accepts(port), what=f"{name} on port {port}", limit=10)
        return child


def _cpu_seconds(pid: int) -> float:
    """User and system time so far; fields 14 and 15 of proc(5)'s stat, behind the name in parentheses."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _nowhere() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "none",
        "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "none", "user": {}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    }


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.relay", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer and smaller runs, for CI")
    parser.add_argument("--repetitions", type=int)
    options = parser.parse_args()
    repetitions = options.repetitions or (3 if options.short else 5)
    count, steady = (30_000, 3_000) if options.short else (100_000, 10_000)
    floods: dict[Engine, list[Run]] = {"relay": [], "paho": []}
    paced: dict[Engine, list[Run]] = {"relay": [], "paho": []}
    with ExitStack() as stack:
        bench = Bench(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-relay-"))), stack)
        for repetition in range(repetitions):
            for load, results, number, rate in (("flood", floods, count, 0.0), ("1,000/s", paced, steady, 1000.0)):
                for engine in ("relay", "paho"):
                    run = bench.run(engine, count=number, rate=rate)
                    results[engine].append(run)
                    print(
                        f"{repetition + 1}/{repetitions} {engine:5} {load:8} {run.cpu_us:6.1f} us CPU a message, "
                        f"{number / run.seconds:7.0f} messages/s, p50 {run.p50_us / 1000:.2f} ms, "
                        f"p99 {run.p99_us / 1000:.2f} ms, lost {run.lost}, twice {run.duplicates}",
                        flush=True,
                    )
    ours, theirs = (statistics.median(run.cpu_us for run in floods[engine]) for engine in ("relay", "paho"))
    p99, p99_theirs = (statistics.median(run.p99_us for run in paced[engine]) / 1000 for engine in ("relay", "paho"))
    lost = sum(run.lost for results in (floods, paced) for run in results["relay"])
    return finish(
        "relay",
        [
            Figure(
                key="cpuPerMessageOfPeer",
                text="CPU a message, share of the paho bridge",
                value=ours / theirs,
                goal=1 / 3,
                holds="at most",
                peer=f"{ours:.1f} us, paho {theirs:.1f} us",
            ),
            Figure(
                key="p99Milliseconds",
                text="p99 publish to sink at 1,000 messages/s, ms",
                value=p99,
                goal=10,
                holds="below",
                peer=f"paho {p99_theirs:.1f} ms",
            ),
            Figure(key="lost", text="messages lost", value=lost, goal=0, holds="at most"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
