"""A target that is down at 5,000 messages a second: the relay's memory, how fast it catches up, what others notice."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.relay_engines import Relay, route, target
from benchmarks.relay_stage import TOPICS, Board, Counts, Size, Stage
from benchmarks.report import Figure
from benchmarks.usage import resident_megabytes
from scripts.testbed.processes import Child, free_port

RATE: Final = 5_000
_WARM_SECONDS: Final = 10
_LIVE, _DOWN = "live", "down"
_CAUGHT_UP_SECONDS: Final = 0.5
_LIMIT_SECONDS: Final = 900


def figures(size: Size) -> list[Figure]:
    """One run: ten minutes of outage, in the short form one."""
    seconds = size.pick(short=60, full=600)
    with ExitStack() as stack:
        stage = stack.enter_context(
            Stage(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-memory-"))))
        )
        port = free_port()
        relay = Relay(
            routes=(
                route(_LIVE, TOPICS, [target(_LIVE, stage.url(_LIVE))]),
                route(_DOWN, TOPICS, [target(_DOWN, f"http://127.0.0.1:{port}/{_DOWN}")]),
            )
        )
        broker = stack.enter_context(stage.broker())
        child = stack.enter_context(stage.running(relay, broker))
        publisher = stack.enter_context(stage.publishing(broker.port, "-rate", str(RATE)))
        time.sleep(_WARM_SECONDS)
        stage.board.begin(_LIVE)
        print(f"{_DOWN} for {seconds} s ...", flush=True)
        memory = _watched(child, seconds)
        before = stage.board.get(_LIVE)
        _, board = stack.enter_context(stage.sink(port))
        caught_up = _caught_up(stage.board, board)
        during = stage.board.get(_LIVE)
        most = max(*memory, resident_megabytes(child.pid))
        publisher.terminate()
        sent = stage.published(publisher, limit=60).published
        lost = sum(sent - each.settled(sent, name).unique for each, name in ((stage.board, _LIVE), (board, _DOWN)))
    return [
        Figure(
            key="memoryGrowthMegabytes",
            text=f"memory, most less least, in {seconds} s without a target at {RATE:,}/s, MB",
            value=max(memory) - min(memory),
            goal=20,
            holds="at most",
            peer=f"{memory[0]:.0f} MB at first, {memory[-1]:.0f} MB at the end, {most:.0f} MB with catching up",
        ),
        Figure(
            key="catchUpOfArrival",
            text="catching up, messages/s delivered, times those that arrive",
            value=_rate(caught_up) / RATE,
            goal=3,
            holds="at least",
            peer=f"{caught_up.unique:,} messages, {_rate(caught_up):,.0f}/s",
        ),
        Figure(
            key="liveP99OfBefore",
            text="p99 of another target meanwhile, times that before",
            value=during.p99 / before.p99,
            goal=2,
            holds="at most",
            peer=f"{during.p99 / 1000:.2f} ms, before {before.p99 / 1000:.2f} ms",
        ),
        Figure(key="outageLost", text="messages lost by the outage", value=lost, goal=0, holds="at most"),
    ]


def _watched(child: Child, seconds: int) -> list[float]:
    """Memory in MB, once a second."""
    memory = []
    for _ in range(seconds):
        memory.append(resident_megabytes(child.pid))
        time.sleep(1)
    return memory


def _caught_up(live: Board, down: Board) -> Counts:
    """What the target has when it is no more than half a second behind the other; a new window for that one."""
    limit = time.monotonic() + _LIMIT_SECONDS
    begun = False
    while time.monotonic() < limit:
        counts = down.get(_DOWN)
        if counts.unique and not begun:
            begun = True
            live.begin(_LIVE)
        if counts.unique >= live.get(_LIVE).unique - _CAUGHT_UP_SECONDS * RATE:
            return counts
        time.sleep(0.05)
    raise TimeoutError(f"{counts.unique} messages within {_LIMIT_SECONDS} s, and more to come")


def _rate(counts: Counts) -> float:
    return counts.unique / ((counts.last - counts.first) / 1e9)
