"""Where engines are measured: mosquitto, publisher and sink, all of them real, and every id counted.

Publisher, broker, engine and sink share the machine, so wall time says little; what is compared is the engine's own
user and system time for a message.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, Self

from benchmarks.relay_identities import Identities
from benchmarks.relay_programs import gauge
from benchmarks.report import Figure
from benchmarks.usage import cpu_seconds
from scripts.testbed.broker import SEARCH_PATH
from scripts.testbed.processes import Child, accepts, free_port

TOPICS = tuple(f"sensors/edge-1/sensor-{number:04d}/humidity" for number in range(100))
ROOT = Path(__file__).parent.parent
SINK = "sink"
"""The name of the target of a run that has one."""
# Longer than any engine here waits before it tries again.
_STALLED_SECONDS = 45.0

# No persistence: mosquitto would write its database instead of routing, and be the limit of every engine.
_BROKER = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
"""
_BROKER_TLS = "certfile {certificate}\nkeyfile {key}\ncafile {roots}\nrequire_certificate true\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What arrived under one name, as gauge counts it.

    Attributes:
        unique: different ids.
        duplicates: ids that came again.
        strange: bodies that are no readings.
        first: when the first id came, in ns since 1970.
        last: when the last new id came.
        p50: latency from sending to arrival in microseconds, of the present window.
        p99: likewise.
        max: likewise.
    """

    unique: int
    duplicates: int
    strange: int
    first: int
    last: int
    p50: int
    p99: int
    max: int


@dataclass(frozen=True, slots=True)
class Board:
    """The counts of one process of gauge."""

    port: int

    def get(self, name: str = SINK) -> Counts:
        """What arrived so far."""
        return self._ask("GET", name)

    def begin(self, name: str = SINK) -> Counts:
        """A new window of latencies."""
        return self._ask("PUT", name)

    def forget(self, name: str = SINK) -> None:
        """A new run."""
        self._ask("DELETE", name)

    def settled(self, expected: int, name: str = SINK) -> Counts:
        """What arrived when all has, or when nothing has come for a while."""
        before, since = -1, time.monotonic()
        while (counts := self.get(name)).unique < expected:
            if counts.unique != before:
                before, since = counts.unique, time.monotonic()
            elif time.monotonic() - since > _STALLED_SECONDS:
                break
            time.sleep(0.05)
        return counts

    def _ask(self, method: str, name: str) -> Counts:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{name}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - http, as it says
            said = json.loads(answer.read())
        return Counts(**{field.name: said[field.name] for field in fields(Counts)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a publisher has sent, all of it acknowledged; when it began, in ns since 1970."""

    began: int
    published: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One engine under one load.

    Attributes:
        cpu_us: the engine's CPU for a message, in microseconds.
        per_second: messages, from the first one sent to the last one received.
        p50_ms: from sending to arrival.
        lost: of the ids.
        duplicates: ids that came again.
    """

    cpu_us: float
    per_second: float
    p50_ms: float
    p99_ms: float
    lost: int
    duplicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is run."""

    short: bool
    repetitions: int

    def pick(self, *, short: int, full: int) -> int:
        """One of two sizes."""
        return short if self.short else full

    def say(self, repetition: int, load: str, engine: str, run: Run) -> None:
        """One line as it goes."""
        print(
            f"{repetition + 1}/{self.repetitions} {load:10} {engine:24} {run.cpu_us:6.1f} us CPU a message, "
            f"{run.per_second:7,.0f}/s, p50 {run.p50_ms:.2f} ms, p99 {run.p99_ms:.2f} ms, "
            f"{run.lost} lost, {run.duplicates} twice",
            flush=True,
        )


def losses(key: str, text: str, runs: Mapping[str, Sequence[Run]], *, ours: Collection[str]) -> Figure:
    """Of our runs, which must lose none, and those of the peers."""
    lost = {name: sum(run.lost for run in some) for name, some in runs.items()}
    twice = sum(run.duplicates for name in ours for run in runs[name])
    peers = [f"{name} {number:,}" for name, number in lost.items() if name not in ours]
    return Figure(
        key=key,
        text=text,
        value=sum(lost[name] for name in ours),
        goal=0,
        holds="at most",
        peer="; ".join([f"{twice} came twice", *peers]),
    )


@dataclass(frozen=True, slots=True)
class Broker:
    """A mosquitto that runs."""

    port: int
    pid: int


class Engine(Protocol):
    """What carries messages from the broker to the sink."""

    @property
    def name(self) -> str:
        """For people."""

    def start(self, stage: Stage, *, broker: Broker, state: Path) -> Child:
        """A process that is subscribed already.

        Args:
            stage: with the sink.
            broker: has the messages.
            state: an empty folder.
        """


