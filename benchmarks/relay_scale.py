"""What more targets and more routes cost: CPU a message with ten targets, and in a table of 5,000 routes."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.relay_engines import Relay, route, target
from benchmarks.relay_stage import SINK, TOPICS, Run, Size, Stage, losses
from benchmarks.report import Figure, spread

ROUTES: Final = 5_000
_TARGETS: Final = 10
_ONE, _FAN_OUT = "one target", f"{_TARGETS} targets"
_TABLE, _SPREAD = "one of many routes", "all routes"
_TOPIC: Final = "sensors/edge-1/sensor-%04d/humidity"
_TOPICS_EACH: Final = 2
_ALL_TOPICS: Final = len(TOPICS) + _TOPICS_EACH * (ROUTES - 1)


def figures(size: Size) -> list[Figure]:
    """Each held against one route with one target in the same run."""
    runs: dict[str, list[Run]] = {name: [] for name in (_ONE, _FAN_OUT, _TABLE, _SPREAD)}
    count = size.pick(short=40_000, full=100_000)
    names = [f"target-{number}" for number in range(_TARGETS)]
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder, Stage(Path(folder)) as stage:
        fan_out = Relay(routes=(route("bench", TOPICS, [target(name, stage.url(name)) for name in names]),))
        many = _many(stage)
        spread_out = ("-topics", str(_ALL_TOPICS), "-pattern", _TOPIC)
        for repetition in range(size.repetitions):
            for name, relay, ends, flags in (
                (_ONE, Relay(), [SINK], ()),
                (_FAN_OUT, fan_out, names, ()),
                (_TABLE, many, [SINK], ()),
                (_SPREAD, many, [SINK], spread_out),
            ):
                for end in ends:
                    stage.board.forget(end)
                with stage.broker() as broker, stage.running(relay, broker) as child:
                    run = stage.measure(port=broker.port, pid=child.pid, count=count, names=ends, flags=flags)
                runs[name].append(run)
                size.say(repetition, "flood", name, run)
    return _figures(runs)


def _many(stage: Stage) -> Relay:
    """5,000 routes: the first has a hundred topics, the others two each."""
    topics = [_TOPIC % number for number in range(_ALL_TOPICS)]
    ends = [target(SINK, stage.url())]
    first = [route("route-0", topics[: len(TOPICS)], ends)]
    rest = (topics[at : at + _TOPICS_EACH] for at in range(len(TOPICS), _ALL_TOPICS, _TOPICS_EACH))
    return Relay(routes=(*first, *(route(f"route-{number}", some, ends) for number, some in enumerate(rest, 1))))


def _figures(runs: dict[str, list[Run]]) -> list[Figure]:
    cpu = {name: [run.cpu_us for run in some] for name, some in runs.items()}
    one = statistics.median(cpu[_ONE])
    goals = (
        ("fanOutOfOne", _FAN_OUT, f"CPU a message with {_TARGETS} targets, times that with one", 4.0),
        (
            "manyRoutesOfOne",
            _TABLE,
            f"CPU a message with {ROUTES:,} routes, {_ALL_TOPICS:,} topics, traffic on one, times one route",
            1.3,
        ),
        ("allRoutesOfOne", _SPREAD, "the same, traffic on all topics", 1.3),
    )
    return [
        *(
            Figure(
                key=key,
                text=text,
                value=statistics.median(cpu[name]) / one,
                goal=goal,
                holds="at most",
                peer=f"{spread(cpu[name])} us; {_ONE} {spread(cpu[_ONE])} us",
            )
            for key, name, text, goal in goals
        ),
        losses("scaleLost", "messages lost with many targets or routes", runs, ours=runs),
    ]
