"""SensorClaim: what a user on the consumer cluster needs, and what was bound for it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from crds.models.base import Column, Conditions, Count, Crd, Distinct, Model, Name, Resource, Rule, Timestamp, Word
from crds.models.dataroute import Delivery, Selector
from crds.models.delivery import Endpoints, PayloadFilter
from crds.models.measured import Measured
from crds.models.repurposing import Repurpose
from crds.models.retention import Retention
from crds.models.trust import Integrity, SpiffeIdText, Tier

Limit = Annotated[int, Field(ge=0, le=2**53 - 1)]
LatencyBasis = Literal["Declared", "Observed"]
OnBreach = Literal["Mark", "Rebind"]
MAX_BINDINGS = 256
COUNTS = f"1 to {MAX_BINDINGS} or 'All'"
_SIGNED_AS_IT_IS = "must not shape readings for an endpoint where integrity is Signed"


class Bound(Model):
    """Limits on one integer. `lessThan: 16000` refuses 16000, `atMost: 16000` takes it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.lessThan) || has(self.atMost) || has(self.greaterThan) || has(self.atLeast)",
            "must set lessThan, atMost, greaterThan or atLeast",
        ),
        Rule("!(has(self.lessThan) && has(self.atMost))", "must not set both lessThan and atMost"),
        Rule("!(has(self.greaterThan) && has(self.atLeast))", "must not set both greaterThan and atLeast"),
        Rule(
            "!(has(self.lessThan) || has(self.atMost)) || !(has(self.greaterThan) || has(self.atLeast)) || "
            "(has(self.atLeast) ? self.atLeast : self.greaterThan + 1) <= "
            "(has(self.atMost) ? self.atMost : self.lessThan - 1)",
            "must leave a value that satisfies both limits",
        ),
        Rule("!has(self.lessThan) || self.lessThan > 0", "must have a lessThan greater than 0"),
    )

    less_than: Limit | None = None
    at_most: Limit | None = None
    greater_than: Limit | None = None
    at_least: Limit | None = None

    @model_validator(mode="after")
    def _satisfiable(self) -> Self:
        upper, lower = self.upper, self.lower
        if upper is None and lower is None:
            msg = "must set lessThan, atMost, greaterThan or atLeast"
        elif self.less_than is not None and self.at_most is not None:
            msg = "must not set both lessThan and atMost"
        elif self.greater_than is not None and self.at_least is not None:
            msg = "must not set both greaterThan and atLeast"
        elif upper is not None and upper < (lower or 0):
            msg = "must leave a value that satisfies both limits"
        else:
            return self
        raise ValueError(msg)

    @property
    def upper(self) -> int | None:
        """The largest integer that satisfies, or None."""
        return self.at_most if self.less_than is None else self.less_than - 1

    @property
    def lower(self) -> int | None:
        """The smallest integer that satisfies, or None."""
        return self.at_least if self.greater_than is None else self.greater_than + 1


class Limits(Model):
    """Numbers with the unit in the name."""

    latency_microseconds: Bound | None = None
    sampling_rate_millihertz: Bound | None = None
    consumption_microwatts: Bound | None = None
    accuracy_microunits: Bound | None = None
    """Millionths of the SI base unit of `sensor.type`: 0.5 degC is 500000. Needs `sensor.type`."""


class SensorNeed(Model):
    """What the sensor is. All that is set must match; case does not count."""

    type: Word | None = None
    category: Word | None = None
    model: Word | None = None
    manufacturer: Word | None = None
    market: Word | None = None
    unit: Word | None = None
    board: Word | None = None
    mcu: Word | None = None
    mcu_family: Word | None = None


