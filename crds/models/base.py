"""What all kinds have in common: metadata, conditions, strictness, and how a model says its CRD.

Models are strict and frozen. Objects from the API server are parsed as JSON, not as Python values, so that strictness
means what it means to the API server: no number where a string belongs, but a list where we hold a tuple.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from crds.errors import InvalidField

Name = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""A DNS-1123 subdomain, as object names are."""

Label = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS-1123 label, as namespaces and list-map keys are."""

Text = Annotated[str, Field(max_length=1024)]
Word = Annotated[str, Field(min_length=1, max_length=128)]
Timestamp = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
"""RFC 3339, always UTC with a trailing Z when we write it."""

MAX_COUNT = 2**53 - 1
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Model(BaseModel):
    """A frozen value with camelCase keys on the wire; unknown keys are ignored, as the API server prunes them."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        strict=True,
        ser_json_inf_nan="null",
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules of this level of the schema; a pydantic validator of the model says the same."""

    required: ClassVar[tuple[str, ...] | None] = None
    """The keys that the CRD of somebody else requires, where we are stricter or more lenient."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        """The JSON schema with what a CRD says beside it."""
        reference = handler(schema)
        own = handler.resolve_ref_schema(reference)
        if cls.rules:
            own["x-kubernetes-validations"] = [{"rule": rule.rule, "message": rule.message} for rule in cls.rules]
        if cls.required is not None:
            own["required"] = list(cls.required)
        return reference

    def dump(self) -> dict[str, Any]:
        """The JSON form, without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True, slots=True)
class Rule:
    """One `x-kubernetes-validations` entry."""

    rule: str
    message: str


@dataclass(frozen=True, slots=True)
class Column:
    """One `additionalPrinterColumns` entry; priority 1 shows with `-o wide` only."""

    name: str
    path: str
    type: Literal["string", "integer", "date", "boolean", "number"] = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crd:
    """What a CRD says beside its schema."""

    group: str
    version: str
    kind: str
    plural: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    selectable: tuple[str, ...] = ()
    status_subresource: bool = True
    """Absent in KubeEdge's device kinds: their status is written with the object."""

    @property
    def api_version(self) -> str:
        """`group/version`; the core group has no name."""
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True, slots=True)
class Distinct:
    """Marks a list whose elements differ: in `key` (`x-kubernetes-list-type: map`), or as a whole (`set`)."""

    key: str | None = None

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate as the API server does."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say it in the CRD."""
        if self.key is None:
            return {**handler(schema), "x-kubernetes-list-type": "set"}
        return {**handler(schema), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}

    def _check(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        keys = [getattr(item, self.key) if self.key else item for item in items]
        if len(set(keys)) != len(keys):
            msg = f"elements that differ in {self.key}" if self.key else "elements that differ"
            raise ValueError(msg)
        return items


class OwnerReference(Model):
    """Same-namespace owner, for the API server's garbage collector."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    """The part of Kubernetes' ObjectMeta that is used here."""

    name: str
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(Model):
    """metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    message: Annotated[str, Field(max_length=32768)]
    observed_generation: Count | None = None
    last_transition_time: Timestamp


ATOMIC = {"x-kubernetes-list-type": "atomic"}
"""Of a list that one writer owns as a whole: the API server keeps one managed field for it, not one for every leaf."""

Conditions = Annotated[tuple[Condition, ...], Field(max_length=16), Distinct("type")]


class Resource(Model):
    """One kind. Subclasses set `crd` and declare `spec` (and `status`)."""

    crd: ClassVar[Crd]

    metadata: ObjectMeta

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> Self:
        """Read an object as the API server gives it.

        Raises:
            InvalidField: names the first field that is wrong, its value and what was expected.
        """
        return validate(cls, obj)

    def manifest(self) -> dict[str, Any]:
        """The object as it is sent: apiVersion and kind, metadata without what the server sets, spec, no status."""
        body = self.dump()
        meta = body["metadata"]
        for key in ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"):
            meta.pop(key, None)
        for key in ("labels", "annotations", "finalizers", "ownerReferences"):
            if not meta.get(key):
                meta.pop(key, None)
        body.pop("status", None)
        return {"apiVersion": self.crd.api_version, "kind": self.crd.kind, **body}

    def owner_reference(self) -> OwnerReference:
        """The reference that a dependent in the same namespace carries."""
        if self.metadata.uid is None:
            raise InvalidField(field="metadata.uid", value=None, expected="an object that the API server has stored")
        return OwnerReference(
            api_version=self.crd.api_version,
            kind=self.crd.kind,
            name=self.metadata.name,
            uid=self.metadata.uid,
            controller=True,
            block_owner_deletion=False,
        )


M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], obj: object, *, field: str = "") -> M:
    """Read a JSON value, by the names of the wire alone.

    Args:
        model: what it has to be.
        obj: as a JSON parser gives it.
        field: where it stands, put before the path in errors.

    Raises:
        InvalidField: names the first field that is wrong, its value and what was expected.
    """
    try:
        return model.model_validate_json(orjson.dumps(obj), by_alias=True, by_name=False)
    except ValidationError as error:
        raise invalid_field(error, field=field) from error
    except orjson.JSONEncodeError as error:
        raise InvalidField(field=field or "(root)", value=obj, expected=f"a JSON value ({error})") from error


def invalid_field(error: ValidationError, *, field: str = "") -> InvalidField:
    """The first complaint of pydantic as field, value, expected."""
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    where = (field + path).removeprefix(".") or "(root)"
    if first["type"] == "missing":
        return InvalidField(field=where, value=None, expected="a value, it is required")
    if first["type"] == "extra_forbidden":
        return InvalidField(field=where, value=first["input"], expected="a key that is known")
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    # Rules say "must ...", as the API server's messages do.
    for theirs, ours in (
        ("String should have", "a string of"),
        ("String should match", "a string of"),
        ("must", "it to"),
    ):
        if expected.startswith(theirs):
            expected = ours + expected.removeprefix(theirs)
    return InvalidField(field=where, value=first["input"], expected=expected)
