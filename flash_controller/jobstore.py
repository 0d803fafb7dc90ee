"""The Jobs of flash runners, as they were last seen; created and ended here alone."""

from __future__ import annotations

import structlog

from crds.errors import InvalidField
from crds.kube.client import AlreadyExists, Kind, Kube, NotFound, Object
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Gone, Key, Put
from flash_controller.domain.jobs import FlashJob, flash_job, job_name

log = structlog.get_logger(__name__)

JOBS = Kind("batch/v1", "jobs")


class JobStore:
    """Fed by a watch of the manager's namespace.

    Args:
        kube: the API server.
        namespace: where all runners are.
    """

    def __init__(self, kube: Kube, *, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._jobs: dict[str, FlashJob] = {}
        self._active: dict[Key, FlashJob] = {}

    def seen(self, change: Change) -> FlashJob | None:
        """A Job appeared, changed or went; the Job that it concerns."""
        match change:
            case Put(_, obj):
                return self._take(obj)
            case Gone((_, name)):
                return self._forget(name)

    def of(self, rollout: Key) -> list[FlashJob]:
        """The Jobs of one rollout, whatever its life."""
        return [job for job in self._jobs.values() if job.rollout == rollout]

    def newest(self, rollout_uid: str) -> dict[str, FlashJob]:
        """The newest Job of each device of a rollout."""
        jobs = [job for job in self._jobs.values() if job.rollout_uid == rollout_uid]
        return {job.device: job for job in sorted(jobs, key=lambda job: job.attempt.number)}

    def holding(self, leaf: Key) -> FlashJob | None:
        """The Job that has a device now."""
        return self._active.get(leaf)

    async def look(self, rollout_uid: str, device: str, attempt: int) -> FlashJob | None:
        """The Job of an attempt, asked for."""
        name = job_name(rollout_uid, device, attempt)
        obj = await self._kube.find(JOBS, (self._namespace, name))
        if obj is None:
            self._forget(name)
            return None
        return self._take(obj)

    def reserve(self, manifest: Object) -> FlashJob | None:
        """Have a device for a Job that is not there yet; None where another one has it."""
        job = flash_job(manifest)
        return None if job.leaf in self._active else self._keep(job)

    async def create(self, job: FlashJob, manifest: Object) -> None:
        """Create a Job that was reserved; one of the same name is the same Job.

        Raises:
            Refused: the API server does not take it.
            Retryable: it is away.
        """
        try:
            self._take(await self._kube.request("POST", JOBS.path(namespace=self._namespace), body=manifest))
        except AlreadyExists:
            await self.look(job.rollout_uid, job.device, job.attempt.number)

    def release(self, job: FlashJob) -> None:
        """It could not be created."""
        self._forget(job.attempt.job)

    async def end(self, job: FlashJob) -> None:
        """Have the runner told to stop; the Job is gone when it has stopped."""
        if job.ending:
            return
        path = JOBS.path(namespace=self._namespace, name=job.attempt.job)
        try:
            await self._kube.request("DELETE", path, body={"propagationPolicy": "Foreground"})
        except NotFound:
            self._forget(job.attempt.job)

    def _take(self, obj: Object) -> FlashJob | None:
        try:
            return self._keep(flash_job(obj))
        except InvalidField as error:
            REFUSED_OBJECTS.labels("Job").inc()
            log.warning("Job not readable", job=obj["metadata"]["name"], error=str(error))
            return None

    def _keep(self, job: FlashJob) -> FlashJob:
        self._forget(job.attempt.job)
        self._jobs[job.attempt.job] = job
        if job.attempt.active:
            self._active[job.leaf] = job
        return job

    def _forget(self, name: str) -> FlashJob | None:
        job = self._jobs.pop(name, None)
        if job is not None and (held := self._active.get(job.leaf)) and held.attempt.job == name:
            del self._active[job.leaf]
        return job
