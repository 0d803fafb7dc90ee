"""The catalog at work: a real API server, a real registry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crds.kube.client import Kind, Kube
from crds.kube.watch import Put, follow
from crds.models.firmware import Firmware, FirmwareStatus
from crds.models.firmware_policy import CONFIG_MAP, KEY
from flash_controller.catalog import Catalog
from scripts.testbed.certificates import Authority
from scripts.testbed.cluster import Cluster
from scripts.testbed.registry import Registry
from tests.flash_controller.catalog.publishing import Key, image, measurement, publish

pytestmark = pytest.mark.control_plane

SIGNER, STRANGER = Key("build"), Key("stranger")


@dataclass
class Shelf:
    """A namespace with a catalog at work, and a repository."""

    cluster: Cluster
    kube: Kube
    namespace: str
    registry: Registry

    @property
    def repository(self) -> str:
        return f"{self.registry.host}/{self.namespace}/thermo"

    def config_map(self, name: str, data: dict[str, str]) -> None:
        meta = {"name": name, "namespace": self.namespace}
        self.cluster.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}])

    def policy(self, *keys: dict[str, Any], **more: Any) -> None:
        said = {"keys": list(keys), "plainHTTP": [self.registry.host], **more}
        self.config_map(CONFIG_MAP, {KEY: json.dumps(said)})

    def put(self, name: str = "thermo", **spec: Any) -> None:
        spec = {"repository": self.repository, "plainHTTP": True, **spec}
        meta = {"name": name, "namespace": self.namespace}
        kind = {"apiVersion": Firmware.crd.api_version, "kind": "Firmware"}
        self.cluster.apply([{**kind, "metadata": meta, "spec": spec}])

    async def until(self, holds: Callable[[FirmwareStatus], object], *, name: str = "thermo") -> FirmwareStatus:
        """The status as soon as it is as asked, for the spec of now."""
        for _ in range(600):
            firmware = await self.kube.get(Firmware, name, namespace=self.namespace)
            assert firmware is not None
            status = firmware.status
            if status and status.observed_generation == firmware.metadata.generation and holds(status):
                return status
            await asyncio.sleep(0.05)
        raise AssertionError(f"never came: {firmware}")

    async def says(self, *wanted: str, name: str = "thermo") -> FirmwareStatus:
        """Until conditions are so: `Ready=False/Unsigned`."""
        return await self.until(lambda status: set(wanted) <= said(status), name=name)


def said(status: FirmwareStatus) -> set[str]:
    return {f"{each.type}={each.status}/{each.reason}" for each in status.conditions}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture
async def shelf(cluster: Cluster, namespace: str, registry: Registry) -> AsyncIterator[Shelf]:
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        shelf = Shelf(cluster, kube, namespace, registry)
        shelf.policy(SIGNER.entry("thermo*"))
        async with running(shelf):
            yield shelf


@contextlib.asynccontextmanager
async def running(shelf: Shelf) -> AsyncIterator[None]:
    catalog = Catalog(shelf.kube, namespace=shelf.namespace, clock=lambda: datetime.now(UTC), monotonic=time.monotonic)
    watch = follow(
        shelf.kube,
        Kind.of(Firmware.crd),
        changed=catalog.firmware_seen,
        synced=asyncio.Event(),
        namespace=shelf.namespace,
    )
    tasks = [asyncio.create_task(work) for work in (catalog.run_policy(), catalog.queue.run(), watch)]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_signed_index_is_read_into_the_status(shelf: Shelf) -> None:
    digest = await publish(shelf.repository, boards=("nrf52840dk", "esp32s3"), sign=SIGNER)
    shelf.put(tag="1.2.3")
    status = await shelf.says("Resolved=True/Resolved", "Verified=True/Verified", "Ready=True/Ready")
    assert (status.digest, status.resolved_tag, status.signed_by) == (digest, "1.2.3", "build")
    assert (status.application, status.version, status.security_counter) == ("thermo", "1.2.3", 3)
    assert status.board_names == "nrf52840dk, esp32s3"
    board = status.boards[1]
    assert (board.board, board.size_bytes) == ("esp32s3", len(image("1.2.3", "esp32s3")))
    assert (board.format, board.measurement) == ("Binary", measurement("1.2.3", "esp32s3"))
    assert [(sensor.uid, sensor.topic) for sensor in status.sensors] == [("1", "device/{device}/{sensor}")]


async def test_the_most_exact_reference_counts(shelf: Shelf) -> None:
    old, new = [await publish(shelf.repository, version=version, sign=SIGNER) for version in ("1.9.0", "1.10.0")]
    await publish(shelf.repository, version="2.0.0", tags=("2.0.0", "latest"), sign=SIGNER)
    shelf.put(tag="latest", semver=">=1 <2")
    assert (await shelf.says("Ready=True/Ready")).digest == new
    shelf.put(tag="latest", semver=">=1 <2", digest=old)
    status = await shelf.until(lambda status: status.digest == old)
    assert status.resolved_tag == ""


@pytest.mark.parametrize(
    ("sign", "applications", "verified"),
    [(None, "*", "Unsigned"), (STRANGER, "*", "NotTrusted"), (SIGNER, "pump", "NotTrusted")],
)
async def test_what_no_key_of_the_policy_signed_is_not_used(
    shelf: Shelf, sign: Key | None, applications: str, verified: str
) -> None:
    shelf.policy(SIGNER.entry(applications))
    await publish(shelf.repository, sign=sign)
    shelf.put(tag="1.2.3")
    status = await shelf.says(f"Verified=False/{verified}", f"Ready=False/{verified}")
    assert status.signed_by == ""


async def test_unsigned_firmware_is_used_where_the_policy_allows_it_and_a_wrong_signature_never(shelf: Shelf) -> None:
    shelf.policy(SIGNER.entry("*"), unsigned="Allow")
    await publish(shelf.repository, tags=("plain",))
    shelf.put(tag="plain")
    await shelf.says("Verified=False/Unsigned", "Ready=True/Unsigned")
    await publish(shelf.repository, version="2.0.0", sign=STRANGER)
    shelf.put(tag="2.0.0")
    await shelf.says("Verified=False/NotTrusted", "Ready=False/NotTrusted")


async def test_a_policy_that_changes_is_applied_while_the_registry_is_away(shelf: Shelf) -> None:
    await publish(shelf.repository, sign=SIGNER)
    shelf.put(tag="1.2.3")
    await shelf.says("Ready=True/Ready")
    shelf.registry.kill()
    try:
        shelf.policy(SIGNER.entry("thermo"), applications={"allow": ["pump"]})
        await shelf.says("Resolved=False/RegistryUnavailable", "Ready=False/ApplicationRefused")
        shelf.policy(STRANGER.entry("thermo"))
        status = await shelf.says("Verified=False/NotTrusted")
        assert status.digest is not None
    finally:
        shelf.registry.restart()
    shelf.policy(SIGNER.entry("thermo"))
    await shelf.says("Resolved=True/Resolved", "Verified=True/Verified", "Ready=True/Ready")


async def test_a_tag_that_moves_is_followed_and_what_it_meant_stays_known(shelf: Shelf) -> None:
    first = await publish(shelf.repository, version="1.0.0", tags=("stable",), sign=SIGNER)
    shelf.put(tag="stable", historyLimit=1)
    await shelf.says("Ready=True/Ready")
    for version in ("1.1.0", "1.2.0"):
        before, first = first, await publish(shelf.repository, version=version, tags=("stable",), sign=SIGNER)
        shelf.put(tag="stable", historyLimit=1, certificateRef={"name": f"ca-{version}"})  # looked at anew
        shelf.config_map(f"ca-{version}", {"ca.crt": Authority.new("site", now=datetime.now(UTC)).pem.decode()})
        status = await shelf.until(lambda status, now=first: status.digest == now)  # type: ignore[misc]
        assert [each.digest for each in status.history] == [before]
        assert status.history[0].boards[0].measurement != status.boards[0].measurement


async def test_a_reference_without_an_object_is_waited_for(shelf: Shelf) -> None:
    await publish(shelf.repository, sign=SIGNER)
    shelf.put(tag="1.2.3", pullSecretRef={"name": "login"})
    status = await shelf.says("Resolved=False/CredentialsMissing", "Ready=False/CredentialsMissing")
    assert status.digest is None
    login = {"auths": {shelf.registry.host: {"auth": b64encode(b"a:b").decode()}}}
    data = {".dockerconfigjson": b64encode(json.dumps(login).encode()).decode()}
    meta = {"name": "login", "namespace": shelf.namespace}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson"}
    shelf.cluster.apply([{**secret, "metadata": meta, "data": data}])
    await shelf.says("Ready=True/Ready")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"tag": "never"}, "NotFound"),
        ({"semver": ">=9"}, "NotFound"),
        ({"tag": "1.2.3", "repository": "127.0.0.1:9/a"}, "PlainHTTP"),
        ({"tag": "1.2.3", "suspend": True}, "Suspended"),
    ],
    ids=str,
)
async def test_why_a_reference_means_nothing_is_said(shelf: Shelf, spec: dict[str, Any], reason: str) -> None:
    await publish(shelf.repository, sign=SIGNER)
    shelf.put(**spec)
    await shelf.says(f"Resolved=False/{reason}", f"Ready=False/{reason}", f"Verified=Unknown/{reason}")


async def test_a_repository_that_the_policy_does_not_name_is_not_asked(shelf: Shelf) -> None:
    await publish(shelf.repository, sign=SIGNER)
    shelf.policy(SIGNER.entry("thermo"), repositories={"allow": ["ghcr.io/plant/*"]})
    shelf.put(tag="1.2.3")
    status = await shelf.says("Resolved=False/RepositoryRefused", "Ready=False/RepositoryRefused")
    assert status.digest is None
    shelf.policy(SIGNER.entry("thermo"), repositories={"allow": ["ghcr.io/plant/*", f"{shelf.registry.host}/*"]})
    await shelf.says("Ready=True/Ready")


async def test_a_policy_that_cannot_be_read_changes_nothing_and_is_complained_of(shelf: Shelf) -> None:
    await publish(shelf.repository, sign=SIGNER)
    shelf.put(tag="1.2.3")
    before = await shelf.says("Ready=True/Ready")
    shelf.config_map(
        CONFIG_MAP, {KEY: json.dumps({"keys": [{**SIGNER.entry("*"), "publicKey": "-----BEGIN PUBLIC KEY-----"}]})}
    )
    path = f"/apis/events.k8s.io/v1/namespaces/{shelf.namespace}/events"
    for _ in range(400):
        events = (await shelf.kube.request("GET", path))["items"]
        if notes := [each["note"] for each in events if each["reason"] == "PolicyRefused"]:
            break
        await asyncio.sleep(0.05)
    assert "policy.yaml.keys[0].publicKey" in notes[0]
    assert await shelf.says("Ready=True/Ready") == before


async def test_a_restart_looks_again_and_writes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    await publish(shelf.repository, sign=SIGNER)
    shelf.put(tag="1.2.3")
    before = await shelf.says("Ready=True/Ready")
    version = await _version(shelf)
    async with running(shelf):
        shelf.policy(SIGNER.entry("*"))
        shelf.put("other", tag="1.2.3")
        await shelf.says("Ready=True/Ready", name="other")
    assert await shelf.says("Ready=True/Ready") == before
    assert await _version(shelf) == version


async def test_a_followed_tag_is_looked_at_again_when_its_interval_is_over(
    cluster: Cluster, namespace: str, registry: Registry
) -> None:
    seconds = 0.0
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        shelf = Shelf(cluster, kube, namespace, registry)
        catalog = Catalog(kube, namespace=namespace, clock=lambda: datetime.now(UTC), monotonic=lambda: seconds)
        policy = {"keys": [SIGNER.entry("*")], "plainHTTP": [registry.host]}
        catalog.policy_seen(Put((namespace, CONFIG_MAP), {"data": {KEY: json.dumps(policy)}}))
        key = (namespace, "thermo")
        await publish(shelf.repository, version="1.0.0", tags=("stable",), sign=SIGNER)
        shelf.put(tag="stable", follow={"intervalSeconds": 100})
        catalog.firmware_seen(
            Put(key, await kube.request("GET", Kind.of(Firmware.crd).path(namespace=namespace, name="thermo")))
        )
        pause = await catalog.reconcile(key)
        assert pause is not None
        assert 90 <= pause <= 100
        first = (await shelf.says("Ready=True/Ready")).digest
        second = await publish(shelf.repository, version="1.1.0", tags=("stable",), sign=SIGNER)
        seconds = pause / 2
        assert await catalog.reconcile(key) == pause / 2
        assert (await shelf.says("Ready=True/Ready")).digest == first
        seconds = pause
        await catalog.reconcile(key)
        assert (await shelf.says("Ready=True/Ready")).digest == second


async def _version(shelf: Shelf) -> str | None:
    firmware = await shelf.kube.get(Firmware, "thermo", namespace=shelf.namespace)
    assert firmware is not None
    return firmware.metadata.resource_version
