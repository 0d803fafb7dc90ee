"""Others' orders carried out: FlashJobs of Nubificus and firmwareJobSpecs of Akri become rollouts of ours.

For clusters where their own operators do not flash: two that do would each undo what the other did.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, TypeVar

import structlog

from crds.errors import InvalidField
from crds.kube.client import AlreadyExists, Kind, Kube, NotFound
from crds.kube.events import emit
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Key, Put, follow
from crds.models.akri import Configuration, Instance
from crds.models.base import Resource
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.flashjob import FlashJob, FlashJobStatus
from crds.models.leafdevice import LeafDevice
from flash_controller.domain.adoption import (
    CONFIGURATION,
    Order,
    Ours,
    Place,
    Theirs,
    configuration_order,
    flash_job_order,
    flash_job_rollout,
    flash_job_status,
    is_newer,
    is_over,
    job_spec_wish,
    occasion,
    outdated,
    place_of,
    their_job,
)

log = structlog.get_logger(__name__)

MANAGER: Final = "flash-controller-adoption"
JOBS: Final = Kind("batch/v1", "jobs")
WAIT_SECONDS: Final = 0.2
"""Instances and LeafDevices that come together are looked at together."""

Asked = tuple[Literal["FlashJob", "Configuration"], Key]
R = TypeVar("R", bound=Resource)


class Adoption:
    """What others' kinds ask for, followed and carried out.

    Args:
        kube: the API server.
        clock: now, in UTC.
        plain_http: registries that are asked without TLS.
    """

    def __init__(self, kube: Kube, *, clock: Callable[[], datetime], plain_http: Callable[[], tuple[str, ...]]) -> None:
        self._kube = kube
        self._clock = clock
        self._plain_http = plain_http
        self._jobs: dict[Key, FlashJob] = {}
        self._configurations: dict[Key, Configuration] = {}
        self._instances: dict[Key, Instance] = {}
        self._places: dict[Key, Place] = {}
        self._rollouts: dict[Key, FirmwareRollout] = {}
        self._served: defaultdict[str, set[str]] = defaultdict(set)
        self._told: dict[Key, str] = {}
        self.queue: WorkQueue[Asked] = WorkQueue("adoption", self.reconcile)

    async def run(self) -> None:
        """Work until cancelled. What is there, and what was ordered already, is known before anything is ordered."""
        followed: dict[Kind, Callable[[Change], None]] = {
            Kind.of(FirmwareRollout.crd): self.rollout_seen,
            Kind.of(LeafDevice.crd): self.leaf_seen,
            Kind.of(Instance.crd): self.instance_seen,
            Kind.of(Configuration.crd): self.configuration_seen,
            Kind.of(FlashJob.crd): self.flash_job_seen,
        }
        async with asyncio.TaskGroup() as group:
            listed = []
            for kind, seen in followed.items():
                listed.append(asyncio.Event())
                group.create_task(follow(self._kube, kind, changed=seen, synced=listed[-1]))
            for each in listed:
                await each.wait()
            await self.queue.run()

    def flash_job_seen(self, change: Change) -> None:
        """A FlashJob appeared, changed or went."""
        before = self._jobs.get(change.key)
        now = _keep(self._jobs, FlashJob, change)
        if now is not None and (before is None or before.metadata.generation != now.metadata.generation):
            self.queue.add(("FlashJob", change.key))

    def configuration_seen(self, change: Change) -> None:
        """A Configuration appeared, changed or went."""
        if _keep(self._configurations, Configuration, change) is not None:
            self.queue.add(("Configuration", change.key))

    def instance_seen(self, change: Change) -> None:
        """An Instance appeared, changed or went."""
        instance = _keep(self._instances, Instance, change)
        if instance is not None:
            self.queue.add_after(("Configuration", (change.key[0], instance.spec.configuration_name)), WAIT_SECONDS)
            self._look_at_jobs()

    def leaf_seen(self, change: Change) -> None:
        """A LeafDevice appeared, changed or went; what it measures does not count here."""
        place = None
        if isinstance(change, Put):
            try:
                place = place_of(LeafDevice.parse(change.obj))
            except InvalidField:
                return  # whoever flashes devices says so
        before = self._places.pop(change.key, None)
        if place is not None:
            self._places[change.key] = place
        if place is not None and place != before:
            self._look_at_jobs()
            for key in self._configurations:
                self.queue.add_after(("Configuration", key), WAIT_SECONDS)

    def rollout_seen(self, change: Change) -> None:
        """A FirmwareRollout appeared, changed or went: who it is for is told."""
        rollout = _keep(self._rollouts, FirmwareRollout, change)
        for owner in rollout.metadata.owner_references if rollout else ():
            if owner.kind == "FlashJob":
                self.queue.add(("FlashJob", (change.key[0], owner.name)))

    async def reconcile(self, asked: Asked) -> float | None:
        """What the object asks for is there, and its status says how far it has come."""
        kind, key = asked
        if kind == "FlashJob" and (job := self._jobs.get(key)) is not None and not job.metadata.deletion_timestamp:
            await self._carry_out(key, job)
        if kind == "Configuration" and (configuration := self._configurations.get(key)) is not None:
            await self._apply(key, configuration)
        return None

    async def _carry_out(self, key: Key, job: FlashJob) -> None:
        rollout = self._rollouts.get((key[0], flash_job_rollout(job)))
        if rollout is not None:
            await self._say(key, job, flash_job_status(job, rollout, now=self._clock()))
        elif not is_over(job):
            try:
                order = flash_job_order(
                    job,
                    instances=self._instances.values(),
                    places=self._places_of(key[0]),
                    plain_http=self._plain_http(),
                )
            except InvalidField as error:
                await self._say(key, job, FlashJobStatus(phase="Failed", message=str(error)))
            else:
                await self._place(order)

    async def _say(self, key: Key, job: FlashJob, status: FlashJobStatus) -> None:
        if is_over(job) or status == job.status:
            return
        try:
            answer = await self._kube.apply_status(
                FlashJob, name=key[1], namespace=key[0], status=status.dump(), manager=MANAGER
            )
        except NotFound:
            return
        self._jobs[key] = FlashJob.parse(answer)

    async def _apply(self, key: Key, configuration: Configuration) -> None:
        try:
            wish = job_spec_wish(configuration)
            order = self._order_of(configuration, wish) if isinstance(wish, Ours) else None
        except InvalidField as error:
            await self._complain(key, configuration, str(error))
            return
        self._told.pop(key, None)
        if order is not None:
            await self._place(order)
            self._served[occasion(configuration)].update(order.rollout.spec.devices.names or ())
        if isinstance(wish, Theirs):
            for instance in self._instances_of(configuration):
                if is_newer(wish.version, instance):
                    await self._run(their_job(configuration, wish, instance), instance)

    def _order_of(self, configuration: Configuration, wish: Ours) -> Order | None:
        now = occasion(configuration)
        served = {
            name
            for rollout in self._rollouts.values()
            if rollout.metadata.annotations.get(CONFIGURATION) == now
            for name in rollout.spec.devices.names or ()
        }
        return configuration_order(
            configuration,
            wish,
            instances=self._instances_of(configuration),
            places=self._places_of(configuration.metadata.namespace or ""),
            served=served | self._served[now],
            plain_http=self._plain_http(),
        )

    async def _place(self, order: Order) -> None:
        for old in [each for each in self._rollouts.values() if outdated(each, order)]:
            await self._call_off(old)
        for obj in (order.firmware, order.rollout):
            try:
                await self._kube.create(obj, manager=MANAGER)
            except AlreadyExists:
                continue
            log.info("adopted", kind=obj.crd.kind, name=obj.metadata.name, namespace=obj.metadata.namespace)

    async def _call_off(self, rollout: FirmwareRollout) -> None:
        name, namespace = rollout.metadata.name, rollout.metadata.namespace
        body = {"spec": {"desired": "Cancel"}}
        with contextlib.suppress(NotFound):
            await self._kube.patch(FirmwareRollout, name, namespace=namespace, body=body, manager=MANAGER)
            log.info("called off: its owner wants other firmware now", name=name, namespace=namespace)

    async def _run(self, job: dict[str, object], instance: Instance) -> None:
        path = JOBS.path(namespace=instance.metadata.namespace)
        try:
            await self._kube.request("POST", path, body=job, query={"fieldManager": MANAGER})
        except AlreadyExists:
            return
        log.info("firmware job", instance=instance.metadata.name, namespace=instance.metadata.namespace)

    async def _complain(self, key: Key, configuration: Configuration, why: str) -> None:
        if self._told.get(key) == why:
            return
        self._told[key] = why
        log.warning("firmwareJobSpec refused", configuration="/".join(key), why=why)
        await emit(
            self._kube,
            configuration,
            kind="Warning",
            reason="FirmwareJobRefused",
            action="Flash",
            note=why,
            reporter="flash-controller",
        )

    def _instances_of(self, configuration: Configuration) -> list[Instance]:
        namespace, name = configuration.metadata.namespace, configuration.metadata.name
        return [
            each
            for each in self._instances.values()
            if (each.metadata.namespace, each.spec.configuration_name) == (namespace, name)
        ]

    def _places_of(self, namespace: str) -> list[Place]:
        return [place for key, place in self._places.items() if key[0] == namespace]

    def _look_at_jobs(self) -> None:
        for key, job in self._jobs.items():
            if not is_over(job):
                self.queue.add_after(("FlashJob", key), WAIT_SECONDS)


def _keep(store: dict[Key, R], kind: type[R], change: Change) -> R | None:
    """Take a change in; the object as it is now, None where it is gone or cannot be read."""
    before = store.pop(change.key, None)
    if not isinstance(change, Put):
        return None
    try:
        store[change.key] = now = kind.parse(change.obj)
    except InvalidField as error:
        REFUSED_OBJECTS.labels(kind.crd.kind).inc()
        log.warning("not readable", kind=kind.crd.kind, name="/".join(change.key), error=str(error))
        if before is not None:
            store[change.key] = before
        return None
    return now
