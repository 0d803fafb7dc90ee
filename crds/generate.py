"""Models to CRDs: `python -m crds.generate` writes crds/manifests/, `--check` says whether they still fit.

A CRD's schema is a subset of OpenAPI 3.0 ("structural"), pydantic writes JSON Schema 2020-12: no references, no unions,
no nulls are left. What cannot be said in a structural schema is an error here, not a looser schema there.
Source: kubernetes.io, "Extend the Kubernetes API with CustomResourceDefinitions".
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from crds.models import akri, kubeedge, kubeedge_rules, kubeedge_v1alpha2
from crds.models.base import Column, Crd, Resource
from crds.models.dataroute import DataRoute
from crds.models.firmware import Firmware
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.flashjob import FlashJob
from crds.models.fluidos import Contract, Flavor, KnownCluster, Transaction
from crds.models.leafdevice import LeafDevice
from crds.models.sensorclaim import SensorClaim

MANIFESTS = Path(__file__).parent / "manifests"
OUR_GROUP = "edge.fluidos.eu"
HEADER = "# Generated from crds/models by `python -m crds.generate`: change the model, not this file.\n"

Schema = dict[str, Any]
Versions = tuple[type[Resource], ...]
"""The served versions of one kind; the last one is stored."""

KINDS: Mapping[str, tuple[Versions, ...]] = {
    "ours": ((LeafDevice,), (SensorClaim,), (DataRoute,), (Firmware,), (FirmwareRollout,)),
    "fluidos": ((Flavor,), (Contract,), (Transaction,), (KnownCluster,)),
    # KubeEdge 1.16 and later serve v1alpha2 too, unconverted; up to 1.14 there was nothing else. Two installations.
    "kubeedge-v1beta1": (
        (kubeedge_v1alpha2.Device, kubeedge.Device),
        (kubeedge_v1alpha2.DeviceModel, kubeedge.DeviceModel),
        (kubeedge.DeviceStatus,),
    ),
    "kubeedge-v1alpha2": ((kubeedge_v1alpha2.Device,), (kubeedge_v1alpha2.DeviceModel,)),
    "nubificus": ((FlashJob,),),
    # Instead of Akri's own CRDs: the same, and `spec.firmwareJobSpec` is kept.
    "akri": ((akri.Configuration,), (akri.Instance,)),
    "kubeedge-rules": ((kubeedge_rules.Rule,), (kubeedge_rules.RuleEndpoint,)),
}

_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "nullable",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
)
_UNDERSTOOD = {*_KEPT, "title", "required", "properties", "items", "additionalProperties", "const", "$defs"}


class UnsupportedSchemaError(Exception):
    """A model that no structural schema can describe; the message says where."""


def manifest(versions: Versions) -> Schema:
    """The CustomResourceDefinition of one kind."""
    stored = versions[-1]
    crd = stored.crd
    names: Schema = {
        "kind": crd.kind,
        "listKind": f"{crd.kind}List",
        "plural": crd.plural,
        "singular": crd.kind.lower(),
    }
    if crd.short_names:
        names["shortNames"] = list(crd.short_names)
    if crd.categories:
        names["categories"] = list(crd.categories)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{crd.plural}.{crd.group}"},
        "spec": {
            "group": crd.group,
            "names": names,
            "scope": "Namespaced",
            "versions": [_version(model, storage=model is stored) for model in versions],
        },
    }


def texts() -> Iterator[tuple[Path, str]]:
    """Every file of crds/manifests and what it has to hold."""
    for folder, kinds in KINDS.items():
        for versions in kinds:
            crd = versions[-1].crd
            text = yaml.dump(manifest(versions), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
            yield MANIFESTS / folder / f"{crd.plural}.{crd.group}.yaml", HEADER + text


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or with `--check` compare them."""
    parser = argparse.ArgumentParser(prog="python -m crds.generate", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    check = parser.parse_args(arguments).check
    wanted = dict(texts())
    stale = set(MANIFESTS.glob("*/*.yaml")) - wanted.keys()
    different = {path for path, text in wanted.items() if not path.exists() or path.read_text() != text}
    for path in sorted(stale | different):
        sys.stdout.write(f"{path.relative_to(MANIFESTS)}\n")
        if check:
            continue
        if path in stale:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
    return 1 if check and stale | different else 0


def _version(model: type[Resource], *, storage: bool) -> Schema:
    crd = model.crd
    version: Schema = {
        "name": crd.version,
        "served": True,
        "storage": storage,
        "schema": {"openAPIV3Schema": _root(model)},
    }
    if crd.status_subresource:
        version["subresources"] = {"status": {}}
    if crd.columns:
        version["additionalPrinterColumns"] = [_column(column) for column in crd.columns]
    if crd.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in crd.selectable]
    return version


