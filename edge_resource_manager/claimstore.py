"""The claims as they were last seen, what is remembered about them between looks, and how they are written.

Every write names the version of the object that it rests on: if anybody wrote in between, it fails, and the claim is
looked at again. So two managers that both think they lead, or a store that is behind its watch, overwrite nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from crds.columns import summary
from crds.conditions import Verdict, stamp
from crds.errors import InvalidField
from crds.kube.client import MERGE_PATCH, Kind, Kube, NotFound, Object
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Key
from crds.models.base import ObjectMeta, validate
from crds.models.sensorclaim import Binding, SensorClaim, SensorClaimSpec, SensorClaimStatus
from edge_resource_manager.domain.matching import Candidate, Fails
from edge_resource_manager.reasons import ClaimCondition, ClaimReason

log = structlog.get_logger(__name__)

FINALIZER = "edge.fluidos.eu/contracts"
STATUS_MANAGER = "edge-resource-manager-claims"
INSECURE = Verdict(
    type=ClaimCondition.INSECURE,
    status="True",
    reason=ClaimReason.INSECURE_MODE,
    message="the manager runs with --insecure: sellers prove nothing, and spec.minimumTier does not count",
)


@dataclass(slots=True)
class Memory:
    """What is known of a claim beside its object; lost with the process, and no harm done.

    Attributes:
        refused: (flavor, provider) that were refused: why, and until when not to ask again.
        withdrawn: (flavor, provider) that are no longer offered, and why, until the binding is found lost.
        lost: what became of bindings that have no substitute yet.
        unrecorded: bought, but another writer was faster: another manager, perhaps, that had given the intent up.
        near: the flavors that came closest, until `near_until`.
    """

    refused: dict[tuple[str, str], tuple[str, datetime]] = field(default_factory=dict)
    withdrawn: dict[tuple[str, str], str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    unrecorded: dict[str, Binding] = field(default_factory=dict)
    near: tuple[tuple[Candidate, Fails], ...] = ()
    near_until: datetime | None = None

    def forget_answers(self) -> None:
        """The claim asks for something else now."""
        self.refused.clear()
        self.near, self.near_until = (), None


@dataclass(slots=True)
class HeldClaim:
    """One version of a claim; all versions share the memory."""

    meta: ObjectMeta
    spec: SensorClaimSpec | InvalidField
    status: SensorClaimStatus
    memory: Memory = field(default_factory=Memory)

    @classmethod
    def of(cls, obj: Object) -> HeldClaim:
        """Read an object; whatever is wrong with its spec must not hide its contracts."""
        try:
            spec: SensorClaimSpec | InvalidField = validate(SensorClaimSpec, obj.get("spec"), field="spec")
        except InvalidField as error:
            spec = error
        return cls(
            meta=validate(ObjectMeta, obj["metadata"], field="metadata"),
            spec=spec,
            status=validate(SensorClaimStatus, obj.get("status") or {}, field="status"),
        )

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.meta.namespace or "", self.meta.name

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """What may have to be ended some day."""
        recorded = self.status.bindings
        known = {binding.flavor for binding in recorded}
        return *recorded, *(binding for flavor, binding in self.memory.unrecorded.items() if flavor not in known)

    @property
    def version(self) -> int:
        """Of the object; comparable since Kubernetes 1.35, and with etcd ever since."""
        return int(self.meta.resource_version or 0)

    @property
    def wants_more(self) -> bool:
        """Whether any flavor that appears may be one for this claim."""
        if isinstance(self.spec, InvalidField):
            return False
        ready = any(each.type == ClaimCondition.READY and each.status == "True" for each in self.status.conditions)
        return self.spec.count == "All" or not ready

    def asks_as(self, other: HeldClaim) -> bool:
        """Whether the difference between two versions is but an echo of our own writes."""

        def asked(held: HeldClaim) -> tuple[object, ...]:
            meta = held.meta
            return meta.uid, meta.generation, meta.deletion_timestamp, FINALIZER in meta.finalizers

        return asked(self) == asked(other)


class ClaimStore:
    """All claims.

    Args:
        kube: where they are.
        clock: now, in UTC.
        insecure: no claim asks for trust, and every status says so.
    """

    def __init__(self, kube: Kube, clock: Callable[[], datetime], *, insecure: bool) -> None:
        self._kube = kube
        self._clock = clock
        self._insecure = insecure
        self._claims: dict[Key, HeldClaim] = {}

    def __iter__(self) -> Iterator[HeldClaim]:
        return iter(self._claims.values())

    def get(self, key: Key) -> HeldClaim | None:
        """The newest version that was seen."""
        return self._claims.get(key)

    def forget(self, key: Key) -> None:
        """It is gone."""
        self._claims.pop(key, None)

    def take(self, key: Key, obj: Object) -> HeldClaim | None:
        """Read a version, and keep it unless a newer one is there; None if it cannot be read."""
        try:
            after = HeldClaim.of(obj)
        except InvalidField as error:
            REFUSED_OBJECTS.labels("SensorClaim").inc()
            log.error("claim not readable", claim="/".join(key), error=str(error))
            return None
        before = self._claims.get(key)
        if before is not None and before.meta.uid == after.meta.uid:
            after.memory = before.memory
            if after.version < before.version:
                return after
            if after.meta.generation != before.meta.generation:
                after.memory.forget_answers()
        self._claims[key] = after
        return after

    async def refresh(self, key: Key) -> None:
        """Read it anew."""
        try:
            self.take(key, await self._kube.request("GET", _path(key)))
        except NotFound:
            self.forget(key)

    async def set_finalizers(self, held: HeldClaim, finalizers: list[str]) -> HeldClaim:
        """Replace the finalizers.

        Raises:
            Conflict: the claim is not what it was.
            NotFound: it is gone.
        """
        return await self._patch(held, {"finalizers": finalizers}, {})

    async def write(
        self,
        held: HeldClaim,
        bindings: tuple[Binding, ...],
        *,
        verdicts: tuple[Verdict, ...] | None = None,
        bound: int | None = None,
    ) -> HeldClaim:
        """Write the status, if it differs.

        Args:
            held: the version that was looked at.
            bindings: all of them.
            verdicts: the conditions; those of before, where a look is not over yet.
            bound: how many flavors are bound; as before, where a look is not over yet.

        Returns:
            The version that came of it.

        Raises:
            Conflict: the claim is not what it was.
            NotFound: it is gone.
        """
        before, generation = held.status, held.meta.generation
        conditions, observed = before.conditions, before.observed_generation
        if verdicts is not None:
            all_of_them = (*verdicts, *((INSECURE,) if self._insecure else ()))
            conditions = stamp(all_of_them, before=before.conditions, generation=generation, now=self._clock())
            observed = generation
        status = SensorClaimStatus(
            observed_generation=observed,
            conditions=conditions,
            bound_count=before.bound_count if bound is None else bound,
            providers=summary(sorted(binding.provider for binding in bindings)),
            bindings=tuple(sorted(bindings, key=lambda binding: binding.flavor)),
        )
        if status == before:
            return held
        return await self._patch(held, {}, {"status": status.dump()}, subresource="status")

    async def _patch(self, held: HeldClaim, meta: Object, body: Object, *, subresource: str | None = None) -> HeldClaim:
        answer = await self._kube.request(
            "PATCH",
            _path(held.key, subresource=subresource),
            query={"fieldManager": STATUS_MANAGER},
            body={"metadata": {**meta, "resourceVersion": held.meta.resource_version}, **body},
            content_type=MERGE_PATCH,
        )
        return self.take(held.key, answer) or held


def _path(key: Key, *, subresource: str | None = None) -> str:
    return Kind.of(SensorClaim.crd).path(namespace=key[0], name=key[1], subresource=subresource)