def _named(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """One complaint for the union, where pydantic has one for each of its members."""
    try:
        return validate(value)
    except ValidationError as error:
        raise ValueError(COUNTS) from error


class SensorClaimSpec(Model):
    """What is needed, how many, and where the readings shall go."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "type(self.count) == int ? self.count >= 1 && self.count <= 256 : self.count == 'All'",
            f"count must be {COUNTS}",
        ),
        Rule(
            "!has(self.limits) || !has(self.limits.accuracyMicrounits) || (has(self.sensor) && has(self.sensor.type))",
            "must set sensor.type where limits.accuracyMicrounits is set",
        ),
        Rule(
            "has(self.sensor) || has(self.limits) || has(self.selector)",
            "must set sensor, limits or selector",
        ),
        Rule("self.integrity != 'Signed' || self.endpoints.all(endpoint, !has(endpoint.shape))", _SIGNED_AS_IT_IS),
    )

    sensor: SensorNeed | None = None
    limits: Limits | None = None
    latency_basis: LatencyBasis = "Declared"
    """What the limit on latency is compared with: what the device declares, or what its provider has measured."""
    on_breach: OnBreach = "Mark"
    """What to do when what was measured exceeds the limit on latency: say so, or take another flavor that fits."""
    selector: Selector | None = None
    minimum_tier: Tier = "GatewayVouched"
    """How well a device must have proven what it is. A manager without identity (`--insecure`) does not ask."""
    integrity: Integrity = "None"
    """Signed: only sensors whose device signs their readings, for endpoints that verify them."""
    count: Annotated[
        Annotated[int, Field(ge=1, le=MAX_BINDINGS)] | Literal["All"],
        WrapValidator(_named),
        Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
    ] = 1
    endpoints: Endpoints
    filter: PayloadFilter | None = None
    delivery: Delivery = "AtLeastOnce"
    """BestEffort lets a provider use KubeEdge's router, which loses readings."""
    retention: Retention | None = None
    """How long readings wait for an endpoint that is down; a provider may let them wait less."""
    repurpose: Repurpose | None = None
    """Whether a provider may flash an idle device into what no device is."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sensor is None and self.limits is None and self.selector is None:
            msg = "must set sensor, limits or selector"
            raise ValueError(msg)
        if self.limits and self.limits.accuracy_microunits and not (self.sensor and self.sensor.type):
            msg = "must set sensor.type where limits.accuracyMicrounits is set"
            raise ValueError(msg)
        if self.integrity == "Signed" and any(endpoint.shape for endpoint in self.endpoints):
            raise ValueError(_SIGNED_AS_IT_IS)
        return self


class Repurposing(Model):
    """A device on its way to become what was bought."""

    expected_seconds: Count
    """As its provider expected."""
    until: Timestamp
    """When it is given up."""


class Binding(Model):
    """One flavor that was bought for this claim."""

    flavor: Name
    provider: Annotated[str, Field(max_length=253)]
    """Name of the KnownCluster that sold it."""
    provider_address: Annotated[str, Field(max_length=261)]
    contract: Annotated[str, Field(max_length=253)]
    transaction: Annotated[str, Field(max_length=253)]
    sensor_model: Annotated[str, Field(max_length=128)] = ""
    latency_microseconds: Count | None = None
    spiffe_id: Annotated[SpiffeIdText | None, Field(alias="spiffeID")] = None
    """Who the device is, as its provider says."""
    tier: Tier = "None"
    """How well it has proven that."""
    seller: Annotated[str, Field(max_length=2048, pattern=r"^(spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*)?$")] = ""
    """Who sold it, as its certificate said: nobody else is asked about the contract. Empty without identities."""
    configuration_digest: Annotated[str, Field(max_length=64)] = ""
    """Of the endpoints and filter that the provider holds; a difference is sent on."""
    expiration_time: Timestamp | None = None
    renewal_time: Timestamp | None = None
    """When to renew: half of the contract's lifetime."""
    repurposing: Repurposing | None = None
    """Set while the device is being made into it."""
    measured: Measured | None = None
    """What its provider has measured of the delivery."""
    measured_time: Timestamp | None = None
    """When that was heard."""
    breached_windows: Count = 0
    """How often in succession that was worse than the limit on latency; counted up to what makes a breach."""


class SensorClaimStatus(Model):
    """What was bound, and in the conditions what is waited for."""

    observed_generation: Count | None = None
    conditions: Conditions = ()
    bound_count: Count = 0
    providers: Annotated[str, Field(max_length=1024)] = ""
    """For people: a printer column shows of a list its first element alone."""
    bindings: Annotated[
        tuple[Binding, ...],
        Field(max_length=MAX_BINDINGS),
        Distinct("flavor"),
    ] = ()


class SensorClaim(Resource):
    """Sensors that are needed, and where their readings shall go (`kubectl get snc`)."""

    crd: ClassVar[Crd] = Crd(
        group="edge.fluidos.eu",
        version="v1alpha1",
        kind="SensorClaim",
        plural="sensorclaims",
        short_names=("snc",),
        categories=("fluidos",),
        columns=(
            Column("Needs", ".spec.sensor.type"),
            Column("Count", ".spec.count"),
            Column("Bound", ".status.boundCount", "integer"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Promise", '.status.conditions[?(@.type=="PromiseKept")].status'),
            Column("Providers", ".status.providers"),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
        ),
    )

    spec: SensorClaimSpec
    status: SensorClaimStatus | None = None
