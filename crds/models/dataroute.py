"""DataRoute: source flavors to targets, on the provider. Made of a Contract, or by hand with kubectl."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from crds.models.base import (
    Column,
    Conditions,
    Count,
    Crd,
    Distinct,
    Label,
    Model,
    Name,
    Resource,
    Rule,
)
from crds.models.delivery import Endpoints, PayloadFilter
from crds.models.leafdevice import Topic
from crds.models.measured import Measured
from crds.models.retention import Retention
from crds.models.shaping import JsonPointer
from crds.models.trust import TrustDomainText

Selector = Annotated[str, Field(min_length=1, max_length=4096)]
"""CEL over `device`, in DRA's vocabulary."""

Engine = Literal["Relay", "KubeEdge"]
Delivery = Literal["AtLeastOnce", "BestEffort"]

_KUBEEDGE_PROMISES_NOTHING = "must have the delivery BestEffort where engine is KubeEdge"
_COUNTED_BEHIND_KUBEEDGE = "must have the engine KubeEdge where sequence is set"


class RouteSource(Model):
    """Flavors of the same namespace, by name or by what they are."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.flavors) != has(self.selector)", "must set exactly one of flavors and selector"),
    )

    flavors: (
        Annotated[
            tuple[Name, ...],
            Field(min_length=1, max_length=256),
            Distinct(),
        ]
        | None
    ) = None
    selector: Selector | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.flavors is None) == (self.selector is None):
            msg = "must set exactly one of flavors and selector"
            raise ValueError(msg)
        return self


class DataRouteSpec(Model):
    """What a user, or a contract, asks for."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self.engine != 'KubeEdge' || self.delivery == 'BestEffort'", _KUBEEDGE_PROMISES_NOTHING),
        Rule("!has(self.sequence) || self.engine == 'KubeEdge'", _COUNTED_BEHIND_KUBEEDGE),
    )

    source: RouteSource
    targets: Endpoints
    trust_domain: TrustDomainText | None = None
    """Whose endpoints the targets are, unless they say who they are; this cluster's own when absent."""
    filter: PayloadFilter | None = None
    engine: Engine = "Relay"
    """Who carries readings from the broker of the sensor's node to the relay: itself, or KubeEdge's router."""
    delivery: Delivery = "AtLeastOnce"
    sequence: JsonPointer | None = None
    """Where readings have a number that grows by one with each: what is missing is counted (KubeEdge only)."""
    retention: Retention | None = None
    """How long readings wait for a target; for ever when absent."""
    suspend: bool = False

    @model_validator(mode="after")
    def _kept(self) -> Self:
        if self.engine == "KubeEdge" and self.delivery != "BestEffort":
            raise ValueError(_KUBEEDGE_PROMISES_NOTHING)
        if self.engine != "KubeEdge" and self.sequence is not None:
            raise ValueError(_COUNTED_BEHIND_KUBEEDGE)
        return self


class ResolvedSource(Model):
    """A flavor that this route reads, with all that the relay needs to know of it."""

    flavor: Name
    device: Name
    sensor: Annotated[str, Field(max_length=128)]
    model: Annotated[str, Field(max_length=128)] = ""
    unit: Annotated[str, Field(max_length=128)] = ""
    provider: Annotated[str, Field(max_length=253)] = ""
    node: Name
    topic: Topic
    timestamp_pointer: JsonPointer | None = None
    """Where its readings say when they were taken."""


class RelayReport(Measured):
    """What one relay has done for this route; written at a bounded rate."""

    node: Name
    filtered: Count = 0
    retried: Count = 0
    dead: Count = 0
    expired: Count = 0
    backlog_bytes: Count = 0
    """Of the spool that this route holds back."""
    message: Annotated[str, Field(max_length=1024)] = ""
    insecure: bool | None = None
    """It runs with --insecure: nobody proves who he is."""
    missing: Count | None = None
    """Readings that did not come, by their numbers (`spec.sequence`)."""
    silent: Annotated[tuple[Name, ...], Field(max_length=1024), Distinct()] = ()
    """Flavors of which nothing came for half a minute (KubeEdge only)."""


class DataRouteStatus(Measured):
    """Observed by router_manager (conditions, sources) and by the relays (reports).

    What is measured is of all relays together: counts are summed, times are those of the slowest one.
    """

    observed_generation: Count | None = None
    conditions: Conditions = ()
    source_models: Annotated[str, Field(max_length=1024)] = ""
    """For people: a printer column shows of a list its first element alone."""
    target_names: Annotated[str, Field(max_length=1024)] = ""
    sources: Annotated[
        tuple[ResolvedSource, ...],
        Field(max_length=1024),
        Distinct("flavor"),
    ] = ()
    relays: Annotated[
        tuple[RelayReport, ...],
        Field(max_length=64),
        Distinct("node"),
    ] = ()


class DataRoute(Resource):
    """Readings of some sensors on their way to some targets (`kubectl get drt`)."""

    crd: ClassVar[Crd] = Crd(
        group="edge.fluidos.eu",
        version="v1alpha1",
        kind="DataRoute",
        plural="dataroutes",
        short_names=("drt",),
        categories=("fluidos",),
        columns=(
            Column("Sources", ".status.sourceModels"),
            Column("Targets", ".status.targetNames"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Delivered", ".status.delivered", "integer"),
            Column("P99 micros", ".status.p99Microseconds", "integer"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
        ),
    )

    spec: DataRouteSpec
    status: DataRouteStatus | None = None


__all__ = [
    "DataRoute",
    "DataRouteSpec",
    "DataRouteStatus",
    "Label",
    "RelayReport",
    "ResolvedSource",
    "RouteSource",
]
