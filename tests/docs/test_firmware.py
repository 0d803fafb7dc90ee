"""What the pages about firmware tell people to type is taken: by a real API server, by kubectl, and by who reads it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crds.models.base import validate
from crds.models.leafdevice import Update
from edge_resource_manager.domain.repurposing import parse_policy
from flash_controller.cli import main
from flash_controller.domain.catalog import read_policy
from flash_controller.domain.recipe import Recipe
from scripts.testbed.binaries import Binaries
from scripts.testbed.cluster import Cluster

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str, *languages: str) -> list[str]:
    """What stands between fences."""
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)


def manifests() -> Iterator[Any]:
    for page in PAGES:
        for block in blocks(str(page.relative_to(ROOT)), "yaml"):
            for document in yaml.safe_load_all(block):
                if isinstance(document, dict) and "kind" in document:
                    yield pytest.param(document, id=f"{page.stem}-{document['kind']}")


def commands(page: str, program: str) -> list[list[str]]:
    """Each command line of a program, as a shell splits it."""
    text = "\n".join(blocks(page, "console", "sh")).replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(program)]


def kubectl(cluster: Cluster, *arguments: str) -> str:
    """What it prints.

    Raises:
        AssertionError: it says no.
    """
    command = [str(Binaries.find().kubectl), "--kubeconfig", str(cluster.kubeconfig), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def rollout(cluster: Cluster, namespace: str) -> str:
    """The rollout of the page, in a namespace of the test; its path."""
    (document,) = (yaml.safe_load(block) for block in blocks("docs/firmware-rollouts.md", "yaml"))
    document["metadata"]["namespace"] = namespace
    cluster.apply([document])
    return cluster.api.path_of(document)


@pytest.mark.control_plane
@pytest.mark.parametrize("document", list(manifests()))
def test_every_object_of_the_pages_is_taken_field_by_field(
    cluster: Cluster, namespace: str, document: dict[str, Any]
) -> None:
    document["metadata"]["namespace"] = namespace
    path = cluster.api.path_of(document).rpartition("/")[0]
    made = cluster.api.request("POST", path, body=document, query={"dryRun": "All", "fieldValidation": "Strict"})
    assert made["metadata"]["name"] == document["metadata"]["name"]


@pytest.mark.control_plane
def test_every_binding_that_the_pages_make_is_of_a_role_that_there_is(cluster: Cluster) -> None:
    made = [each for page in ("docs/firmware-catalog.md", "docs/flash-runner.md") for each in commands(page, "kubectl")]
    bindings = [each for each in made if "rolebinding" in each]
    assert len(bindings) == 2
    for _, *arguments in bindings:
        binding = orjson.loads(kubectl(cluster, *arguments, "--dry-run=client", "--output=json"))
        role = binding["roleRef"]
        namespace = "" if role["kind"] == "ClusterRole" else f"/namespaces/{binding['metadata']['namespace']}"
        plural = f"{role['kind'].lower()}s"
        assert cluster.api.exists(f"/apis/rbac.authorization.k8s.io/v1{namespace}/{plural}/{role['name']}"), role
        for subject in binding["subjects"]:
            path = f"/api/v1/namespaces/{subject['namespace']}/serviceaccounts/{subject['name']}"
            assert cluster.api.exists(path), subject


def test_every_way_for_firmware_in_the_pages_can_be_read() -> None:
    annotated = [
        yaml.safe_load(block)["metadata"]["annotations"]["edge.fluidos.eu/update"]
        for block in blocks("docs/firmware-protocols.md", "yaml")
    ]
    for _, *arguments in commands("docs/firmware-catalog.md", "kubectl annotate"):
        annotated += [each.partition("=")[2] for each in arguments if each.startswith("edge.fluidos.eu/update=")]
    assert len(annotated) == 2
    for text in annotated:
        assert validate(Update, orjson.loads(text)).protocol == "MCUmgrUDP"


def test_the_policies_of_the_pages_can_be_read() -> None:
    (text,) = (block for block in blocks("docs/firmware-catalog.md", "yaml") if block.startswith("keys:"))
    key = generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    told = yaml.safe_load(text)
    told["keys"][0]["publicKey"] = key.decode()
    policy = read_policy({"data": {"policy.yaml": yaml.safe_dump(told)}})
    assert (policy.keys[0].name, policy.unsigned) == ("plant-ci", "Refuse")
    (shown,) = (block for block in blocks("docs/repurposing.md", "yaml") if "fluidos-edge-repurposing" in block)
    (rule,) = parse_policy(yaml.safe_load(shown)).grants
    assert (rule.max_seconds, rule.afterwards) == (300, "thermometer")


def test_the_recipe_of_the_page_can_be_read() -> None:
    (text,) = blocks("docs/firmware-packaging.md", "yaml")
    recipe = Recipe.parse_yaml(text, field="firmware.yaml")
    assert list(recipe.boards) == ["nrf52840dk", "esp32s3"]


def test_the_commands_of_the_page_are_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    shown = commands("docs/firmware-packaging.md", "kubectl fluidos flash")
    assert [each[3] for each in shown] == ["package", "push", "sign", "inspect"]
    for each in shown:
        options = {argument for argument in each if argument.startswith("-")}
        with pytest.raises(SystemExit) as ended:
            main([each[3], "--help"])
        assert ended.value.code == 0
        told = capsys.readouterr().out
        assert all(option in told for option in options), (options, told)


@pytest.mark.control_plane
@pytest.mark.parametrize(
    ("page", "kind", "asked"),
    [("docs/firmware-rollouts.md", "FirmwareRollout", "get fwr"), ("README.md", "SensorClaim", "get sensorclaims")],
)
def test_kubectl_has_the_columns_of_the_page(
    cluster: Cluster, namespace: str, page: str, kind: str, asked: str
) -> None:
    (document,) = (each for block in blocks(page, "yaml") if (each := yaml.safe_load(block))["kind"] == kind)
    document["metadata"]["namespace"] = namespace
    cluster.apply([document])
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    shown = next(head for line, head in pairwise(lines) if line.startswith("$") and line.endswith(asked))
    assert kubectl(cluster, *asked.split(), "--namespace", namespace).splitlines()[0].split() == shown.split()


@pytest.mark.control_plane
def test_kubectl_waits_for_a_rollout(cluster: Cluster, namespace: str, rollout: str) -> None:
    time = "2026-01-01T00:00:00Z"
    done = {"type": "Succeeded", "status": "True", "reason": "Complete", "message": "", "lastTransitionTime": time}
    status = {"status": {"conditions": [done]}}
    cluster.api.request("PATCH", f"{rollout}/status", body=status, content_type="application/merge-patch+json")
    wait = ("wait", "--for=condition=Succeeded", "fwr/thermo-2", "--namespace", namespace, "--timeout=30s")
    assert "condition met" in kubectl(cluster, *wait)


@pytest.mark.control_plane
@pytest.mark.parametrize(
    "field", ["fw.spec.semver", "fwr.spec.strategy.canary", "fwr.spec.window.timezone", "ld.spec.update"]
)
def test_kubectl_explains_what_a_field_is_for(cluster: Cluster, field: str) -> None:
    told = kubectl(cluster, "explain", field)
    assert "DESCRIPTION:\n    <empty>" not in told, told
