"""A claim as it was last seen, and what is remembered about it from one look to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from crds.errors import InvalidField
from crds.kube.client import Object
from crds.models.base import ObjectMeta, validate
from crds.models.sensorclaim import Binding, SensorClaimSpec, SensorClaimStatus
from edge_resource_manager.domain.matching import Candidate, Fails
from edge_resource_manager.reasons import ClaimCondition

FINALIZER = "edge.fluidos.eu/contracts"


@dataclass(slots=True)
class HeldClaim:
    """A claim as last seen, and what is remembered about it between looks."""

    meta: ObjectMeta
    spec: SensorClaimSpec | InvalidField
    status: SensorClaimStatus
    refused: dict[tuple[str, str], tuple[str, datetime]] = field(default_factory=dict)
    unrecorded: dict[str, Binding] = field(default_factory=dict)
    """Bought, but another writer was faster: another manager, perhaps, that had given this intent up."""
    near: tuple[tuple[Candidate, Fails], ...] = ()
    near_until: datetime | None = None

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
    def bindings(self) -> tuple[Binding, ...]:
        """What may have to be ended some day."""
        recorded = self.status.bindings
        known = {binding.flavor for binding in recorded}
        return *recorded, *(binding for flavor, binding in self.unrecorded.items() if flavor not in known)

    @property
    def version(self) -> int:
        """Of the object; comparable since Kubernetes 1.35, and with etcd ever since."""
        return int(self.meta.resource_version or 0)


def asks_otherwise(before: HeldClaim, after: HeldClaim) -> bool:
    """Whether a change is more than an echo of our own writes."""

    def asked(held: HeldClaim) -> tuple[object, ...]:
        meta = held.meta
        return meta.uid, meta.generation, meta.deletion_timestamp, FINALIZER in meta.finalizers

    return asked(before) != asked(after)


def wants_more(held: HeldClaim) -> bool:
    """Whether any flavor that appears may be one for this claim."""
    if isinstance(held.spec, InvalidField):
        return False
    ready = any(each.type == ClaimCondition.READY and each.status == "True" for each in held.status.conditions)
    return held.spec.count == "All" or not ready
