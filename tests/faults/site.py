"""Devices, a relay and a target, each its own process, and the account of every id between them.

What devices and target know they write to files: a test can read those in whatever network namespace the processes are.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from crds.models.delivery import Endpoint, PayloadFilter
from router_manager.domain.admission import Grants
from router_manager.domain.batching import BatchLimits
from router_manager.domain.table import Table
from scripts.testbed.processes import Child, free_port
from tests.faults.publisher import DEVICES, topic_of
from tests.relay.support import route, table
from tests.relay.test_process import ROOT, RelayProcess

ROUNDS = int(os.environ.get("FAULTS_ROUNDS", "2"))
RATE = float(os.environ.get("FAULTS_RATE", "500"))
CUT_SECONDS = float(os.environ.get("FAULTS_CUT_SECONDS", "3"))
SEED = int(os.environ.get("FAULTS_SEED", "20261121"))
TOPICS = tuple(topic_of(device) for device in range(DEVICES))
BATCH = BatchLimits().records
LIMIT_SECONDS = 90.0
_SOME_BYTES = 1000
"""Of ids."""
NO_BROKER = "none"


def until(condition: Callable[[], object], *, what: str, limit: float = LIMIT_SECONDS) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {limit:g} s"
        time.sleep(0.02)


class Process(Protocol):
    """What can be killed and comes back."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


