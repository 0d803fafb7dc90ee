"""The relay's listener against mosquitto alone: publisher, relay, HTTP sink, and publisher, mosquitto, subscriber.

Both acknowledge at QoS 1 and both are asked for every id; the relay has each on disk before it acknowledges, mosquitto
has it in memory.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.relay_engines import FILTER, Relay
from benchmarks.relay_stage import Board, Run, Size, Stage, losses
from benchmarks.report import Figure, spread
from scripts.testbed.processes import accepts, free_port

_OURS, _LIMIT = "listener", "mosquitto"


def figures(size: Size) -> list[Figure]:
    """Wall throughput on the same cores."""
    runs: dict[str, list[Run]] = {_OURS: [], _LIMIT: []}
    count = size.pick(short=50_000, full=200_000)
    with tempfile.TemporaryDirectory(prefix="bench-listener-") as folder, Stage(Path(folder)) as stage:
        for repetition in range(size.repetitions):
            for name, measure in ((_OURS, _listener), (_LIMIT, _mosquitto)):
                runs[name].append(measure(stage, count))
                size.say(repetition, "flood", name, runs[name][-1])
    rates = {name: [run.per_second for run in some] for name, some in runs.items()}
    costs = {name: [run.cpu_us for run in some] for name, some in runs.items()}
    ours, limit = (statistics.median(rates[name]) for name in (_OURS, _LIMIT))
    return [
        Figure(
            key="listenerThroughputOfMosquitto",
            text="listener to HTTP, messages/s, share of mosquitto to subscriber",
            value=ours / limit,
            goal=1.8,
            holds="at least",
            peer=f"{spread(rates[_OURS])}/s, mosquitto {spread(rates[_LIMIT])}/s; "
            f"CPU a message, without publisher and receiver {spread(costs[_OURS])} and {spread(costs[_LIMIT])} us",
        ),
        losses("listenerLost", "messages lost at the listener", runs, ours=[_OURS]),
    ]


def _listener(stage: Stage, count: int) -> Run:
    port = free_port()
    relay = Relay(flags=("--listen", f"127.0.0.1:{port}", "--listen-rate", "1e7"))
    stage.board.forget()
    with stage.broker() as broker, stage.running(relay, broker) as child:
        return stage.measure(port=port, pid=child.pid, count=count)


def _mosquitto(stage: Stage, count: int) -> Run:
    show = free_port()
    with stage.broker() as broker:
        words = ["-broker", f"127.0.0.1:{broker.port}", "-filter", FILTER, "-show", f"127.0.0.1:{show}"]
        with stage.gauge("count", *words) as child:
            child.wait_until(lambda: "ready" in child.tail() and accepts(show), what="its subscription", limit=20)
            return stage.measure(port=broker.port, pid=broker.pid, count=count, board=Board(show), names=["count"])
