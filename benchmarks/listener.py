"""The relay's listener against mosquitto alone: publisher -> relay -> HTTP, and publisher -> mosquitto -> subscriber.

Both acknowledge at QoS 1 and both are asked for every id; the relay has each on disk before it acknowledges, mosquitto
has them in memory. All processes share the machine, which is what wall time counts; CPU a message is less
sensitive to what else runs there. Runs are interleaved, medians count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import relay_publisher
from benchmarks.relay import ROOT, Bench
from benchmarks.report import Figure, finish
from benchmarks.usage import cpu_seconds
from scripts.testbed.processes import Child, free_port


@dataclass(frozen=True, slots=True)
class Run:
    """One way, one flood.

    Attributes:
        per_second: messages, from the first one sent to the last one received.
        cpu_us: of all processes but the publisher, for a message.
        lost: of the ids.
    """

    per_second: float
    cpu_us: float
    lost: int


def flood(port: int, count: int, lost: Callable[[], int]) -> Run:
    """Publish all, wait until none is lost or a minute has gone."""
    before, started = children_cpu_seconds(), time.perf_counter()
    uvloop.run(relay_publisher.main(port, count, 0.0))
    limit = time.monotonic() + 60
    while (missing := lost()) and time.monotonic() < limit:
        time.sleep(0.02)
    seconds, used = time.perf_counter() - started, children_cpu_seconds() - before
    return Run(count / seconds, used * 1e6 / count, missing)


def children_cpu_seconds() -> float:
    """Of all processes that this one has started and not yet waited for."""
    lists = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return sum(cpu_seconds(int(pid)) for pids in lists for pid in pids)


def listener(bench: Bench, count: int) -> Run:
    """Publisher, relay, HTTP sink."""
    port = free_port()
    bench.sink("DELETE")
    flags = ("--listen", f"127.0.0.1:{port}", "--listen-rate", "1e7")
    with bench.broker() as broker, bench.engine("relay", broker, *flags):
        return flood(port, count, lambda: count - int(bench.sink("GET")["unique"]))


def mosquitto(bench: Bench, count: int, directory: Path) -> Run:
    """Publisher, mosquitto, subscriber."""
    with bench.broker() as broker:
        command = [sys.executable, "-m", "benchmarks.relay_subscriber", str(broker), str(count)]
        child = Child(name="subscriber", command=command, directory=ROOT, logs=directory)

        def lost() -> int:
            _, found, seen = child.tail().rpartition("seen ")
            return count - int(seen) if found else count

        try:
            child.wait_until(lambda: "ready" in child.tail(), what="subscription", limit=20)
            return flood(broker, count, lost)
        finally:
            child.stop()


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.listener", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer and smaller runs, for CI")
    options = parser.parse_args()
    repetitions, count = (3, 50_000) if options.short else (5, 200_000)
    ours: list[Run] = []
    theirs: list[Run] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-listener-")))
        bench = Bench(directory, stack)
        for repetition in range(repetitions):
            ours.append(listener(bench, count))
            theirs.append(mosquitto(bench, count, directory))
            print(f"{repetition + 1}/{repetitions} {ours[-1]} mosquitto {theirs[-1]}", flush=True)
    mine, limit = (statistics.median(run.per_second for run in runs) for runs in (ours, theirs))
    cpu, cpu_limit = (statistics.median(run.cpu_us for run in runs) for runs in (ours, theirs))
    return finish(
        "listener",
        [
            Figure(
                key="listenerThroughputOfMosquitto",
                text="listener to HTTP, messages/s, share of mosquitto to subscriber",
                value=mine / limit,
                goal=1.8,
                holds="at least",
                peer=f"{mine:,.0f}/s, mosquitto {limit:,.0f}/s; {cpu:.1f} and {cpu_limit:.1f} us CPU a message",
            ),
            Figure(key="listenerLost", text="messages lost", value=sum(r.lost for r in ours), goal=0, holds="at most"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
