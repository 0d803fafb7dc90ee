"""What rollouts go by: Firmwares, LeafDevices, the Jobs of runners and what these report, as they were last seen.

Watches may lag behind. What seems to be missing, or to have ended, is asked for before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog

from crds.errors import InvalidField
from crds.kube.client import LEASES, Kind, Kube, Object
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.firmware import Firmware, Release
from crds.models.firmwarerollout import DeviceFlash
from crds.models.flash_report import FINAL_STATES, FlashReport
from crds.models.leafdevice import LeafDevice
from crds.naming import flash_lease_name
from flash_controller.adapters.device_lease import held_by, held_until, report_of
from flash_controller.domain.attempts import Attempt, in_flight, observed
from flash_controller.domain.rollout import batch_of, retrying_of
from flash_controller.domain.selection import Judgement, Target, Wait, current, judge, measured, traced
from flash_controller.jobstore import JobStore
from flash_controller.reasons import RolloutReason
from flash_controller.rolloutstore import HeldRollout

ONLINE = "Online"
"""Condition of a LeafDevice: readings, or its source, were heard of lately."""

log = structlog.get_logger(__name__)


class Sight:
    """Fed by watches.

    Args:
        kube: the API server.
        jobs: of runners.
        clock: now, in UTC.
    """

    def __init__(self, kube: Kube, jobs: JobStore, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._jobs = jobs
        self._clock = clock
        self._firmwares: dict[Key, Firmware] = {}
        self._leaves: dict[Key, LeafDevice] = {}
        self._leases: dict[Key, Object] = {}

    def firmware_seen(self, change: Change) -> None:
        """A Firmware appeared, changed or went."""
        match change:
            case Put(key, obj):
                try:
                    self._firmwares[key] = Firmware.parse(obj)
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("Firmware").inc()
                    log.warning("firmware not readable", firmware="/".join(key), error=str(error))
            case Gone(key):
                self._firmwares.pop(key, None)

    def leaf_seen(self, change: Change) -> None:
        """A LeafDevice appeared, changed or went."""
        match change:
            case Put(key, obj):
                try:
                    self._leaves[key] = LeafDevice.parse(obj)
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("LeafDevice").inc()
                    log.warning("LeafDevice not readable", leaf="/".join(key), error=str(error))
            case Gone(key):
                self._leaves.pop(key, None)

    def lease_seen(self, change: Change) -> FlashReport | None:
        """A runner took a device, reported or ended; its report."""
        match change:
            case Put(key, obj):
                self._leases[key] = obj
                return report_of(obj)
            case Gone(key):
                self._leases.pop(key, None)
                return None

    def leaf(self, key: Key) -> LeafDevice | None:
        """A device."""
        return self._leaves.get(key)

    async def leaves(self, namespace: str) -> list[LeafDevice]:
        """All devices, asked for: what a watch has told so far may be half of them."""
        answer = await self._kube.request("GET", Kind.of(LeafDevice.crd).path(namespace=namespace))
        for obj in answer["items"]:
            self.leaf_seen(Put((namespace, obj["metadata"]["name"]), obj))
        return [leaf for key, leaf in self._leaves.items() if key[0] == namespace]

    def release(self, held: HeldRollout) -> Release | None:
        """What the rollout's Firmware is now, where that may be flashed."""
        return current(self._firmwares.get((held.key[0], held.rollout.spec.firmware_ref.name)))

    def judge(self, held: HeldRollout) -> Callable[[DeviceFlash], Judgement]:
        """Whether a device can be flashed now."""
        namespace, known = held.key[0], self._known(held)
        firmware = self._firmwares.get((namespace, held.rollout.spec.firmware_ref.name))

        def of(flash: DeviceFlash) -> Judgement:
            key = namespace, flash.name
            if (job := self._jobs.holding(key)) is not None:
                return Wait(RolloutReason.DEVICE_BUSY, f"the rollout {'/'.join(job.rollout)} has it")
            lease = self._leases.get((namespace, flash_lease_name(flash.name)))
            until = held_until(lease) if lease and not held_by(lease, held.uid) else None
            if until is not None and self._clock() < until:
                return Wait(RolloutReason.DEVICE_BUSY, f"another rollout's runner had it last, and may until {until}")
            return judge(held.rollout, flash, self._leaves.get(key), firmware, known=known)

        return of

    def silent(self, held: HeldRollout) -> frozenset[str]:
        """The rollout's devices that are not heard of."""
        leaves = [self._leaves.get((held.key[0], each.name)) for each in held.status.devices]
        return frozenset(
            leaf.metadata.name
            for leaf in leaves
            if leaf
            and leaf.status
            and any(each.type == ONLINE and each.status == "False" for each in leaf.status.conditions)
        )

    async def observe(self, held: HeldRollout) -> tuple[DeviceFlash, ...]:
        """All devices of a rollout, after what is known of their attempts."""
        newest, known = self._jobs.newest(held.uid), self._known(held)
        batch = batch_of(held.status.devices)
        devices = []
        for flash in held.status.devices:
            job = newest.get(flash.name)
            key = held.key[0], flash.name
            if in_flight(flash) or (job is not None and job.attempt.number > flash.attempts):
                devices.append(await self._follow_up(held, flash, job.attempt if job else None, known))
                continue
            if flash.batch == batch and key not in self._leaves:
                obj = await self._kube.find(Kind.of(LeafDevice.crd), key)
                self.leaf_seen(Put(key, obj) if obj else Gone(key))
            devices.append(flash)
        return tuple(devices)

    async def _follow_up(
        self, held: HeldRollout, flash: DeviceFlash, attempt: Attempt | None, known: dict[str, Target]
    ) -> DeviceFlash:
        if attempt is None or attempt.number < flash.attempts:
            job = await self._jobs.look(held.uid, flash.name, flash.attempts)
            attempt = job.attempt if job else None
        key = held.key[0], flash_lease_name(flash.name)
        lease = self._leases.get(key)
        report = report_of(lease) if lease else None
        number = max(flash.attempts, attempt.number if attempt else 0)
        concluded = report is not None and report.attempt == number and report.state in FINAL_STATES
        if not concluded and (attempt is None or not attempt.active):
            lease = await self._kube.find(LEASES, key)
            report = self.lease_seen(Put(key, lease) if lease else Gone(key))
        until = held_until(lease) if lease and held_by(lease, held.uid) else None
        if report is not None and report.rollout_uid != held.uid:
            report = None
        if report is not None and report.before is not None:
            report = report.model_copy(update={"before": traced(report.before, known)})
        retrying = retrying_of(held.rollout.spec, flash)
        now = self._clock()
        return observed(
            flash,
            attempt=attempt,
            report=report,
            retrying=retrying,
            now=now,
            held=until is not None and now < until,
        )

    def _known(self, held: HeldRollout) -> dict[str, Target]:
        return measured(each for key, each in self._firmwares.items() if key[0] == held.key[0])
