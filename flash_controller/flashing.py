"""The condition `Flashing` of LeafDevices: True from before a Job is created until none has the device any more.

Whoever routes a device's readings, or sells them, goes by it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from crds.conditions import Verdict, stamp
from crds.kube.client import Kube, NotFound
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.base import Condition, validate
from crds.models.flash_report import FLASHING
from crds.models.leafdevice import LeafDevice
from flash_controller.jobstore import JobStore
from flash_controller.reasons import FlashingReason

MANAGER = "flash-controller-flashing"


class Flashing:
    """Feed it with LeafDevices, and `queue` with those whose Jobs changed.

    Args:
        kube: the API server.
        jobs: which devices are held.
        clock: now, in UTC.
    """

    def __init__(self, kube: Kube, jobs: JobStore, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._jobs = jobs
        self._clock = clock
        self._conditions: dict[Key, Condition] = {}
        self.queue: WorkQueue[Key] = WorkQueue("flashed-devices", self.reconcile)

    def leaf_seen(self, change: Change) -> None:
        """A LeafDevice appeared, changed or went."""
        match change:
            case Put(key, obj):
                conditions = obj.get("status", {}).get("conditions") or ()
                found = next((each for each in conditions if each["type"] == FLASHING), None)
                if found is not None:
                    self._conditions[key] = validate(Condition, found)
                else:
                    self._conditions.pop(key, None)
                # A device that was removed and found again says nothing of the job that has it.
                if found is not None or self._jobs.holding(key) is not None:
                    self.queue.add(key)
            case Gone(key):
                self._conditions.pop(key, None)

    async def begin(self, leaf: Key, *, rollout: str) -> None:
        """Say that a device is about to be flashed.

        Raises:
            NotFound: there is no such device.
        """
        message = f"the rollout {rollout} has it"
        await self._say(leaf, Verdict(type=FLASHING, status="True", reason=FlashingReason.HELD, message=message))

    async def reconcile(self, leaf: Key) -> None:
        """Say so, or no longer, by the Jobs that there are."""
        job, said = self._jobs.holding(leaf), self._conditions.get(leaf)
        try:
            if job is not None:
                await self.begin(leaf, rollout=job.rollout[1])
            elif said is not None and said.status == "True":
                await self._say(leaf, Verdict(type=FLASHING, status="False", reason=FlashingReason.IDLE))
        except NotFound:
            return

    async def _say(self, leaf: Key, verdict: Verdict) -> None:
        said = self._conditions.get(leaf)
        if said is not None and (said.status, said.message) == (verdict.status, verdict.message):
            return
        (condition,) = stamp([verdict], before=[said] if said else [], generation=None, now=self._clock())
        await self._kube.apply_status(
            LeafDevice,
            name=leaf[1],
            namespace=leaf[0],
            status={"conditions": [condition.dump()]},
            manager=MANAGER,
        )
        self._conditions[leaf] = condition
