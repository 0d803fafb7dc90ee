"""CPU for a message, broker to HTTP at QoS 1 with the spool on: the relay beside its peers, plain and over TLS."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.relay_engines import Poster, Relay, Telegraf
from benchmarks.relay_identities import identities
from benchmarks.relay_stage import Engine, Run, Size, Stage, losses
from benchmarks.report import Figure, spread

_RELAY, _KUBEEDGE = Relay(), Poster(inflight=0)
_TUNED = Telegraf(flush="100ms")
# A poster leaves a socket behind for each message: more would end with the file descriptors of this machine.
_POSTED = 6_000


def figures(size: Size) -> list[Figure]:
    """Plain, with all peers; over TLS, with those that have a goal."""
    peers = (_TUNED, Telegraf(flush="20ms"), Telegraf(flush=None), _KUBEEDGE, Poster(inflight=16))
    return [
        *_compared(size, peers, secured=False, goals=(1 / 3, 1 / 15)),
        *_compared(size, (_TUNED, _KUBEEDGE), secured=True, goals=(1 / 2, 1 / 10)),
    ]


def _compared(size: Size, peers: Sequence[Engine], *, secured: bool, goals: tuple[float, float]) -> list[Figure]:
    runs = _runs(size, [_RELAY, *peers], secured=secured)
    cpu = {name: [run.cpu_us for run in some] for name, some in runs.items()}
    ours = statistics.median(cpu[_RELAY.name])
    where, key = (", TLS on both sides", "Tls") if secured else ("", "")
    rest = [f"{peer.name} {spread(cpu[peer.name])}" for peer in peers if peer not in {_TUNED, _KUBEEDGE}]
    return [
        *(
            Figure(
                key=f"cpu{key}Of{word}",
                text=f"CPU a message{where}, share of {peer.name}",
                value=ours / statistics.median(cpu[peer.name]),
                goal=goal,
                holds="at most",
                peer="; ".join([f"{spread(cpu[_RELAY.name])} us", f"{peer.name} {spread(cpu[peer.name])}", *more]),
            )
            for peer, word, goal, more in (
                (_TUNED, "Telegraf", goals[0], rest),
                (_KUBEEDGE, "KubeEdgeShape", goals[1], []),
            )
        ),
        losses(f"cpu{key}Lost", f"messages lost{where}", runs, ours=[_RELAY.name]),
    ]


def _runs(size: Size, engines: Sequence[Engine], *, secured: bool) -> dict[str, list[Run]]:
    """Interleaved: what the machine does meanwhile meets all alike."""
    runs: dict[str, list[Run]] = {engine.name: [] for engine in engines}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-cpu-")))
        pems = stack.enter_context(identities(directory)) if secured else None
        stage = stack.enter_context(Stage(directory, secured=pems))
        for repetition in range(size.repetitions):
            for engine in engines:
                count = size.pick(short=40_000, full=100_000)
                run = stage.run(engine, count=_POSTED if engine is _KUBEEDGE else count)
                runs[engine.name].append(run)
                size.say(repetition, f"flood{', TLS' if secured else ''}", engine.name, run)
    return runs
