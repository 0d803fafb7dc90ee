"""What mutual TLS costs a target: the same spool to the same target over plain HTTP and over mutual TLS, in turn.

All that the relay does between its spool and a target is there (reading the spool, encoding, batches of 500 over one
kept connection, the position after each), the target being a process of its own. Each round gives one ratio of
runs next to each other, so that what else the machine does meets both alike; the median of the ratios counts.
`python -m benchmarks.identity_tls [--short]`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import uvloop

from benchmarks.relay_identities import Pem
from benchmarks.relay_programs import gauge
from benchmarks.relay_stage import ROOT, TOPICS
from benchmarks.report import Figure, finish
from crds.egress import EgressPolicy
from crds.models.dataroute import ResolvedSource
from crds.models.delivery import Endpoint
from router_manager.domain.payload import Record
from router_manager.domain.table import Route, Table, ways
from router_manager.relay.dead_letters.store import DeadLetters
from router_manager.relay.lane import Lane, Memory
from router_manager.relay.positions import Positions
from router_manager.relay.pump import Outlet, Pump
from router_manager.relay.spool import Spool
from router_manager.relay.targets.exits import Exits
from scripts.testbed.processes import Child, accepts, free_port
from spire.identity import FixedIdentity, Identity
from tests.spire.pki import Ca

GOAL = 0.15
_LIMIT_SECONDS = 60.0
_PROVIDER, _CONSUMER = Ca.of("provider.bench"), Ca.of("consumer.bench")
_RELAY = _PROVIDER.identity("/relay/bench", knows=[_CONSUMER])
_TARGET = _CONSUMER.identity("/endpoint/bench/sink", knows=[_PROVIDER])


class Delivery:
    """A spool, and the way from it to a target again and again."""

    def __init__(self, directory: Path, *, records: int) -> None:
        self.records = records
        self._positions = Positions(directory / "positions")
        self._dead_letters = DeadLetters(directory / "dead-letters")
        self._spool = Spool.open(directory / "spool")

    async def fill(self) -> None:
        """All records on disk."""
        now = time.time_ns()
        batch = [Record(n + 1, now, TOPICS[n % len(TOPICS)], _reading(n)) for n in range(self.records)]
        self._spool.accept(batch)
        await self._spool.flush()

    async def run(self, port: int, *, secured: bool) -> tuple[float, float]:
        """Deliver all.

        Returns:
            Seconds, and seconds of this process' CPU.
        """
        target = Endpoint(name="sink", url=f"{'https' if secured else 'http'}://127.0.0.1:{port}/")
        sources = tuple(
            ResolvedSource(flavor=f"f-{n}", device=f"s-{n}", sensor="humidity", node="n", topic=topic)
            for n, topic in enumerate(TOPICS)
        )
        uid = f"{time.monotonic_ns()}"
        route = Route(
            uid=uid,
            namespace="b",
            name="b",
            sources=sources,
            targets=(target,),
            trust_domain=_CONSUMER.trust_domain.name,
        )
        [(key, way)] = ways(Table(routes=(route,))).items()
        identity = FixedIdentity(_RELAY) if secured else None
        exits = Exits(EgressPolicy.parse(allowed=["127.0.0.0/8"]), identity=identity)
        outlet = Outlet(exit=exits, dead_letters=self._dead_letters, spool_identity=self._spool.identity)
        lane = Lane(spool=self._spool, memory=Memory(64 << 20), feeds=way.feeds, position=1)
        pump = Pump(key=key, way=way, lane=lane, position=self._positions.file(key), outlet=outlet)
        started, used = time.perf_counter(), time.process_time()
        task = asyncio.create_task(pump.run())
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                await lane.drained.wait()
            took = time.perf_counter() - started, time.process_time() - used
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await exits.close()
        if pump.statistics.delivered != self.records or pump.statistics.retried:
            sys.exit(f"{pump.statistics.delivered} of {self.records} delivered: {pump.statistics.problem}")
        return took


@contextmanager
def serving(directory: Path, identity: Identity | None) -> Iterator[int]:
    """A target in a process of its own; with an identity for relays alone, over mutual TLS."""
    port = free_port()
    flags = []
    if identity is not None:
        roots = [root for some in identity.bundles.values() for root in some]
        pem = Pem.at(directory, "target")
        pem.write(identity.svid, roots=roots)
        flags = pem.flags
    command = [str(gauge()), "sink", "-listen", f"127.0.0.1:{port}", *flags]
    with Child(name=f"sink-{port}", command=command, directory=ROOT, logs=directory) as child:
        child.wait_until(lambda: accepts(port), what=f"target on port {port}", limit=_LIMIT_SECONDS)
        yield port


def _reading(number: int) -> bytes:
    """JSON of 200 bytes."""
    body = b'{"id":%d,"sentAt":%d,"pad":"' % (number, time.time_ns())
    return body + b"x" * (198 - len(body)) + b'"}'


async def measure(*, rounds: int, records: int) -> list[Figure]:
    """The figures of mutual TLS on the relay's HTTP target."""
    costs, rates = [], []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-tls-")))
        plain, tls = (stack.enter_context(serving(folder, identity)) for identity in (None, _TARGET))
        delivery = Delivery(folder, records=records)
        await delivery.fill()
        for number in range(rounds + 1):
            took = {False: [0.0, 0.0], True: [0.0, 0.0]}
            # Each once before and once after the other: what the machine does meanwhile, and how it leaves it, cancels.
            for secured in (False, True, True, False):
                spent = await delivery.run(tls if secured else plain, secured=secured)
                took[secured] = [before + now for before, now in zip(took[secured], spent, strict=True)]
            if number == 0:
                continue  # imports, first handshakes, pages of the spool into the cache
            costs.append(1 - took[False][0] / took[True][0])
            rates.append((2 * records / took[False][0], 2 * records / took[True][0]))
            print(
                f"{number}/{rounds} plain {rates[-1][0]:7.0f} messages/s, mutual TLS {rates[-1][1]:7.0f}, "
                f"throughput lost {costs[-1]:6.1%}, CPU of the relay more {took[True][1] / took[False][1] - 1:6.1%}",
                flush=True,
            )
    low, _, high = statistics.quantiles(costs, n=4)
    plain_rate, tls_rate = (statistics.median(column) for column in zip(*rates, strict=True))
    return [
        Figure(
            key="tlsThroughputLost",
            text="mutual TLS on the relay's HTTP target, share of its throughput",
            value=statistics.median(costs),
            goal=GOAL,
            holds="below",
            peer=f"quartiles {low:.1%} to {high:.1%}; {tls_rate:.0f} messages/s, plain {plain_rate:.0f}",
        ),
    ]


def figures(*, short: bool = False) -> list[Figure]:
    """For `benchmarks.identity`."""
    return uvloop.run(measure(rounds=5 if short else 15, records=50_000))


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.identity_tls", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer and smaller runs, for CI")
    return finish("identity_tls", figures(short=parser.parse_args().short))


if __name__ == "__main__":
    sys.exit(main())
