"""The rollouts as they were last seen, what was decided about them since, and how that is written.

A status may hold a thousand devices, each of which changes several times: what was decided is kept here and written at
a bounded rate. Whoever starts anew decides the same again, from Jobs and reports. Every write names the version that it
rests on: two managers that both think they lead overwrite nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from crds.errors import InvalidField
from crds.kube.client import MERGE_PATCH, Kind, Kube, Object
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Key
from crds.models.firmwarerollout import FirmwareRollout, FirmwareRolloutStatus
from crds.models.repurposing import AFTERWARDS

log = structlog.get_logger(__name__)

STATUS_MANAGER = "flash-controller"
WRITE_SECONDS = 2.0
"""At least between two statuses of one rollout that tell nothing but how far devices have come."""


@dataclass(slots=True)
class HeldRollout:
    """One version of a rollout, and its status as it is by now."""

    rollout: FirmwareRollout
    status: FirmwareRolloutStatus
    written_at: datetime | None = None

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.rollout.metadata.namespace or "", self.rollout.metadata.name

    @property
    def uid(self) -> str:
        """Of this life of the name."""
        return self.rollout.metadata.uid or ""

    @property
    def finished(self) -> bool:
        """Nothing happens any more, unless the spec changes."""
        return self.status.finished_time is not None and self.status.observed_generation == self.generation

    @property
    def generation(self) -> int | None:
        """Of the spec."""
        return self.rollout.metadata.generation


class RolloutStore:
    """All rollouts.

    Args:
        kube: where they are.
        clock: now, in UTC.
    """

    def __init__(self, kube: Kube, clock: Callable[[], datetime]) -> None:
        self._kube = kube
        self._clock = clock
        self._rollouts: dict[Key, HeldRollout] = {}
        self._by_uid: dict[str, Key] = {}

    def get(self, key: Key) -> HeldRollout | None:
        """As it is by now."""
        return self._rollouts.get(key)

    def of_uid(self, uid: str) -> Key | None:
        """Which rollout a life of one belongs to."""
        return self._by_uid.get(uid)

    def unfinished(self, namespace: str) -> list[HeldRollout]:
        """Those that may go on."""
        return [held for held in self._rollouts.values() if held.key[0] == namespace and not held.finished]

    def superfluous(self, held: HeldRollout) -> list[HeldRollout]:
        """The finished rollouts of the same Firmware that are more than it says shall be kept.

        Of those that tell the gateway what to bring back later, each device's newest is not among them.
        """
        alike = [
            each
            for each in self._rollouts.values()
            if (each.key[0], each.rollout.spec.firmware_ref) == (held.key[0], held.rollout.spec.firmware_ref)
            and each.finished
        ]
        alike.sort(key=lambda each: each.status.finished_time or "", reverse=True)
        told: dict[tuple[str, ...] | None, HeldRollout] = {}
        for each in alike:
            if AFTERWARDS in each.rollout.metadata.annotations:
                told.setdefault(each.rollout.spec.devices.names, each)
        kept = {each.uid for each in told.values()}
        return [each for each in alike[held.rollout.spec.history_limit :] if each.uid not in kept]

    def forget(self, key: Key) -> None:
        """It is gone."""
        held = self._rollouts.pop(key, None)
        if held is not None:
            self._by_uid.pop(held.uid, None)

    def take(self, key: Key, obj: Object, *, anew: bool = False) -> HeldRollout | None:
        """Read a version, and keep it unless a newer one is there; None if it cannot be read.

        Args:
            key: namespace and name.
            obj: the version.
            anew: whether its status counts, not what was decided here since.
        """
        try:
            rollout = FirmwareRollout.parse(obj)
        except InvalidField as error:
            REFUSED_OBJECTS.labels("FirmwareRollout").inc()
            log.error("rollout not readable", rollout="/".join(key), error=str(error))
            return None
        held = self._rollouts.get(key)
        if held is not None and held.uid == rollout.metadata.uid and not anew:
            if _version(rollout) > _version(held.rollout):
                held.rollout = rollout
            return held
        self.forget(key)
        held = HeldRollout(rollout, rollout.status or FirmwareRolloutStatus())
        self._rollouts[key] = held
        self._by_uid[held.uid] = key
        return held

    async def refresh(self, key: Key) -> HeldRollout | None:
        """Read it anew; what was decided since its last write is decided again."""
        obj = await self._kube.find(Kind.of(FirmwareRollout.crd), key)
        if obj is None:
            self.forget(key)
            return None
        return self.take(key, obj, anew=True)

    async def write(self, held: HeldRollout, status: FirmwareRolloutStatus) -> float | None:
        """Keep a status, and write it: at once where its conditions changed, else when it is time.

        Returns:
            The seconds after which to come again, where it is not time yet.

        Raises:
            Conflict: the rollout is not what it was.
            NotFound: it is gone.
        """
        held.status = status
        written, now = held.rollout.status or FirmwareRolloutStatus(), self._clock()
        if status == written:
            return None
        if held.written_at is not None and status.conditions == written.conditions:
            left = WRITE_SECONDS - (now - held.written_at).total_seconds()
            if 0 < left <= WRITE_SECONDS:  # more is left only where the clock was put back
                return left
        answer = await self._kube.request(
            "PATCH",
            Kind.of(FirmwareRollout.crd).path(namespace=held.key[0], name=held.key[1], subresource="status"),
            query={"fieldManager": STATUS_MANAGER},
            body={
                "metadata": {"resourceVersion": held.rollout.metadata.resource_version},
                # A merge patch removes what is null, and leaves alone what is absent.
                "status": {"digest": None, "finishedTime": None, **status.dump()},
            },
            content_type=MERGE_PATCH,
        )
        held.written_at = now
        self.take(held.key, answer)
        return None

    async def delete(self, held: HeldRollout) -> None:
        """Remove a rollout from the history."""
        await self._kube.delete(FirmwareRollout, held.key[1], namespace=held.key[0], uid=held.uid)
        self.forget(held.key)


def _version(rollout: FirmwareRollout) -> int:
    """Comparable since Kubernetes 1.35, and with etcd ever since."""
    return int(rollout.metadata.resource_version or 0)