class Stage:
    """One sink for all runs; each has its own broker, on which no session of the last one queues."""

    def __init__(self, directory: Path, *, secured: Identities | None = None) -> None:
        self.directory = directory
        self.secured = secured
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.sink_port, self.board = self._stack.enter_context(self.sink())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def sink(self, port: int | None = None) -> Iterator[tuple[int, Board]]:
        """A target by HTTP; its port, and what it counts."""
        port, show = port or free_port(), free_port()
        words = ["sink", "-listen", f"127.0.0.1:{port}", "-show", f"127.0.0.1:{show}"]
        with self.gauge(*words, *(self.secured.sink.flags if self.secured else [])) as child:
            child.wait_until(lambda: accepts(port) and accepts(show), what=f"sink on port {port}", limit=10)
            yield port, Board(show)

    def url(self, name: str = SINK) -> str:
        """Of the sink, to be counted under this name."""
        return f"{'https' if self.secured else 'http'}://127.0.0.1:{self.sink_port}/{name}"

    @contextmanager
    def broker(self) -> Iterator[Broker]:
        """A mosquitto without persistence."""
        port = free_port()
        program = shutil.which("mosquitto", path=SEARCH_PATH)
        if program is None:
            sys.exit("mosquitto is not installed; on Debian: apt-get install mosquitto")
        text = _BROKER.format(port=port)
        if self.secured is not None:
            pem = self.secured.broker
            text += _BROKER_TLS.format(certificate=pem.certificate, key=pem.key, roots=pem.roots)
            # Started as root it would change to `mosquitto`, who may not read the key.
            text += "user root\n"
        configuration = self.directory / "mosquitto.conf"
        configuration.write_text(text)
        with self.child("mosquitto", program, "-c", str(configuration)) as child:
            child.wait_until(lambda: accepts(port), what=f"mosquitto on port {port}", limit=10)
            yield Broker(port, child.pid)

    @contextmanager
    def running(self, engine: Engine, broker: Broker) -> Iterator[Child]:
        """An engine."""
        state = Path(tempfile.mkdtemp(dir=self.directory))
        child = engine.start(self, broker=broker, state=state)
        try:
            yield child
        finally:
            child.stop()
            shutil.rmtree(state)

    def run(self, engine: Engine, *, count: int, rate: float = 0.0, warm_up: int = 0) -> Run:
        """Start the engine, publish, wait until the sink has all, stop it.

        Args:
            engine: is measured.
            count: of the messages.
            rate: a second; 0 is a flood.
            warm_up: how many messages go ahead at the same rate; they count as lost or not, and in nothing else.
        """
        self.board.forget()
        with self.broker() as broker, self.running(engine, broker) as child:
            if warm_up:
                self.publish(broker.port, "-count", str(warm_up), "-rate", str(rate))
                self.board.settled(warm_up)
                self.board.begin()
            return self.measure(port=broker.port, pid=child.pid, first=warm_up, count=count, rate=rate)

    def measure(
        self,
        *,
        port: int,
        pid: int,
        count: int,
        first: int = 0,
        rate: float = 0.0,
        board: Board | None = None,
        names: Sequence[str] = (SINK,),
        flags: Sequence[str] = (),
    ) -> Run:
        """Publish, and wait until all has arrived.

        Args:
            port: where to publish.
            pid: the process whose CPU counts.
            count: of the messages.
            first: id of the first one.
            rate: a second; 0 is a flood.
            board: counts them; the sink's if not given.
            names: under which all of them have to arrive.
            flags: more for the publisher.
        """
        board, due = board or self.board, first + count
        before = cpu_seconds(pid)
        sent = self.publish(port, "-first", str(first), "-count", str(count), "-rate", str(rate), *flags)
        counts = [board.settled(due, name) for name in names]
        used = cpu_seconds(pid) - before
        return Run(
            cpu_us=used * 1e6 / count,
            per_second=count / ((max(each.last for each in counts) - sent.began) / 1e9),
            p50_ms=max(each.p50 for each in counts) / 1000,
            p99_ms=max(each.p99 for each in counts) / 1000,
            lost=sum(due - each.unique for each in counts),
            duplicates=sum(each.duplicates for each in counts),
        )

    def publish(self, port: int, *flags: str) -> Published:
        """Publish, and wait until all is acknowledged."""
        with self.publishing(port, *flags) as child:
            return self.published(child, limit=600)

    def publishing(self, port: int, *flags: str) -> Child:
        """A publisher; SIGTERM ends what it sends."""
        secured = self.secured.client.flags if self.secured else []
        return self.gauge("publish", "-broker", f"127.0.0.1:{port}", *flags, *secured)

    def published(self, publisher: Child, *, limit: float) -> Published:
        """What it says at its end."""
        code = publisher.wait(limit=limit)
        if code != 0:
            sys.exit(f"the publisher ended with code {code}:\n{publisher.tail()}")
        return Published(**json.loads(publisher.tail()))

    def gauge(self, *words: str) -> Child:
        """A process of it."""
        return self.child(f"gauge-{words[0]}", str(gauge()), *words)

    def child(self, name: str, *command: str) -> Child:
        """A process with its log in our folder."""
        return Child(name=name, command=command, directory=ROOT, logs=self.directory)
