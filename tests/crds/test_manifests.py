"""crds/manifests is what the models say, and what a real API server takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from crds.generate import KINDS, UnsupportedSchemaError, Versions, main, manifest, texts
from crds.models.base import Crd, Model, Resource
from scripts.testbed.api import load
from scripts.testbed.cluster import Cluster

Schema = dict[str, Any]
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def crd_of(model: type[Model], *, group: str = "edge.fluidos.eu") -> type[Resource]:
    class Thing(Resource):
        crd = Crd(group=group, version="v1", kind="Thing", plural="things")
        spec: model  # type: ignore[valid-type] # the schema that a test asks for

    return Thing


def spec_schema(model: type[Model], *, group: str = "edge.fluidos.eu") -> Schema:
    definition = manifest((crd_of(model, group=group),))
    schema: Schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def nodes(schema: Schema, where: str) -> Iterator[tuple[str, Schema]]:
    yield where, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{where}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from nodes(schema[key], where + mark)


def ours() -> Iterator[tuple[str, Schema]]:
    for versions in KINDS["ours"]:
        for version in manifest(versions)["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            for part in ("spec", "status"):
                yield from nodes(schema["properties"][part], f"{versions[-1].crd.kind}.{part}")


def test_the_checked_in_manifests_are_what_the_models_say() -> None:
    for path, text in texts():
        assert path.read_text() == text, f"run `python -m crds.generate`: {path.name}"
    assert main(["--check"]) == 0


def test_check_names_a_changed_a_missing_and_a_left_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crds.generate.MANIFESTS", tmp_path)
    assert main([]) == 0
    assert main(["--check"]) == 0
    capsys.readouterr()
    changed, missing, left_over = (
        tmp_path / "ours" / f"{plural}.edge.fluidos.eu.yaml" for plural in ("leafdevices", "dataroutes", "gone")
    )
    changed.write_text(changed.read_text() + "# by hand\n")
    missing.unlink()
    left_over.write_text("")
    assert main(["--check"]) == 1
    assert capsys.readouterr().out.split() == [f"ours/{path.name}" for path in (missing, left_over, changed)]
    assert main([]) == 0
    assert main(["--check"]) == 0


def is_bounded(schema: Schema) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return True  # bounded by a rule: a structural schema has no unions
    needs = {
        "string": {"maxLength"},
        "array": {"maxItems"},
        "integer": {"minimum", "maximum"},
        "object": {"maxProperties"} if "additionalProperties" in schema else {"properties"},
    }
    return "enum" in schema or needs.get(schema["type"], set()) <= schema.keys()


def test_every_string_list_and_number_of_ours_has_bounds() -> None:
    assert [where for where, schema in ours() if not is_bounded(schema)] == []


def test_optional_fields_are_absent_not_null_and_defaults_are_kept() -> None:
    class Spec(Model):
        some_text: str | None = None
        word: Literal["A", "B"] = "A"
        fixed: Literal["Only"] = "Only"

    assert spec_schema(Spec) == {
        "type": "object",
        "properties": {
            "someText": {"type": "string"},
            "word": {"type": "string", "enum": ["A", "B"], "default": "A"},
            "fixed": {"type": "string", "enum": ["Only"], "default": "Only"},
        },
    }


def test_defaults_of_ours_do_not_enter_the_kinds_of_others() -> None:
    class Spec(Model):
        word: str = "A"

    assert spec_schema(Spec, group="nodecore.fluidos.eu")["properties"]["word"] == {"type": "string"}


def test_a_union_is_refused_where_it_stands() -> None:
    class Spec(Model):
        either: int | str

    with pytest.raises(UnsupportedSchemaError, match=r"Thing\.spec\.either: a union of 2 types"):
        spec_schema(Spec)


def test_what_a_structural_schema_cannot_say_is_refused() -> None:
    class Spec(Model):
        multiple: Literal["a"] | None = None
        pair: tuple[int, str]

    with pytest.raises(UnsupportedSchemaError, match=r"Thing\.spec\.pair: prefixItems"):
        spec_schema(Spec)


def stored(cluster: Cluster, versions: Versions) -> dict[str, Any]:
    crd = versions[-1].crd
    answer: dict[str, Any] = cluster.api.request("GET", f"{CRDS}/{crd.plural}.{crd.group}")
    return answer


@pytest.mark.control_plane
@pytest.mark.parametrize("folder", ["ours", "fluidos", "kubeedge-v1beta1", "nubificus", "akri"])
def test_the_api_server_keeps_every_word_of_the_schemas(cluster: Cluster, folder: str) -> None:
    for versions in KINDS[folder]:
        wanted, kept = manifest(versions), stored(cluster, versions)
        conditions = {each["type"]: each["status"] for each in kept["status"]["conditions"]}
        assert conditions["Established"] == conditions["NamesAccepted"] == "True"
        assert "NonStructuralSchema" not in conditions
        for ours, theirs in zip(wanted["spec"]["versions"], kept["spec"]["versions"], strict=True):
            assert theirs["schema"] == ours["schema"]


@pytest.mark.control_plane
def test_kubeedge_devices_write_their_status_with_the_object(cluster: Cluster) -> None:
    resources = cluster.api.request("GET", "/apis/devices.kubeedge.io/v1beta1")["resources"]
    assert {each["name"] for each in resources} == {"devices", "devicemodels", "devicestatuses"}


@pytest.mark.control_plane
def test_kubectl_get_fluidos_finds_our_kinds_by_short_names(cluster: Cluster) -> None:
    resources = cluster.api.request("GET", "/apis/edge.fluidos.eu/v1alpha1")["resources"]
    found = {each["name"]: (each["shortNames"], each["categories"]) for each in resources if "/" not in each["name"]}
    assert found == {
        "leafdevices": (["leaf", "ld"], ["fluidos"]),
        "sensorclaims": (["snc"], ["fluidos"]),
        "dataroutes": (["drt"], ["fluidos"]),
        "firmwares": (["fw"], ["fluidos"]),
        "firmwarerollouts": (["fwr"], ["fluidos"]),
    }


def test_every_manifest_is_one_object_named_as_its_file() -> None:
    for path, _ in texts():
        (document,) = load(path)
        assert path.stem == document["metadata"]["name"]
