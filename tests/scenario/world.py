"""One consumer and one provider, as the demo starts them: each process under its own account, managers with a Lease.

Claims that are there from the start are the fleet that no fault may disturb. What a test adds, it takes away again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson

from crds.models.sensorclaim import Binding, SensorClaim
from scripts.demo.crew import Crew
from scripts.demo.factory import Boards
from scripts.demo.inventory import NAMESPACE, LeafBoard, boards, device
from scripts.demo.observe import Offer, SinkClient, acknowledged, claims, known_clusters, offers, simulated
from scripts.demo.site import ENDPOINT, Consumer, Lan, Provider
from scripts.demo.trust import identify
from scripts.sink.record import Fault
from scripts.testbed.controlplane import ControlPlanes
from scripts.testbed.processes import Child, free_port

LIMIT: Final = 90.0
"""Seconds that anything may take before the test fails; on an idle machine it is one or two."""
RATE: Final = 15.0
"""Readings a second of each sensor."""
FLOWING: Final = 5
"""Readings at every endpoint after which a flow counts as one."""

Document = dict[str, Any]
Objects = dict[tuple[str, str], str]
"""Uid by resource and name."""

PRESSURE: Final[Document] = {"sensor": {"type": "Pressure"}, "count": "All"}
HUMIDITY: Final[Document] = {
    "sensor": {"type": "Humidity", "mcuFamily": "STM32"},
    "limits": {"latencyMicroseconds": {"lessThan": 16000}},
    "count": 1,
}
FLEET: Final = {
    "pressure": (PRESSURE, {"first": "JSONArray", "second": "NDJSON"}),
    "pressure-shared": (PRESSURE, {"first": "JSONArray"}),
    "humidity": (HUMIDITY, {"first": "InfluxLine"}),
}

_PROVIDER_KINDS: Final = (
    "edge.fluidos.eu/v1alpha1/leafdevices",
    "edge.fluidos.eu/v1alpha1/dataroutes",
    "nodecore.fluidos.eu/v1alpha1/flavors",
    "reservation.fluidos.eu/v1alpha1/contracts",
)


@dataclass(slots=True)
class Flow:
    """Devices that publish; what the broker acknowledged of it is owed."""

    devices: Child
    log: Path
    targets: dict[str, frozenset[str]] = field(default_factory=dict)
    """Topics that each endpoint of the sink is owed."""

    def taken(self) -> dict[str, set[str]]:
        """Ids by topic that the broker has acknowledged so far."""
        return acknowledged(self.log)

    def owed(self, target: str) -> set[str]:
        """Ids that an endpoint has to get."""
        taken = self.taken()
        return {reading for topic in self.targets[target] for reading in taken.get(topic, ())}


class World:
    """The two clusters, a sink, and what is done to them.

    Args:
        planes: where the clusters are started.
        directory: for all other state.
        stack: ends what is started here, clients before servers.
    """

    def __init__(self, planes: ControlPlanes, *, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.lan = Lan(free_port())
        self.crew = Crew(directory)
        clusters = planes.start_clusters(["scenario-consumer", "scenario-provider"], audit=True)
        for cluster in clusters:
            stack.callback(cluster.kill)
        self.boards = Boards(directory / "boards")
        self._stack = stack
        self.consumer = Consumer(clusters[0], 1, directory=directory)
        self.provider = Provider(clusters[1], 1, directory=directory, boards=self.boards, flashes=True)
        self.sink = SinkClient(self.consumer.sink_port)
        self._runs = count(1)

    def start(self) -> None:
        """Everything, until the fleet of claims is bound."""
        for site in (self.consumer, self.provider):
            site.prepare()
        assert self.consumer.identities is not None
        self.buyer_files = self.consumer.identities.files("walk-in", "edge-resource-manager")
        self.late_files = self.consumer.identities.files("late", ENDPOINT, namespace=NAMESPACE)
        identify([self.consumer, self.provider], self.crew, boards=self.boards, limit=LIMIT)
        self.provider.open_broker(self._stack)
        self._stack.callback(self.crew.stop)
        self.provider.start(self.crew, discover=self.lan)
        # Often, so that a test need not wait long for what only looking tells.
        self.consumer.start(self.crew, discover=self.lan, flags=("--look-seconds", "5"))
        self.crew.wait_ready(limit=LIMIT)
        self.wait(lambda: known_clusters(self.consumer) == {self.provider.gateway}, "the provider to be discovered")
        self.provider.plug_in()
        self._attest()
        self.consumer.cluster.apply(self.claim(name, spec, endpoints) for name, (spec, endpoints) in FLEET.items())
        self.wait_bound(*FLEET)

    def start_sink(self, name: str, sink: SinkClient, *, tls_port: int) -> None:
        """A sink of its own process."""
        secured = ("--tls-dir", self.late_files, "--tls-port", str(tls_port))
        self.crew.start(name, "scripts.sink", "--port", sink.url.rpartition(":")[2], *secured)

    def _attest(self) -> None:
        """Let the boards prove what they are: what is proven lasts longer than any test."""
        wanted = sum(len(each.parts) for each in boards(self.provider.number))
        self.wait(lambda: len(simulated(self.provider)) == wanted, "the LeafDevices")
        with self._publishing("devices-first"):
            self.wait(lambda: len(offers(self.provider)) == wanted, "the flavors")

    @property
    def trust_domain(self) -> str:
        """Of the consumer."""
        assert self.consumer.identities is not None
        return self.consumer.identities.trust_domain

    def process(self, name: str) -> str:
        """The crew's name of `provider edge-resource-manager`."""
        site, _, program = name.partition(" ")
        return f"scenario-{site}-{program}"

    # What is asked of the clusters.

    def claim(
        self, name: str, spec: Document, endpoints: Mapping[str, str], *, urls: Mapping[str, str] | None = None
    ) -> Document:
        """A SensorClaim with endpoints below the sink's URL, unless `urls` says otherwise."""
        places = {endpoint: f"{self.consumer.sink}/{name}.{endpoint}" for endpoint in endpoints} | dict(urls or {})
        listed = [{"name": each, "url": places[each], "encoding": endpoints[each]} for each in endpoints]
        return {
            "apiVersion": "edge.fluidos.eu/v1alpha1",
            "kind": "SensorClaim",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {**spec, "endpoints": listed},
        }

    @contextmanager
    def claimed(self, *documents: Document) -> Iterator[None]:
        """Claims for a while; at the end the provider holds nothing for them any more."""
        self.consumer.cluster.apply(documents)
        names = [document["metadata"]["name"] for document in documents]
        try:
            yield
        finally:
            for name in names:
                self.delete(self.consumer, f"edge.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}/sensorclaims/{name}")
            self.wait(lambda: not set(names) & claims(self.consumer).keys(), f"{names} to be gone")
            self.wait(
                lambda: not self.sold(*names) and not self.routed(*names), f"contracts and routes of {names} to be gone"
            )

    @contextmanager
    def plugged_in(self, *boards: LeafBoard, number: int = 900) -> Iterator[None]:
        """Further devices for a while; at the end nothing is left of them."""
        self.plug_in(*boards, number=number)
        try:
            yield
        finally:
            for board in boards:
                self.unplug(board)
            names = {board.name for board in boards}
            self.wait(
                lambda: not names & {leaf["spec"]["source"]["name"] for leaf in self.leaves()}, f"{names} to be gone"
            )

    def plug_in(self, *boards: LeafBoard, number: int = 900, node: str | None = None) -> None:
        """Apply Devices."""
        self.provider.cluster.apply(
            device(board, number=number + index, node=node or self.provider.node, version=self.provider.version)
            for index, board in enumerate(boards)
        )

    def unplug(self, board: LeafBoard) -> None:
        """Delete a Device, if it is there."""
        version = self.provider.version
        self.delete(self.provider, f"devices.kubeedge.io/{version}/namespaces/{NAMESPACE}/devices/{board.name}")

    def revoke(self, *devices: str) -> None:
        """Have the provider refuse these devices and no others."""
        assert self.provider.identities is not None
        known = boards(self.provider.number)
        ueids = tuple(str(self.boards.ueid(board)) for board in known if board.name in devices)
        self.provider.identities.accept(self.boards.policy.model_copy(update={"revoked": ueids}))

    @staticmethod
    def delete(site: Consumer | Provider, path: str) -> None:
        """Delete an object, if it is there."""
        if site.cluster.api.exists(f"/apis/{path}"):
            site.cluster.api.request("DELETE", f"/apis/{path}")

    # What is known of them.

    def wait(self, reached: Callable[[], bool], what: str, *, known: Callable[[], str] = lambda: "") -> None:
        """Until `reached()`; fails when it takes too long, or when a process ends that should not."""
        self.crew.wait(reached, what=what, limit=LIMIT, known=known)

    def leaves(self) -> list[Document]:
        """The LeafDevices."""
        return self.provider.objects("/apis/edge.fluidos.eu/v1alpha1/leafdevices")

    def flavors(self, device: str) -> list[Offer]:
        """The flavors of a device."""
        return [offer for offer in offers(self.provider) if offer.device == device]

    def objects(self) -> Objects:
        """All that the managers keep at the provider."""
        return {
            (path, item["metadata"]["name"]): item["metadata"]["uid"]
            for path in _PROVIDER_KINDS
            for item in self.provider.objects(f"/apis/{path}")
        }

    def sold(self, *names: str) -> list[tuple[str, str, str]]:
        """Claim, flavor and name of the contracts that the provider holds for these claims, or for all."""
        return [
            (claim, item["spec"]["flavor"]["metadata"]["name"], item["metadata"]["name"])
            for item in self.provider.objects("/apis/reservation.fluidos.eu/v1alpha1/contracts")
            if (claim := item["spec"]["configuration"]["data"]["claim"]["name"]) in names or not names
        ]

    def routed(self, *names: str) -> list[str]:
        """URLs of targets that routes deliver to for these claims."""
        routes = self.provider.objects("/apis/edge.fluidos.eu/v1alpha1/dataroutes")
        urls = [target["url"] for route in routes for target in route["spec"]["targets"]]
        return [url for url in urls if url.rpartition("/")[2].partition(".")[0] in names]

    @staticmethod
    def urls(claim: Document) -> list[str]:
        """Where a claim wants readings."""
        return [endpoint["url"] for endpoint in claim["spec"]["endpoints"]]

    def bindings(self, name: str) -> tuple[Binding, ...]:
        """What a claim has."""
        claim = claims(self.consumer).get(name)
        return claim.status.bindings if claim and claim.status else ()

    def bound(self, *names: str) -> bool:
        """Whether these claims say that they have what they asked for."""
        listed = claims(self.consumer)
        return all(name in listed and condition(listed[name], "Bound")[0] == "True" for name in names)

    def wait_bound(self, *names: str) -> None:
        """Until these claims have what they asked for."""
        self.wait(lambda: self.bound(*names), f"{names} to be bound", known=lambda: self.states(*names))

    def states(self, *names: str) -> str:
        """What claims say of themselves."""
        listed = claims(self.consumer)
        return "\n".join(f"{name}: {condition(listed[name], 'Bound')}" for name in names if name in listed)

    def topics(self, name: str) -> frozenset[str]:
        """Where the devices publish that a claim is bound to."""
        bound = {binding.flavor for binding in self.bindings(name)}
        return frozenset(offer.view.sensor.access.topic for offer in offers(self.provider) if offer.name in bound)

    # Readings.

    @contextmanager
    def flow(
        self, *names: str, targets: Mapping[str, frozenset[str]] | None = None, late: Mapping[str, int] | None = None
    ) -> Iterator[Flow]:
        """All devices publish at a steady rate, and readings arrive at every endpoint of these claims.

        Args:
            names: bound claims.
            targets: topics by endpoint of the sink, where they are not those of claims.
            late: devices with a slow link, and how many milliseconds old their readings are when they are published.
        """
        run = next(self._runs)
        log = self.directory / f"acknowledged-{run}"
        log.touch()
        owed = dict(targets or {})
        for name in names:
            topics = self.topics(name)
            owed |= dict.fromkeys(self.endpoints(name), topics)
        setting = ("--rate", str(RATE), "--first", str(run * 1_000_000), "--acknowledged", log)
        with self._publishing(f"devices-{run}", *setting, late=late) as child:
            flow = Flow(child, log, owed)
            self.wait_flowing(*owed)
            yield flow
            child.stop(timeout=30)

    @contextmanager
    def _publishing(self, name: str, *setting: str | Path, late: Mapping[str, int] | None = None) -> Iterator[Child]:
        devices = self.directory / f"{name}.json"
        sensors = [
            {**sensor, "lateMilliseconds": (late or {}).get(sensor["device"], 0)} for sensor in simulated(self.provider)
        ]
        devices.write_bytes(orjson.dumps(sensors))
        with self.crew.launch(name, "scripts.simulator", "--devices", devices, *setting) as child:
            yield child

    def endpoints(self, name: str) -> list[str]:
        """The endpoints of a claim in the sink."""
        claim = claims(self.consumer)[name]
        return [endpoint.location.rpartition("/")[2] for endpoint in claim.spec.endpoints]

    def wait_flowing(self, *targets: str, more: int = FLOWING) -> None:
        """Until so many more readings arrived at each of these endpoints."""
        before = {target: len(self.arrived(target)) for target in targets}
        self.wait(
            lambda: all(len(self.arrived(target)) >= before[target] + more for target in targets),
            f"readings at {', '.join(targets)}",
            known=lambda: "\n".join(self._tails()),
        )

    def wait_taken(self, flow: Flow, *, more: int = 30) -> None:
        """Until the broker acknowledged so many more readings."""
        before = sum(map(len, flow.taken().values()))
        self.wait(lambda: sum(map(len, flow.taken().values())) >= before + more, f"{more} more readings to be taken")

    def arrived(self, target: str, *, sink: SinkClient | None = None) -> Counter[str]:
        """Copies by id at one endpoint."""
        received = (sink or self.sink).received(target)
        return Counter({reading: arrival.copies for reading, arrival in received.arrivals.items()})

    def wait_delivered(self, flow: Flow, *targets: str, but: int = 0) -> int:
        """Until everything that is owed has arrived; the most copies that came of one reading.

        Args:
            flow: whose devices have stopped.
            targets: endpoints; all of the flow by default.
            but: readings that each endpoint may miss.
        """
        return max(self.wait_arrived(target, flow.owed(target), but=but) for target in targets or tuple(flow.targets))

    def set_fault(self, target: str, fault: Fault) -> None:
        """Let an endpoint of the sink misbehave, or behave again."""
        self.sink.set_fault(target, fault)

    def wait_arrived(self, target: str, owed: set[str], *, sink: SinkClient | None = None, but: int = 0) -> int:
        """Until one endpoint has all `but` so many of these readings; the most copies that came of one."""
        assert owed, f"nothing was published for {target}"
        self.wait(
            lambda: len(owed - self.arrived(target, sink=sink).keys()) <= but,
            f"{len(owed)} readings at {target}",
            known=lambda: self._missing(target, owed),
        )
        arrived = self.arrived(target, sink=sink)
        return max(arrived[reading] for reading in owed)  # a Counter: what did not come counts as 0

    def wait_silent(self, target: str, *, clock: str) -> None:
        """Until nothing comes at one endpoint any more while readings come at another."""

        def silent() -> bool:
            before = self.arrived(target)
            self.wait_flowing(clock)
            return self.arrived(target) == before

        self.wait(silent, f"{target} to fall silent")

    def _missing(self, target: str, owed: set[str]) -> str:
        lost = sorted(owed - self.arrived(target).keys())
        return "\n".join([f"lost {len(lost)}: {', '.join(lost[:10])} ...", *self._tails()])

    def _tails(self) -> Iterable[str]:
        yield from (self.crew.tail(self.process(f"provider {each}")) for each in ("relay", "router-manager"))


def condition(claim: SensorClaim, kind: str) -> tuple[str, str, str]:
    """Status, reason and message."""
    conditions = claim.status.conditions if claim.status else ()
    return next(((each.status, each.reason, each.message) for each in conditions if each.type == kind), ("", "", ""))
