"""Firmware: one OCI reference of the catalog, and what the index behind it holds.

What an index says is believed only where its signature was verified; `status` is what the flash controller found.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from crds.boards import normalized
from crds.models.appraisal import Measurement
from crds.models.base import ATOMIC, Column, Conditions, Count, Crd, Model, Name, Resource, Rule, Timestamp
from crds.models.leafdevice import MAX_SENSORS, SensorTraits

Repository = Annotated[
    str,
    Field(
        max_length=512,
        pattern=r"^(([a-z0-9-]+\.)+[a-z0-9-]+(:[0-9]{1,5})?|[a-z0-9-]+:[0-9]{1,5}|localhost|\[[0-9a-f:]+\](:[0-9]{1,5})?)"
        r"(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+$",
    ),
]
"""`registry[:port]/path`, as the distribution specification has it; the registry is never left out."""

Digest = Annotated[str, Field(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
Tag = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
VersionRange = Annotated[str, Field(max_length=128, pattern=r"^[0-9A-Za-z.+*,|<>=!~^ -]+$")]
"""A range of semantic versions: `>=1.2 <2`, `~1.4`, `^2`. The newest tag within it is taken."""

Version = Annotated[str, Field(max_length=128)]
BoardName = Annotated[str, Field(min_length=1, max_length=128)]

ImageFormat = Literal["MCUboot", "ESPIDF", "Binary"]
"""Whose header an image has; Binary has none that is known here."""

ReadingTopic = Annotated[
    str,
    Field(
        max_length=512,
        pattern=r"^([A-Za-z0-9_/]|\{(device|sensor)\})([A-Za-z0-9_./:,=@~$%-]|\{(device|sensor)\})*$",
    ),
]
"""An MQTT topic and what differs in it: `sensor/{device}/{sensor}`. No wildcards, and no `$` in front."""

MAX_BOARDS: Final = 64
MAX_HISTORY: Final = 16

_REFERENCE = "must set digest, semver or tag"
_NOTHING_TO_FOLLOW = "must not set follow where digest is set: a digest never means anything else"


class Reference(Model):
    """An object of the same namespace."""

    name: Name


class Follow(Model):
    """To look again whether the reference means another digest."""

    interval_seconds: Annotated[int, Field(ge=10, le=7 * 86400)] = 300


class FirmwareSpec(Model):
    """Where the firmware is. Of several references the most exact one counts: digest, then semver, then tag."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.digest) || has(self.semver) || has(self.tag)", _REFERENCE),
        Rule("!(has(self.follow) && has(self.digest))", _NOTHING_TO_FOLLOW),
    )

    repository: Repository
    """`registry/path`, without a tag."""
    digest: Digest | None = None
    """Of the index."""
    semver: VersionRange | None = None
    """The newest version in this range, of those that the repository has as tags: `>=1.4 <2`, `1.x`."""
    tag: Tag | None = None
    """Whatever it means when it is looked at."""
    follow: Follow | None = None
    """When absent, the reference is resolved once for each change of this spec."""
    pull_secret_ref: Reference | None = None
    """A Secret of type `kubernetes.io/dockerconfigjson`."""
    certificate_ref: Reference | None = None
    """A ConfigMap whose key `ca.crt` holds the certificates that the registry's is issued by."""
    plain_http: Annotated[bool, Field(alias="plainHTTP")] = False
    """Without TLS; only for registries of which the operator's policy allows it."""
    history_limit: Annotated[int, Field(ge=0, le=MAX_HISTORY)] = 4
    """How many earlier digests stay known."""
    suspend: bool = False
    """Look at nothing anew; what was found stays."""

    @model_validator(mode="after")
    def _references(self) -> Self:
        if self.digest is None and self.semver is None and self.tag is None:
            raise ValueError(_REFERENCE)
        if self.follow is not None and self.digest is not None:
            raise ValueError(_NOTHING_TO_FOLLOW)
        return self


class BoardImage(Model):
    """The one part of the index that a board gets."""

    board: BoardName
    """`platform.architecture` of the index."""
    manifest_digest: Digest
    digest: Digest
    """Of the blob that is pulled."""
    size_bytes: Count
    """Of the blob."""
    media_type: Annotated[str, Field(max_length=255)] = ""
    """Of the blob."""
    format: ImageFormat | None = None
    """Absent where the index does not say it."""
    measurement: Measurement | None = None
    """What the board's boot layer makes of the image. Without it nobody can be asked whether the image runs."""
    version: Version = ""
    security_counter: Count | None = None


class FirmwareSensor(SensorTraits):
    """A sensor that a device has while it runs this firmware."""

    topic: ReadingTopic


class Contents(Model):
    """What one index holds."""

    signed_by: Annotated[str, Field(max_length=128)] = ""
    """The key of the operator's policy that verified the index; empty where none did."""
    application: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """Empty where the index does not say it."""
    version: Version = ""
    security_counter: Count | None = None
    boards: Annotated[tuple[BoardImage, ...], Field(max_length=MAX_BOARDS, json_schema_extra=ATOMIC)] = ()
    sensors: Annotated[tuple[FirmwareSensor, ...], Field(max_length=MAX_SENSORS, json_schema_extra=ATOMIC)] = ()


class Release(Contents):
    """An index, and what it holds."""

    digest: Digest

    def image_for(self, board: str) -> BoardImage | None:
        """The part of the index that a board gets."""
        wanted = normalized(board)
        return next((each for each in self.boards if wanted and normalized(each.board) == wanted), None)


class FirmwareStatus(Contents):
    """What the reference means now, and what it meant before."""

    observed_generation: Count | None = None
    conditions: Conditions = ()
    resolved_tag: Annotated[str, Field(max_length=128)] = ""
    """The tag that was taken; empty where the spec names a digest."""
    board_names: Annotated[str, Field(max_length=1024)] = ""
    """For people: a printer column shows of a list its first element alone."""
    digest: Digest | None = None
    """Of the index that the reference means."""
    history: Annotated[tuple[Release, ...], Field(max_length=MAX_HISTORY, json_schema_extra=ATOMIC)] = ()
    """What was ready and current before, newest first. Devices that still run what was verified keep their trust."""
    observed_time: Timestamp | None = None
    """When the digest was found."""

    def release(self, digest: str) -> Release | None:
        """The current or an earlier release of this digest."""
        return next((each for each in self.releases if each.digest == digest), None)

    @property
    def releases(self) -> tuple[Release, ...]:
        """The current one, then the earlier ones."""
        return self.history if self.current is None else (self.current, *self.history)

    @property
    def current(self) -> Release | None:
        """What the reference means now, where that is known."""
        if self.digest is None:
            return None
        return Release(digest=self.digest, **{field: getattr(self, field) for field in Contents.model_fields})


class Firmware(Resource):
    """Firmware of the catalog (`kubectl get fw`)."""

    crd: ClassVar[Crd] = Crd(
        group="edge.fluidos.eu",
        version="v1alpha1",
        kind="Firmware",
        plural="firmwares",
        short_names=("fw",),
        categories=("fluidos",),
        columns=(
            Column("Application", ".status.application"),
            Column("Version", ".status.version"),
            Column("Boards", ".status.boardNames"),
            Column("Verified", '.status.conditions[?(@.type=="Verified")].status'),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Age", ".metadata.creationTimestamp", "date"),
            Column("Repository", ".spec.repository", priority=1),
            Column("Digest", ".status.digest", priority=1),
            Column("Signed by", ".status.signedBy", priority=1),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
        ),
    )

    spec: FirmwareSpec
    status: FirmwareStatus | None = None
