"""Rollouts: every look observes (Jobs, reports), decides, and carries out what was decided.

What was begun is found again by name: the Job of an attempt is called the same whoever creates it, and what became of
it stands in the Lease of the device. So a manager that is killed at any line begins nothing twice and forgets nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

import structlog

from crds.conditions import Verdict, parse_timestamp, stamp, timestamp
from crds.errors import Retryable
from crds.kube.client import LEASES, Conflict, Kube, NotFound, Refused
from crds.kube.events import emit
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Gone, Key, Put, follow
from crds.models.firmwarerollout import DeviceFlash, FirmwareRolloutStatus
from crds.models.flash_report import FINAL_STATES
from flash_controller.domain.attempts import begun, ended
from flash_controller.domain.jobs import COMPONENT, RUNNER, RunnerForm, job_of
from flash_controller.domain.rollout import Start, batch_of, counts, decide, unpinned
from flash_controller.domain.selection import in_batches, selected
from flash_controller.flashing import Flashing
from flash_controller.jobstore import JOBS, JobStore
from flash_controller.metrics import FLASHES
from flash_controller.reasons import RolloutCondition, RolloutReason
from flash_controller.rolloutstore import HeldRollout, RolloutStore
from flash_controller.sight import Sight

log = structlog.get_logger(__name__)

LOOK_SECONDS = 30.0
"""How often a rollout is looked at when nothing seems to happen."""
GATHER_SECONDS = 0.2
"""Reports that come together are looked at together."""
PARALLEL = 16
"""Jobs that are created at a time."""


class Rollouts:
    """Feed it with what watches say, and run it.

    Args:
        kube: the API server.
        form: what all runners have in common.
        clock: now, in UTC.
    """

    def __init__(self, kube: Kube, form: RunnerForm, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._form = form
        self._clock = clock
        self._store = RolloutStore(kube, clock)
        self._jobs = JobStore(kube, namespace=form.namespace)
        self._sight = Sight(kube, self._jobs, clock)
        self._flashing = Flashing(kube, self._jobs, clock)
        self.queue: WorkQueue[Key] = WorkQueue("rollouts", self.reconcile)

    async def run(self, known: Iterable[asyncio.Event]) -> None:
        """Work until cancelled. What is there, and what runs already, is known before anything is begun.

        Args:
            known: are set when all Firmwares, LeafDevices and rollouts have been seen.
        """
        labelled = {"labelSelector": f"{COMPONENT}={RUNNER}"}
        namespace = self._form.namespace
        jobs, leases = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(
                follow(self._kube, JOBS, changed=self.job_seen, synced=jobs, namespace=namespace, query=labelled)
            )
            group.create_task(follow(self._kube, LEASES, changed=self.lease_seen, synced=leases, query=labelled))
            for each in (jobs, leases, *known):
                await each.wait()
            group.create_task(self.queue.run())
            group.create_task(self._flashing.queue.run())

    def rollout_seen(self, change: Change) -> None:
        """A FirmwareRollout appeared, changed or went. Echoes of own writes need no second look."""
        match change:
            case Put(key, obj):
                before = self._store.get(key)
                asked = before and (before.uid, before.generation)
                held = self._store.take(key, obj)
                if held is not None and asked != (held.uid, held.generation):
                    self.queue.add(key)
            case Gone(key):
                self._store.forget(key)
                self.queue.add(key)

    def firmware_seen(self, change: Change) -> None:
        """A Firmware appeared, changed or went."""
        self._sight.firmware_seen(change)
        for held in self._store.unfinished(change.key[0]):
            if held.rollout.spec.firmware_ref.name == change.key[1]:
                self.queue.add(held.key)

    def leaf_seen(self, change: Change) -> None:
        """A LeafDevice appeared, changed or went."""
        self._sight.leaf_seen(change)
        self._flashing.leaf_seen(change)
        for held in self._store.unfinished(change.key[0]):
            if not held.status.devices:
                self.queue.add_after(held.key, GATHER_SECONDS)

    def job_seen(self, change: Change) -> None:
        """A Job of a runner appeared, changed or went: its rollout, and whoever waits for its device, is looked at."""
        job = self._jobs.seen(change)
        if job is None:
            return
        self._flashing.queue.add(job.leaf)
        self.queue.add_after(job.rollout, GATHER_SECONDS / 4)
        if isinstance(change, Put) and job.attempt.active:
            return
        for held in self._store.unfinished(job.rollout[0]):
            if any(
                each.name == job.device and each.reason == RolloutReason.DEVICE_BUSY for each in held.status.devices
            ):
                self.queue.add(held.key)

    def lease_seen(self, change: Change) -> None:
        """A runner took a device, reported or ended."""
        report = self._sight.lease_seen(change)
        if report is not None and (rollout := self._store.of_uid(report.rollout_uid)) is not None:
            self.queue.add_after(rollout, GATHER_SECONDS / 10 if report.state in FINAL_STATES else GATHER_SECONDS)

    async def reconcile(self, key: Key) -> float | None:
        """Look at one rollout; the seconds until it wants another look."""
        held = self._store.get(key) or await self._store.refresh(key)
        alive = held is not None and held.rollout.metadata.deletion_timestamp is None
        for job in self._jobs.of(key):
            if held is None or not alive or job.rollout_uid != held.uid:
                await self._jobs.end(job)
        if held is None or not alive:
            return None
        try:
            if held.status.digest is None and not await self._pin(held):
                return None if held.finished else LOOK_SECONDS
            return await self._look(held)
        except NotFound:
            return None
        except Conflict:
            await self._store.refresh(key)
            return 0.05

    async def _pin(self, held: HeldRollout) -> bool:
        """Take the digest, and the devices, that count to the end; whether there are any."""
        spec, release = held.rollout.spec, self._sight.release(held)
        names = selected(spec.devices, await self._sight.leaves(held.key[0]), release) if release else ()
        refusal = unpinned(spec, ready=release is not None, names=names)
        if refusal or release is None:
            # What was called off before it began is history as well: whoever waits for its devices need not any more.
            over = held.status.finished_time or timestamp(self._clock())
            finished = over if spec.desired in ("Cancel", "RollBack") else None
            await self._write(held, held.status.model_copy(update={"finished_time": finished}), refusal)
            if finished:
                await self._prune(held)
            return False
        news = {
            "digest": release.digest,
            "devices": in_batches(names, spec.strategy),
            "started_time": timestamp(self._clock()),
            "finished_time": None,
        }
        verdict = Verdict(type=RolloutCondition.PROGRESSING, status="True", reason=RolloutReason.ROLLING_OUT)
        await self._write(held, held.status.model_copy(update=news), (verdict,))
        return True

    async def _look(self, held: HeldRollout) -> float | None:
        """Observe, decide, carry out, say so."""
        devices = await self._sight.observe(held)
        now = self._clock()
        plan = decide(
            held.rollout.spec,
            devices,
            started=parse_timestamp(held.status.started_time or "") or now,
            now=now,
            judge=self._sight.judge(held),
            silent=self._sight.silent(held),
        )
        for name in plan.stop:
            job = self._jobs.holding((held.key[0], name))
            if job is not None and job.rollout_uid == held.uid:
                await self._jobs.end(job)
        begun, failures = await self._begin(held, plan.start)
        devices = tuple(begun.get(each.name, each) for each in plan.devices)
        finished = held.status.finished_time or timestamp(now)
        status = held.status.model_copy(
            update={"devices": devices, "finished_time": finished if plan.finished else None}
        )
        left = await self._write(held, status, plan.verdicts)
        if failures:
            raise failures[0]
        if plan.finished:
            await self._prune(held)
            return left
        due = (plan.again - now).total_seconds() if plan.again else LOOK_SECONDS
        return max(0.0, min(due, LOOK_SECONDS, left if left is not None else LOOK_SECONDS))

    async def _begin(
        self, held: HeldRollout, starts: tuple[Start, ...]
    ) -> tuple[dict[str, DeviceFlash], list[Retryable]]:
        """Create Jobs; the devices that this changes, and what may go better later."""
        gate = asyncio.Semaphore(PARALLEL)

        async def one(start: Start) -> DeviceFlash | Retryable | None:
            async with gate:
                try:
                    return await self._begin_one(held, start)
                except Retryable as error:
                    return error

        came = await asyncio.gather(*(one(start) for start in starts))
        flashes = {each.name: each for each in came if isinstance(each, DeviceFlash)}
        return flashes, [each for each in came if isinstance(each, Retryable)]

    async def _begin_one(self, held: HeldRollout, start: Start) -> DeviceFlash | None:
        key = held.key[0], start.device.name
        leaf = self._sight.leaf(key)
        if leaf is None:
            return None
        manifest = job_of(held.rollout, start.device, start.target, node=leaf.spec.node_name, form=self._form)
        job = self._jobs.reserve(manifest)
        if job is None:
            return None  # another rollout was faster, and is told of at the next look
        created = False
        try:
            await self._flashing.begin(key, rollout=held.key[1])
            await self._jobs.create(job, manifest)
            created = True
        except Refused as error:
            return ended(start.device, "Failed", reason=error.reason, message=str(error), now=self._clock())
        finally:
            if not created:
                self._jobs.release(job)
                self._flashing.queue.add(key)
        return begun(start.device, attempt=job.attempt.number, goal=job.attempt.goal, now=self._clock())

    async def _write(
        self, held: HeldRollout, status: FirmwareRolloutStatus, verdicts: tuple[Verdict, ...]
    ) -> float | None:
        """Keep a status, and write it when it is time; the seconds until then, where it is not."""
        before = held.status
        status = status.model_copy(
            update={
                "observed_generation": held.generation,
                "conditions": stamp(verdicts, before=before.conditions, generation=held.generation, now=self._clock()),
                "counts": counts(status.devices),
                "batch": batch_of(status.devices),
                "batches": status.devices[-1].batch + 1 if status.devices else 0,
            }
        )
        left = await self._store.write(held, status)
        known = {each.name: each.state for each in before.devices}
        for each in status.devices:
            if each.state in FINAL_STATES and known.get(each.name) != each.state:
                FLASHES.labels(each.state).inc()
        await self._tell(held, before, status)
        return left

    async def _tell(self, held: HeldRollout, before: FirmwareRolloutStatus, after: FirmwareRolloutStatus) -> None:
        """Post an Event when the rollout does something else than before."""
        reasons = {each.reason for each in before.conditions if each.type == RolloutCondition.PROGRESSING}
        lost = any(each.type == RolloutCondition.SUCCEEDED and each.status == "False" for each in after.conditions)
        for condition in after.conditions:
            if condition.type == RolloutCondition.PROGRESSING and condition.reason not in reasons:
                await emit(
                    self._kube,
                    held.rollout,
                    kind="Warning" if lost else "Normal",
                    reason=condition.reason,
                    action="RollOut",
                    note=condition.message,
                    reporter="flash-controller",
                )

    async def _prune(self, held: HeldRollout) -> None:
        """Keep so many finished rollouts of a Firmware as the one that has finished last says."""
        for old in self._store.superfluous(held):
            await self._store.delete(old)
