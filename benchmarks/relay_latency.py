"""Latency from sending to arrival at a steady rate: the relay beside the poster with kept connections and Telegraf."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.relay_engines import Poster, Relay, Telegraf
from benchmarks.relay_stage import Engine, Run, Size, Stage, losses
from benchmarks.report import Figure, spread

_RELAY, _POSTER = Relay(), Poster(inflight=16)
_ENGINES: tuple[Engine, ...] = (_RELAY, _POSTER, Telegraf(flush="20ms"))
_SHARE_OF_POSTER = 1.5


def figures(size: Size) -> list[Figure]:
    """At 1,000 and 10,000 messages a second."""
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-latency-") as folder, Stage(Path(folder)) as stage:
        for rate, p50_goal, p99_goal in ((1_000, 1.0, 5.0), (10_000, None, 15.0)):
            found += _at(stage, size, rate=rate, p50_goal=p50_goal, p99_goal=p99_goal)
    return found


def _at(stage: Stage, size: Size, *, rate: int, p50_goal: float | None, p99_goal: float) -> list[Figure]:
    runs: dict[str, list[Run]] = {engine.name: [] for engine in _ENGINES}
    for repetition in range(size.repetitions):
        for engine in _ENGINES:
            run = stage.run(engine, count=size.pick(short=3, full=15) * rate, rate=rate, warm_up=rate)
            runs[engine.name].append(run)
            size.say(repetition, f"{rate:,}/s", engine.name, run)
    p99 = {name: [run.p99_ms for run in some] for name, some in runs.items()}
    ours, theirs = (statistics.median(p99[engine.name]) for engine in (_RELAY, _POSTER))
    p50s = {name: [run.p50_ms for run in some] for name, some in runs.items()}
    found = [
        Figure(
            key=f"p99Milliseconds{rate}",
            text=f"p99 at {rate:,} messages/s, ms",
            value=ours,
            goal=p99_goal,
            holds="at most",
            peer="; ".join(f"{name} {spread(some)}" for name, some in p99.items()),
        ),
        Figure(
            key=f"p99OfPoster{rate}",
            text=f"p99 at {rate:,} messages/s, share of the poster's with kept connections",
            value=ours / theirs,
            goal=_SHARE_OF_POSTER,
            holds="at most",
        ),
        losses(f"latencyLost{rate}", f"messages lost at {rate:,}/s", runs, ours=[_RELAY.name]),
    ]
    if p50_goal is not None:
        found.insert(
            0,
            Figure(
                key=f"p50Milliseconds{rate}",
                text=f"p50 at {rate:,} messages/s, ms",
                value=statistics.median(p50s[_RELAY.name]),
                goal=p50_goal,
                holds="at most",
                peer="; ".join(f"{name} {spread(some)}" for name, some in p50s.items()),
            ),
        )
    return found