def _column(column: Column) -> Schema:
    row: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        row["description"] = column.description
    if column.priority:
        row["priority"] = column.priority
    return row


def _root(model: type[Resource]) -> Schema:
    raw = model.model_json_schema(by_alias=True)
    raw["properties"]["metadata"] = {"type": "object"}
    root = _Structural(raw.get("$defs", {}), ours=_is_ours(model.crd)).schema(raw, where=model.crd.kind)
    properties = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, **root["properties"]}
    schema = {**root, "description": _first_line(model), "properties": properties}
    # Nobody else's CRD requires a spec, though no object without one is of use.
    if _is_ours(model.crd):
        schema["required"] = ["spec"]
    else:
        schema.pop("required", None)
    return schema


class _Structural:
    """Rewrites one model's JSON Schema."""

    def __init__(self, definitions: Mapping[str, Schema], *, ours: bool) -> None:
        self._definitions = definitions
        self._ours = ours

    def schema(self, raw: Schema, *, where: str) -> Schema:
        raw = self._resolved(raw, where=where)
        unknown = raw.keys() - _UNDERSTOOD
        if unknown:
            raise UnsupportedSchemaError(f"{where}: {', '.join(sorted(unknown))} has no place in a structural schema")
        if "const" in raw:
            raw = {**raw, "enum": [raw["const"]]}
        schema = {key: raw[key] for key in _KEPT if key in raw}
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"]).partition("\n\n")[0].replace("\n", " ")
        if schema.get("type") == "integer":
            schema.setdefault("format", "int64")
        # Defaults are ours to give where the kind is ours; None is no default but absence.
        default = _without_nulls(schema.pop("default", None))
        if self._ours and default is not None:
            schema["default"] = default
        if raw.get("properties"):
            schema["properties"] = {
                name: self.schema(field, where=f"{where}.{name}") for name, field in raw["properties"].items()
            }
        if raw.get("required"):
            schema["required"] = sorted(raw["required"])
        if "items" in raw:
            schema["items"] = self.schema(raw["items"], where=f"{where}[]")
        if isinstance(raw.get("additionalProperties"), dict):
            schema["additionalProperties"] = self.schema(raw["additionalProperties"], where=f"{where}{{}}")
        return schema

    def _resolved(self, raw: Schema, *, where: str) -> Schema:
        """Without references and without unions; what stands beside them wins."""
        raw = dict(raw)
        if reference := raw.pop("$ref", None):
            definition = self._definitions[reference.removeprefix("#/$defs/")]
            return self._resolved({**definition, **raw}, where=where)
        if (branches := raw.pop("anyOf", None)) is None:
            return raw
        if raw.get("x-kubernetes-int-or-string"):
            return raw
        present = [branch for branch in branches if branch.get("type") != "null"]
        if len(present) != 1:
            raise UnsupportedSchemaError(
                f"{where}: a union of {len(present)} types has no place in a structural schema"
            )
        return self._resolved({**present[0], **raw}, where=where)


class _Dumper(yaml.SafeDumper):
    """Every list and mapping where it stands: anchors are hard to review."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _first_line(model: type[Resource]) -> str:
    return (inspect.getdoc(model) or model.crd.kind).partition("\n")[0]


def _is_ours(crd: Crd) -> bool:
    return crd.group == OUR_GROUP


if __name__ == "__main__":
    sys.exit(main())
