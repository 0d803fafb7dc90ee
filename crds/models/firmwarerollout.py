"""FirmwareRollout: one Firmware onto some devices, in batches that stop by themselves; kept as history."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from crds.models.base import (
    ATOMIC,
    Column,
    Conditions,
    Count,
    Crd,
    Distinct,
    Model,
    Name,
    Resource,
    Rule,
    Timestamp,
)
from crds.models.firmware import Digest, Reference
from crds.models.flash_report import Flash
from crds.models.trust import Hex

MAX_DEVICES: Final = 1024
Devices = Annotated[int, Field(ge=1, le=MAX_DEVICES)]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$")]
Desired = Literal["Run", "Suspend", "Cancel", "RollBack"]

_BY_NAME_OR_OTHERWISE = "must set names, or selector or count, and not names with one of these"
_COUNT_OR_PERCENT = "must set exactly one of count and percent"


class LabelSelector(Model):
    """LeafDevices that carry all of these labels."""

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=16)]


class DeviceSelection(Model):
    """LeafDevices of the same namespace: these, or those that a selector takes, or any; of the latter `count`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.names) != (has(self.selector) || has(self.count))", _BY_NAME_OR_OTHERWISE),
    )

    names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_DEVICES), Distinct()] | None = None
    """In the order in which they are flashed."""
    selector: LabelSelector | None = None
    count: Devices | None = None
    """All that the selector takes, when absent."""

    @model_validator(mode="after")
    def _by_name_or_otherwise(self) -> Self:
        if (self.names is not None) == (self.selector is not None or self.count is not None):
            raise ValueError(_BY_NAME_OR_OTHERWISE)
        return self


class Canary(Model):
    """The first batch: a number of devices, or a share of all, rounded up."""

    rules: ClassVar[tuple[Rule, ...]] = (Rule("has(self.count) != has(self.percent)", _COUNT_OR_PERCENT),)

    count: Devices | None = None
    percent: Annotated[int, Field(ge=1, le=100)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.count is None) == (self.percent is None):
            raise ValueError(_COUNT_OR_PERCENT)
        return self


class Strategy(Model):
    """In which steps, and when to stop."""

    canary: Canary | None = None
    batch_size: Devices = 50
    """How many devices are flashed at a time."""
    soak_seconds: Annotated[int, Field(ge=0, le=30 * 86400)] = 0
    """How long a batch must have run well before the next one starts."""
    max_failure_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """Of the devices in the batches so far; above it nothing else is touched until this is raised."""
    approval: Literal["None", "AfterCanary", "EachBatch"] = "None"
    """What `approvedBatches` is waited for."""


class Window(Model):
    """When devices may be flashed: every day at `start` on the clocks of `timezone`, for so long."""

    start: Annotated[str, Field(max_length=5, pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    """`22:30`."""
    duration_seconds: Annotated[int, Field(ge=60, le=86400)]
    timezone: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$")] = "UTC"
    """A name of the time zone database, `Europe/Berlin`."""
    days: Annotated[
        tuple[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ...],
        Field(min_length=1, max_length=7),
        Distinct(),
    ] = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    """On which it starts."""


class FirmwareRolloutSpec(Model):
    """What shall run where, and how carefully."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self.firmwareRef == oldSelf.firmwareRef", "must keep firmwareRef: another firmware is another rollout"),
        Rule("self.devices == oldSelf.devices", "must keep devices: other devices are another rollout"),
    )

    firmware_ref: Reference
    """The digest that this Firmware has at the start is the rollout's to the end."""
    devices: DeviceSelection
    policy: Literal["OnlyNewer", "Always"] = "OnlyNewer"
    """OnlyNewer passes over devices that run the same application in the same or a newer version."""
    strategy: Strategy = Strategy()
    approved_batches: Annotated[int, Field(ge=0, le=MAX_DEVICES)] = 0
    """How many batches, the canary among them, somebody has looked at and found good: the next one may begin."""
    deadline_seconds: Annotated[int, Field(ge=60, le=90 * 86400)] | None = None
    """From the rollout's start on; what has not begun by then fails."""
    device_timeout_seconds: Annotated[int, Field(ge=10, le=86400)] = 1800
    """Of one attempt."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Of one device, after the first attempt."""
    backoff_seconds: Annotated[int, Field(ge=1, le=3600)] = 10
    """Before the first retry; doubled for each further one."""
    window: Window | None = None
    desired: Desired = "Run"
    """Suspend starts nothing more, Cancel ends what waits too, RollBack brings back what each device ran before."""
    attestation: Literal["Required", "Optional"] = "Required"
    """Optional takes boards that can prove nothing, and says so in their status."""
    history_limit: Annotated[int, Field(ge=0, le=100)] = 10
    """How many finished rollouts of the same Firmware are kept; the oldest goes first."""


class DeviceFlash(Flash):
    """One device of a rollout."""

    name: Name
    measurement: Hex | None = None
    """What the device has to measure in the end."""
    attempts: Count = 0
    batch: Count = 0
    """0 is the canary, where there is one."""
    started_time: Timestamp | None = None
    finished_time: Timestamp | None = None


class Counts(Model):
    """How many devices are in which states."""

    total: Count = 0
    pending: Count = 0
    active: Count = 0
    """Between Downloading and Attesting."""
    confirmed: Count = 0
    rolled_back: Count = 0
    failed: Count = 0


class FirmwareRolloutStatus(Model):
    """What has come of it."""

    observed_generation: Count | None = None
    conditions: Conditions = ()
    digest: Digest | None = None
    """Of the index that is rolled out, whatever its tag means by now."""
    counts: Counts = Counts()
    batch: Count = 0
    """The one that is being flashed."""
    batches: Count = 0
    started_time: Timestamp | None = None
    finished_time: Timestamp | None = None
    devices: Annotated[
        tuple[DeviceFlash, ...],
        # Unique by name. The API server would keep a managed field for every leaf of a list map: of 1,024 devices,
        # more than what they say.
        Field(max_length=MAX_DEVICES, json_schema_extra=ATOMIC),
    ] = ()


class FirmwareRollout(Resource):
    """Firmware on its way to devices (`kubectl get fwr`)."""

    crd: ClassVar[Crd] = Crd(
        group="edge.fluidos.eu",
        version="v1alpha1",
        kind="FirmwareRollout",
        plural="firmwarerollouts",
        short_names=("fwr",),
        categories=("fluidos",),
        columns=(
            Column("Firmware", ".spec.firmwareRef.name"),
            Column("Devices", ".status.counts.total", "integer"),
            Column("Confirmed", ".status.counts.confirmed", "integer"),
            Column("Failed", ".status.counts.failed", "integer"),
            Column("Rolled back", ".status.counts.rolledBack", "integer"),
            Column("Progressing", '.status.conditions[?(@.type=="Progressing")].status'),
            Column("Succeeded", '.status.conditions[?(@.type=="Succeeded")].status'),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Reason", '.status.conditions[?(@.type=="Progressing")].reason', priority=1),
            Column("Digest", ".status.digest", priority=1),
        ),
    )

    spec: FirmwareRolloutSpec
    status: FirmwareRolloutStatus | None = None