class Sink:
    """The target's process."""

    def __init__(self, directory: Path, *, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        self.host, self.port = host, free_port()
        self.log = directory / "sink.ids"
        self._directory = directory
        self._command = [*prefix, sys.executable, "-m", "tests.faults.sink", host, str(self.port), str(self.log)]
        self.start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    def start(self) -> None:
        self.child = Child(name="sink", command=self._command, directory=ROOT, logs=self._directory)

    def kill(self) -> None:
        self.child.kill()

    def behave(self, mode: str = "") -> None:
        """From the next request on."""
        file = self.log.with_suffix(".mode")
        file.with_suffix(".new").write_text(mode)
        file.with_suffix(".new").rename(file)

    @property
    def size(self) -> int:
        return _size(self.log)

    def arrived(self) -> list[int]:
        return [int(word) for word in self._lines().split() if word != "?"]

    def unanswered(self) -> int:
        """Requests that it took and the relay could not know of."""
        return self._lines().count("?")

    def _lines(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class Publisher:
    """The devices' process."""

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        rate: float = RATE,
        devices: Iterable[int] = range(DEVICES),
        size: int = 200,
        window: int = 1000,
        prefix: Sequence[str] = (),
    ) -> None:
        name = "-".join(["devices", *map(str, devices)])
        self.log = directory / f"{name}.ids"
        words = map(str, [port, rate, self.log, size, window, *devices])
        command = [*prefix, sys.executable, "-m", "tests.faults.publisher", *words]
        self.child = Child(name=name, command=command, directory=ROOT, logs=directory)

    @property
    def size(self) -> int:
        return _size(self.log)

    def owed(self) -> set[int]:
        """The ids that were acknowledged to it."""
        return set(map(int, self.log.read_text().split())) if self.log.exists() else set()

    def finish(self) -> set[int]:
        """Publish no more; what was acknowledged."""
        self.child.terminate()
        self.child.wait(limit=60)
        return self.owed()


class Relay(RelayProcess):
    """`python -m router_manager.relay`, with a listener if that has a rate, perhaps below another command."""

    def __init__(
        self,
        disk: Path,
        routes: Table | None,
        *,
        logs: Path,
        grants: Grants | None = None,
        identity: Sequence[str] = ("--insecure",),
        broker: str | None = NO_BROKER,
        kubeconfig: Path | None = None,
        listen_rate: float | None = 1e6,
        flags: Sequence[str] = (),
        prefix: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self._last_life = {"table.json": routes, "grants.json": grants}
        self._logs, self._prefix, self._environment = logs, prefix, environment
        listen = ("--listen", f"127.0.0.1:{self.port}", "--listen-rate", str(listen_rate)) if listen_rate else ()
        more = (*identity, "--target-timeout-seconds", "2", *listen, *flags)
        super().__init__(disk, broker, kubeconfig=kubeconfig, identity=more)

    def start(self) -> None:
        for name, value in self._last_life.items():
            if value is not None and not (self.state / name).exists():
                (self.state / name).write_text(value.model_dump_json(by_alias=True))
        command = [*self._prefix, *self._command]
        self.child = Child(
            name="relay", command=command, directory=ROOT, logs=self._logs, environment=self._environment
        )

    def tells(self, words: str, *, times: int = 1) -> bool:
        """Whether it has logged them, in all its lives."""
        return self.child.log.read_text().count(words) >= times

    def kill(self) -> None:
        self.child.kill()

    def serves(self) -> bool:
        """Whether it has its route and its sources: what comes before is not owed."""
        try:
            return 'target="' in self.get("/metrics") and self.get("/readyz") == "ready\n"
        except OSError:
            return False

    def full(self) -> bool:
        """Whether there is no room for its spool."""
        prefix = "fluidos_edge_relay_spool"
        return self.serves() and self.metric(f"{prefix}_bytes") >= self.metric(f"{prefix}_capacity_bytes")

    def metric(self, name: str) -> float:
        """One without labels, or the sum over all labels."""
        lines = self.get("/metrics").splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """All of it, in the middle of its work."""

    relay: Relay
    sink: Sink
    publisher: Publisher

    def moves(self, *, what: str = "a delivery") -> None:
        """Wait until some hundred messages more have been delivered."""
        least = self.sink.size + _SOME_BYTES
        until(lambda: self.sink.size > least or self.relay.child.exit_code is not None, what=what)
        assert self.relay.child.exit_code is None, self.relay.child.tail()

    def settle(self, *, faults: int, most_again: int = BATCH, most_lost: int = 0) -> None:
        """End the flow; nothing that was acknowledged may be missing, nor come more often than the faults explain."""
        judge(self.publisher.finish(), self.sink, faults=faults, most_again=most_again, most_lost=most_lost)


def judge(owed: set[int], sink: Sink, *, faults: int, most_again: int = BATCH, most_lost: int = 0) -> None:
    """Wait for all that is owed, and hold what came against it.

    Args:
        owed: ids.
        sink: where they have to be.
        faults: how many there were, beside the answers that the sink kept back.
        most_again: how many messages each of them may show again.
        most_lost: as many as the docs say, of all faults.
    """
    assert owed, "nothing was asked of it"
    deadline = time.monotonic() + LIMIT_SECONDS
    while len(lost := owed.difference(sink.arrived())) > most_lost and time.monotonic() < deadline:
        time.sleep(0.2)
    arrived = sink.arrived()
    copies = len(arrived) - len(set(arrived))
    most = (faults + sink.unanswered()) * most_again
    print(f"{len(owed)} owed, {len(lost)} lost, {copies} twice (at most {most}), seed {SEED}")
    assert len(lost) <= most_lost, sorted(lost)[:20]
    assert copies <= most, Counter(arrived).most_common(5)
    for device in range(DEVICES):
        first_seen = [number for number in dict.fromkeys(arrived) if number % DEVICES == device]
        assert first_seen == sorted(first_seen), f"device {device} is out of order"


@contextmanager
def site(
    directory: Path,
    *,
    broker: str = NO_BROKER,
    port: int | None = None,
    rate: float = RATE,
    devices: Iterable[int] = range(DEVICES),
    size: int = 200,
    host: str = "127.0.0.1",
    here: Sequence[str] = (),
    there: Sequence[str] = (),
    flags: Sequence[str] = (),
    listen_rate: float = 1e6,
    passing: PayloadFilter | None = None,
    environment: dict[str, str] | None = None,
    kubeconfig: Callable[[str], Path] | None = None,
    disk: Path | None = None,
) -> Iterator[Site]:
    """Devices that publish, the relay, and a target.

    Args:
        directory: of logs and state.
        broker: of the relay.
        port: where devices publish; at the relay's listener when absent.
        rate: messages a second of all devices.
        devices: which of them.
        size: of a payload.
        host: where the target listens.
        here: command before those of devices and relay.
        there: command before that of the target.
        flags: further ones of the relay.
        listen_rate: what the relay's listener takes of one device, in messages a second.
        passing: filter of the route.
        environment: of the relay.
        kubeconfig: for the relay, once the API server has a route to this URL; else the relay finds one on its disk.
        disk: of the relay; below `directory` when absent.
    """
    with ExitStack() as stack:
        sink = Sink(directory, host=host, prefix=there)
        stack.callback(sink.kill)
        to_sink = table(route(Endpoint(name="target", url=sink.url), topics=TOPICS, passing=passing))
        relay = Relay(
            disk or directory,
            None if kubeconfig else to_sink,
            logs=directory,
            broker=broker,
            kubeconfig=kubeconfig and kubeconfig(sink.url),
            listen_rate=listen_rate,
            flags=flags,
            prefix=here,
            environment=environment,
        )
        stack.callback(relay.kill)
        if not here:
            relay.child.wait_until(relay.serves, what="its route", limit=LIMIT_SECONDS)
        publisher = Publisher(directory, port or relay.port, rate=rate, devices=devices, size=size, prefix=here)
        stack.callback(publisher.child.kill)
        running = Site(relay=relay, sink=sink, publisher=publisher)
        running.moves(what="the first delivery")
        yield running


def moments(name: str, *, most: float = 0.5, rounds: int = ROUNDS) -> Iterator[float]:
    """When to strike: seconds, the same ones for the same seed."""
    random = Random(f"{SEED} {name}")  # noqa: S311 - chooses moments, guards nothing
    return (random.uniform(0, most) for _ in range(rounds))


def strike(victim: Process, running: Site, name: str) -> int:
    """Kill it at random moments of the flow, and start it again each time; how often."""
    struck = 0
    for moment in moments(name):
        running.moves(what=f"a delivery after {struck} kills of {name}")
        time.sleep(moment)
        victim.kill()
        time.sleep(moment / 2)
        victim.start()
        struck += 1
    running.moves(what=f"a delivery after the last kill of {name}")
    return struck


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
