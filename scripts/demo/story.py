"""The steps of the demo in order, and what is known after each: enough for a report even when one fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from crds.models.sensorclaim import Binding
from scripts.demo.claims import asks
from scripts.demo.crew import Crew
from scripts.demo.factory import Boards
from scripts.demo.inventory import boards
from scripts.demo.observe import Offer, acknowledged, claims, known_clusters, offers, simulated
from scripts.demo.progress import ClaimProgress
from scripts.demo.report import (
    Halted,
    Report,
    Repurposed,
    judge,
)
from scripts.demo.repurpose import Act
from scripts.demo.site import Consumer, Lan, Provider
from scripts.demo.stage import Stage
from scripts.demo.trust import LostTrust, identify, tamper
from scripts.demo.workshop import Workshop
from scripts.testbed.binaries import Binaries
from scripts.testbed.controlplane import ControlPlanes
from scripts.testbed.processes import Child, ChildFailedError, free_port

READY_LIMIT_SECONDS: Final = 60.0
FLASH_LIMIT_SECONDS: Final = 120.0
QUIET_LIMIT_SECONDS: Final = 15.0
"""Nothing new at any target for this long: what is missing then is lost."""
SETTLE_SECONDS: Final = 0.5
"""For duplicates, which come after everything has arrived."""
IDLE_RATE: Final = 10.0
"""Messages a second of each sensor while nothing is counted: more would hide how soon the first one comes."""
FIRST_COUNTED: Final = 1_000_000
"""Numbers of the readings that are counted, apart from those before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user chose."""

    consumers: int
    providers: int
    messages: int
    rate: float
    discover: bool
    replay: Path | None
    insecure: bool
    repurpose: bool


class Story:
    """One run of the demo.

    Args:
        options: what the user chose.
        stage: where it is told.
        directory: for all state; exists.
        stack: ends everything that is started here.
    """

    def __init__(self, options: Options, *, stage: Stage, directory: Path, stack: ExitStack) -> None:
        self.options = options
        self.offers: list[Offer] = []
        self.progress: list[ClaimProgress] = []
        self.consumers: list[Consumer] = []
        self.providers: list[Provider] = []
        self.kubectl = Path("kubectl")
        self.kubeconfig = directory / "planes" / "kubeconfig"
        self.devices = directory / "devices.json"
        self._stage = stage
        self._directory = directory
        self._stack = stack
        self.boards = None if options.insecure else Boards(directory / "boards")
        self.lost: LostTrust | None = None
        self.repurposed: Repurposed | None = None
        self.halted: Halted | None = None
        self.crew = Crew(directory)

    def tell(self) -> None:
        """All steps.

        Raises:
            NotReachedError: something did not come about.
            ChildFailedError: a process ended that should not.
        """
        self._control_planes()
        self._install()
        self._identities()
        self._processes()
        self._plug_in()
        idle = self._speak()
        self._claim()
        self._first_readings()
        idle.stop(timeout=15)
        self._deliver()
        if self.boards is not None:
            if self.options.repurpose:
                self._repurpose(self.boards)
            self._lose_trust(self.boards)

    def report(self, error: str | None = None) -> Report:
        """The outcome as far as it is known."""
        report = judge(
            [each.outcome(self.options.providers) for each in self.progress],
            [each.target(endpoint) for each in self.progress for endpoint in each.ask.endpoints],
            steps=self._stage.steps,
            revoked=() if self.lost is None else (self.lost.outcome,),
            repurposed=() if self.repurposed is None else (self.repurposed,),
            halted=() if self.halted is None else (self.halted,),
        )
        return report if error is None else report.model_copy(update={"ok": False, "error": error})

    def start_devices(self, name: str, *arguments: str) -> Child:
        """Let all devices publish, as the simulator's further arguments say."""
        replay = ("--replay", self.options.replay) if self.options.replay else ()
        child = self.crew.launch(name, "scripts.simulator", "--devices", self.devices, *replay, *arguments)
        return self._stack.enter_context(child)

    def _control_planes(self) -> None:
        roles = [("consumer", self.options.consumers), ("provider", self.options.providers)]
        names = [f"{role}-{number}" for role, count in roles for number in range(1, count + 1)]
        with self._stage.step("control planes") as say:
            binaries = Binaries.find()
            self.kubectl = binaries.kubectl
            planes = self._stack.enter_context(ControlPlanes(self._directory / "planes", binaries=binaries))
            clusters = planes.start_clusters(names)
            say(", ".join(names))
        # From here on the stack ends brokers and crew before the control planes.
        consuming, providing = clusters[: self.options.consumers], clusters[self.options.consumers :]
        self.consumers = [
            Consumer(cluster, number, directory=self._directory, insecure=self.options.insecure)
            for number, cluster in enumerate(consuming, 1)
        ]
        self.providers = [
            Provider(
                cluster,
                number,
                directory=self._directory,
                boards=self.boards,
                flashes=self.options.repurpose and number == 1,
            )
            for number, cluster in enumerate(providing, 1)
        ]

    def _install(self) -> None:
        with self._stage.step("kinds and rights"):
            _together([site.prepare for site in (*self.consumers, *self.providers)])

    def _identities(self) -> None:
        """Everybody becomes somebody; then the brokers can start, which read who they are from files."""
        if self.boards is not None:
            with self._stage.step("identities and federation") as say:
                known = identify(
                    [*self.consumers, *self.providers], self.crew, boards=self.boards, limit=READY_LIMIT_SECONDS
                )
                say(", ".join(each.trust_domain for each in known))
        for provider in self.providers:
            provider.open_broker(self._stack)
        self._stack.callback(self.crew.stop)

    def _processes(self) -> None:
        discover = Lan(free_port()) if self.options.discover else None
        with self._stage.step("managers, gateways, relays") as say:
            for provider in self.providers:
                provider.start(self.crew, discover=discover)
            for consumer in self.consumers:
                if discover is None:
                    consumer.know(self.providers)
                consumer.start(self.crew, discover=discover)
            self.crew.wait_ready(limit=READY_LIMIT_SECONDS)
            if discover is not None:
                wanted = {provider.gateway for provider in self.providers}
                self.crew.wait(
                    lambda: all(known_clusters(each) >= wanted for each in self.consumers),
                    what="the providers to be discovered by multicast",
                    limit=READY_LIMIT_SECONDS,
                )
                say("providers discovered by multicast")

    def _plug_in(self) -> None:
        with self._stage.step("KubeEdge Devices become LeafDevices") as say:
            found: list[dict[str, object]] = []

            def all_there() -> bool:
                found[:] = [entry for provider in self.providers for entry in simulated(provider)]
                return len(found) == self._sensors

            for provider in self.providers:
                provider.plug_in()
            self.crew.wait(all_there, what=f"{self._sensors} sensors", limit=READY_LIMIT_SECONDS)
            say(f"{self._sensors} sensors of {sum(len(boards(each.number)) for each in self.providers)} devices")
        self.devices.write_bytes(orjson.dumps(found))

    def _speak(self) -> Child:
        """Let the devices publish before anybody asks, as they would: how soon a reading comes is then the claim's."""
        log = self._directory / "heard"
        log.touch()
        proving = "devices prove who they are, become Sensor flavors, and publish"
        with self._stage.step(proving if self.boards else "devices become Sensor flavors, and publish") as say:
            devices = self.start_devices("devices-idle", "--rate", str(IDLE_RATE), "--acknowledged", str(log))

            def all_there() -> bool:
                self.offers = [offer for provider in self.providers for offer in offers(provider)]
                heard = len(self.offers) == self._sensors and len(acknowledged(log)) == self._sensors
                return heard or devices.exit_code is not None

            self.crew.wait(
                all_there,
                what=f"{self._sensors} flavors, and a reading of every sensor at its broker",
                limit=READY_LIMIT_SECONDS,
                known=lambda: "\n".join(
                    [f"there are {len(self.offers)} flavors, and readings of {len(acknowledged(log))} sensors"]
                    + [self.crew.tail(f"{provider.name}-edge-resource-manager") for provider in self.providers]
                    + [devices.tail()]
                ),
            )
            if devices.exit_code is not None:
                raise ChildFailedError(f"the devices stopped publishing:\n{devices.tail()}")
            say(f"{self._sensors} flavors")
        return devices

    @property
    def _sensors(self) -> int:
        """How many there are."""
        return sum(len(board.parts) for provider in self.providers for board in boards(provider.number))

    def _claim(self) -> None:
        with self._stage.step("claims bound") as say:
            for ask in asks(self.options.consumers, insecure=self.options.insecure):
                consumer = self.consumers[ask.consumer - 1]
                self.progress.append(ClaimProgress(ask, consumer, applied_at=time.time()))
                consumer.cluster.apply([ask.document(consumer.sink)])
                self._all_bound()  # the first may be done before the last is applied
            self.crew.wait(
                self._all_bound, what="the claims to be bound", limit=READY_LIMIT_SECONDS, known=self._unbound
            )
            say(f"{len(self.progress)} claims, {sum(len(each.bound) for each in self.progress)} contracts")

    def _all_bound(self) -> bool:
        by_flavor = {offer.name: offer for offer in self.offers}
        for consumer in self.consumers:
            listed = claims(consumer)
            now = time.time()
            for each in self.progress:
                claim = listed.get(each.ask.name)
                if each.consumer is not consumer or each.seconds_to_bound is not None or not (claim and claim.status):
                    continue
                bindings = filter(_is_bought, claim.status.bindings)
                each.bound = tuple(by_flavor[bound.flavor] for bound in bindings if bound.flavor in by_flavor)
                each.message = "; ".join(f"{it.type}={it.status}: {it.message}" for it in claim.status.conditions)
                if each.satisfied(self.options.providers):
                    each.seconds_to_bound = now - each.applied_at
        return all(each.seconds_to_bound is not None for each in self.progress)

    def _unbound(self) -> str:
        return "\n".join(
            f"{each.ask.name} on {each.consumer.name} has {len(each.bound)} flavors; {each.message}"
            for each in self.progress
            if each.seconds_to_bound is None
        )

    def _first_readings(self) -> None:
        """Until every target has a reading of every sensor that it shall get: only then is anything owed."""
        missing: list[str] = []

        def all_flow() -> bool:
            missing[:] = [line for each in self.progress for line in each.silent()]
            return not missing

        with self._stage.step("first readings at every endpoint"):
            self.crew.wait(
                all_flow,
                what="a first reading of every bound sensor at every endpoint",
                limit=READY_LIMIT_SECONDS,
                known=lambda: "\n".join(missing),
            )

    def _deliver(self) -> None:
        log = self._directory / "acknowledged"
        options = self.options
        with self._stage.step("readings published and delivered") as say:
            counted = ["--messages", str(options.messages), "--first", str(FIRST_COUNTED), "--acknowledged", str(log)]
            devices = self.start_devices("devices", "--rate", str(options.rate), *counted)
            limit = options.messages / options.rate * 2 + READY_LIMIT_SECONDS
            self.crew.wait(lambda: devices.exit_code is not None, what="the devices to be done", limit=limit)
            if devices.exit_code != 0:
                raise ChildFailedError(f"the devices could not publish everything:\n{devices.tail()}")
            taken = acknowledged(log)
            for each in self.progress:
                topics = [offer.view.sensor.access.topic for offer in each.bound]
                each.owed = frozenset(reading for topic in topics for reading in taken.get(topic, ()))
            self._await_delivery()
            time.sleep(SETTLE_SECONDS)
            for each in self.progress:
                each.received = {name: each.sink.received(each.ask.target(name)) for name in each.ask.endpoints}
            targets = sum(len(each.received) for each in self.progress)
            say(f"{sum(map(len, taken.values()))} readings published, {targets} targets")

    def _await_delivery(self) -> None:
        """Until every target has what it is owed, or nothing new comes any more."""
        waiting = [(each, name) for each in self.progress for name in each.ask.endpoints]
        arrived, changed_at = 0, time.monotonic()
        while True:
            began = time.monotonic()
            self.crew.check()
            for each, name in waiting:
                each.received[name] = each.sink.received(each.ask.target(name))
            waiting = [(each, name) for each, name in waiting if not each.has_all(name)]
            latest = sum(len(it.arrivals) for each in self.progress for it in each.received.values())
            if latest != arrived:
                arrived, changed_at = latest, time.monotonic()
            if not waiting or time.monotonic() - changed_at > QUIET_LIMIT_SECONDS:
                return
            time.sleep(max(0.1, 5 * (time.monotonic() - began)))

    def _repurpose(self, boards: Boards) -> None:
        """What no device is, one becomes; and firmware that fails, which one device finds out for all."""
        directory = self._directory / "repurposing"
        directory.mkdir()
        provider = self.providers[0]
        with self._stage.step("signed firmware in a registry, and boards that measure nothing"):
            workshop = Workshop(provider, directory / "workshop", stack=self._stack)
            act = Act(
                provider=provider,
                consumer=self.consumers[0],
                crew=self.crew,
                boards=boards,
                workshop=workshop,
                directory=directory,
                limit=FLASH_LIMIT_SECONDS,
            )
            act.prepare()
        with self._stage.step("a claim that no device satisfies: one is flashed, attested, bound") as say:
            self.repurposed = act.repurpose()
            say(f"{self.repurposed.device}: {self.repurposed.before} becomes {self.repurposed.after}")
        with self._stage.step("firmware that fails: the first device goes back, the others are not touched") as say:
            self.halted = act.fail()
            say(f"{self.halted.device}: {self.halted.state}")

    def _lose_trust(self, boards: Boards) -> None:
        """Firmware that was tampered with, and lies about it, on a device whose data flows: the last act."""
        devices = self.start_devices("devices-before-tampering", "--rate", str(IDLE_RATE))
        with self._stage.step("a device is tampered with, and loses flavor and route") as say:
            bound = Counter(offer.device for each in self.progress for offer in each.bound if offer.board.mcu)
            (device, _), *_ = bound.most_common(1)
            victim = next(each for each in self.offers if each.device == device)
            self.lost = tamper(victim, self.crew, boards=boards, progress=self.progress, limit=READY_LIMIT_SECONDS)
            say(f"{victim.device}: {self.lost.reason}")
        devices.stop(timeout=15)


def _is_bought(binding: Binding) -> bool:
    """Before the contract is there, a binding is an intention."""
    return bool(binding.contract)


def _together(works: list[Callable[[], None]]) -> None:
    """Run all at once; the first error is raised when all have ended."""
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()
