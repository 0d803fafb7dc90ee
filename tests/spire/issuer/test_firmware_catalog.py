"""Firmware of the catalog as reference values: what was verified is known, and a restart withdraws no trust."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crds.kube.client import Kind, Kube
from crds.models.firmware import Firmware
from scripts.simulator.dice import Image
from scripts.testbed.cluster import Cluster
from spire.issuer.firmware_catalog import FirmwareCatalog
from tests.spire.issuer.attesting import ACME, PUMP, TAMPERED, THERMO, issuing, write_policy
from tests.spire.issuer.leaves import Leaves, connect, grant, until

pytestmark = pytest.mark.control_plane

FIRMWARES = Kind.of(Firmware.crd)


def contents(image: Image, digest: str) -> dict[str, Any]:
    board = {
        "board": "nrf52840dk",
        "manifestDigest": f"sha256:{digest * 64}",
        "digest": f"sha256:{digest * 64}",
        "sizeBytes": 1,
        "measurement": image.measurement.hex(),
    }
    found = {"application": image.application, "signedBy": "somebody", "boards": [board]}
    return {"digest": f"sha256:{digest * 64}", **found}


def verified(word: str) -> dict[str, Any]:
    said = {"type": "Verified", "status": word, "reason": "Any", "message": ""}
    return {**said, "lastTransitionTime": "2026-11-21T12:00:00Z"}


@pytest.fixture(scope="module")
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    grant(cluster)
    async with await connect(cluster, "identity-issuer") as made:
        yield made


@contextlib.asynccontextmanager
async def followed(kube: Kube) -> AsyncIterator[FirmwareCatalog]:
    catalog = FirmwareCatalog(kube)
    task = asyncio.create_task(catalog.run())
    try:
        yield catalog
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def put(cluster: Cluster, namespace: str, status: dict[str, Any]) -> None:
    meta = {"name": "thermo", "namespace": namespace}
    body = {"apiVersion": Firmware.crd.api_version, "kind": "Firmware", "metadata": meta}
    cluster.apply([{**body, "spec": {"repository": "registry:5000/thermo", "tag": "stable"}}])
    path = FIRMWARES.path(namespace=namespace, name="thermo", subresource="status")
    query = {"fieldManager": "test", "force": "true"}
    apply = "application/apply-patch+yaml"
    cluster.api.request("PATCH", path, body={**body, "status": status}, query=query, content_type=apply)


def remove(cluster: Cluster, namespace: str) -> None:
    """All of it is known to every issuer of the cluster, also to those of other tests."""
    cluster.api.request("DELETE", FIRMWARES.path(namespace=namespace, name="thermo"))


async def test_devices_that_run_what_was_verified_are_trusted_and_no_others(
    kube: Kube, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    leaves = Leaves(cluster, namespace)
    write_policy(cluster, namespace, ACME.policy([PUMP]))
    async with followed(kube) as catalog, issuing(kube, leaves, tmp_path, catalogs=(catalog,)) as issuer:
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        thing, tampered = issuer.thing(), issuer.thing()
        await issuer.known(thing, tampered)
        put(cluster, namespace, {**contents(THERMO, "a"), "conditions": [verified("False")]})
        assert (await issuer.attest(thing)).reason == "MeasurementUnknown"

        put(cluster, namespace, {**contents(THERMO, "a"), "conditions": [verified("True")]})
        await until(lambda: THERMO.measurement.hex() in str(catalog.current), lambda: f"{catalog.current}")
        assert (await issuer.attest(thing)).status == 200
        assert (await issuer.attest(tampered, tampered.boot(TAMPERED))).reason == "MeasurementUnknown"

        # The tag moves on to what nobody trusts yet.
        moved = {**contents(PUMP, "b"), "history": [contents(THERMO, "a")], "conditions": [verified("False")]}
        put(cluster, namespace, moved)
        assert (await issuer.attest(thing)).status == 200
        await issuer.stands(thing, "Attested", "Attested")

        remove(cluster, namespace)
        await issuer.stands(thing, "None", "MeasurementUnknown")


async def test_until_the_catalog_is_known_nobody_is_judged_by_half_of_it(
    kube: Kube, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    leaves = Leaves(cluster, namespace)
    write_policy(cluster, namespace, ACME.policy([PUMP]))
    late = FirmwareCatalog(kube)
    async with issuing(kube, leaves, tmp_path, catalogs=(late,)) as issuer:
        thing = issuer.thing()
        await issuer.known(thing)
        assert (await issuer.attest(thing)).status == 503
        assert issuer.policies.current is None
        put(cluster, namespace, {**contents(THERMO, "a"), "conditions": [verified("True")]})
        task = asyncio.create_task(late.run())
        try:
            await until(lambda: issuer.policies.current is not None, lambda: "no policy")
            assert (await issuer.attest(thing)).status == 200
        finally:
            remove(cluster, namespace)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
