"""Rollouts without a cluster: Jobs and reports as values, a clock that is set, and managers that forget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from crds.conditions import timestamp
from crds.models.base import validate
from crds.models.firmwarerollout import DeviceFlash, FirmwareRolloutSpec
from crds.models.flash_report import FlashReport, FlashState, Running
from flash_controller.domain.attempts import Attempt, begun, in_flight, observed
from flash_controller.domain.rollout import Plan, decide, retrying_of
from flash_controller.domain.selection import Go, Judgement, Target, in_batches

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
BEFORE = Running(
    application="thermo", version="1.0.0", measurement="bb" * 32, digest=f"sha256:{'b' * 64}", firmware="b"
)


def spec_of(**more: Any) -> FirmwareRolloutSpec:
    """A rollout of all devices, by JSON names."""
    wish = {"firmwareRef": {"name": "thermo"}, "devices": {"count": 1000}, "backoffSeconds": 1, **more}
    return validate(FirmwareRolloutSpec, wish)


@dataclass
class World:
    """What a manager sees and does."""

    spec: FirmwareRolloutSpec
    devices: tuple[DeviceFlash, ...]
    now: datetime = START
    jobs: dict[str, Attempt] = field(default_factory=dict)
    reports: dict[str, FlashReport] = field(default_factory=dict)
    judgements: dict[str, Judgement] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    began: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, count: int, **spec: Any) -> World:
        """So many devices, `d-0` and so on."""
        wish = spec_of(**spec)
        return cls(wish, in_batches([f"d-{number}" for number in range(count)], wish.strategy))

    def wish(self, **spec: Any) -> None:
        """Change the spec."""
        self.spec = self.spec.model_copy(update=spec)

    def look(self) -> Plan:
        """One look: observe, decide, begin and stop."""
        self.devices = tuple(
            observed(
                each,
                attempt=self.jobs.get(each.name),
                report=self.reports.get(each.name),
                retrying=retrying_of(self.spec, each),
                now=self.now,
            )
            for each in self.devices
        )
        plan = decide(self.spec, self.devices, started=START, now=self.now, judge=self._judge, silent=self.silent)
        started = {}
        for start in plan.start:
            name, number = start.device.name, start.device.attempts + 1
            known = self.jobs.get(name)
            assert known is None or not known.active, "two jobs for one device"
            assert known is None or known.number < number, "an attempt twice"
            self.jobs[name] = Attempt(job=f"{name}-{number}", number=number, goal=start.device.goal, active=True)
            started[name] = begun(start.device, attempt=number, goal=start.device.goal, now=self.now)
            self.began.append(name)
        self.devices = tuple(started.get(each.name, each) for each in plan.devices)
        for name in plan.stop:
            self.end(name, "Failed", reason="Stopped", retryable=True)
        return plan

    def look_on(self) -> Plan:
        """Look until a look changes nothing."""
        while True:
            before = self.devices
            plan = self.look()
            if self.devices == before:
                return plan

    def end(self, name: str, state: FlashState | None, *, reason: str = "", retryable: bool = False) -> None:
        """A device's job ends, with a final report or without."""
        job = self.jobs[name]
        self.jobs[name] = replace(job, active=False)
        if state is not None:
            self.reports[name] = FlashReport(
                state=state,
                reason=reason or state,
                before=BEFORE,
                rollout_uid="uid",
                attempt=job.number,
                retryable=retryable,
                time=timestamp(self.now),
            )

    def end_all(self, state: FlashState = "Confirmed", **more: Any) -> None:
        """All that runs ends so."""
        for name in self.active:
            self.end(name, state, **more)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += timedelta(seconds=seconds)

    @property
    def active(self) -> list[str]:
        """Devices with a job."""
        return [name for name, job in self.jobs.items() if job.active]

    @property
    def states(self) -> dict[str, str]:
        """By name."""
        return {each.name: each.state for each in self.devices}

    @property
    def flying(self) -> int:
        """How many devices the manager knows to be in flight."""
        return sum(in_flight(each) for each in self.devices)

    def _judge(self, flash: DeviceFlash) -> Judgement:
        return self.judgements.get(flash.name, Go(Target("thermo", f"sha256:{'a' * 64}", "aa" * 32)))


def told(plan: Plan) -> str:
    """The condition Progressing, as `True/RollingOut`."""
    return next(f"{each.status}/{each.reason}" for each in plan.verdicts if each.type == "Progressing")


def succeeded(plan: Plan) -> str:
    """The condition Succeeded, likewise."""
    return next(f"{each.status}/{each.reason}" for each in plan.verdicts if each.type == "Succeeded")
