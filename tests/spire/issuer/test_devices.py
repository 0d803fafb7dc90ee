"""How devices stand on their LeafDevices, whatever happens to policies, names and the issuer itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from crds.kube.client import Kube, Object
from crds.kube.watch import Change, Put, follow
from crds.models.appraisal import AppraisalPolicy, KnownFirmware, LegacyDevice
from scripts.simulator.dice import Image
from scripts.testbed.cluster import Cluster
from spire.domain.ueid import Ueid
from tests.spire.issuer.attesting import (
    ACME,
    GLOBEX,
    POLICY,
    PUMP,
    TAMPERED,
    THERMO,
    Issuer,
    Thing,
    changed,
    issuing,
    write_policy,
)
from tests.spire.issuer.leaves import KIND, Leaves, connect, grant, until
from tests.spire.test_nubificus import legacy


@pytest.fixture(scope="module")
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    grant(cluster)
    async with await connect(cluster, "identity-issuer") as made:
        yield made


@pytest.fixture
async def leaves(cluster: Cluster, namespace: str) -> Leaves:
    write_policy(cluster, namespace, POLICY)
    return Leaves(cluster, namespace)


@pytest.fixture
async def issuer(kube: Kube, leaves: Leaves, tmp_path: Path) -> AsyncIterator[Issuer]:
    async with issuing(kube, leaves, tmp_path) as made:
        await until(lambda: made.policies.current is not None, lambda: "no policy")
        yield made


class Old:
    """A device of the older dialect. Each test has its own: the LeafDevice of one may outlive it for a while."""

    def __init__(self, mac: str) -> None:
        root, shown = legacy(mac)
        self.ueid = "02" + mac.replace(":", "")
        self.shown = shown.public_bytes(Encoding.DER)
        self.accepted = LegacyDevice(mac=mac, root=root.public_bytes(Encoding.PEM).decode())


def version(leaves: Leaves, thing: Thing) -> str:
    found = leaves.cluster.api.request("GET", KIND.path(namespace=leaves.namespace, name=thing.leaf))
    return str(found["metadata"]["resourceVersion"])


async def test_a_device_that_was_never_attested_says_so_quietly(issuer: Issuer) -> None:
    thing = issuer.thing()
    await issuer.stands(thing, "None", "NeverAttested")
    await issuer.known(thing)
    assert (await issuer.attest(thing)).status == 200
    await until(lambda: issuer.leaves.events(thing.leaf) == ["Attested"], lambda: str(issuer.leaves.events(thing.leaf)))


async def test_nothing_is_said_of_devices_without_a_name(issuer: Issuer) -> None:
    vouched, marker = issuer.leaves.add(), issuer.thing()
    await issuer.stands(marker, "None", "NeverAttested")  # the later one was looked at
    assert issuer.leaves.stands(vouched) == (None, None)


async def test_a_name_that_no_device_can_have_is_told(issuer: Issuer) -> None:
    name = issuer.leaves.add("01" + "00" * 10)
    await issuer.leaves.eventually(name, "None", "Malformed")


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (lambda thing: changed(POLICY, revoked=(thing.ueid,)), "Revoked"),
        (lambda _: GLOBEX.policy([THERMO]), "ManufacturerRefused"),
        (lambda _: ACME.policy([PUMP]), "MeasurementUnknown"),
        (lambda _: ACME.policy([THERMO], boot=()), "MeasurementUnknown"),
        (lambda _: changed(POLICY, security_counters={"thermo": 8}), "CounterTooLow"),
        (lambda _: changed(POLICY, modes=("Debug",)), "ModeRefused"),
        (lambda _: AppraisalPolicy(), "ManufacturerRefused"),
        (lambda _: None, "NoPolicy"),
    ],
)
async def test_a_stricter_policy_withdraws_trust_at_once(issuer: Issuer, policy, reason: str) -> None:  # type: ignore[no-untyped-def]  # a lambda of the table
    thing = await issuer.attested()
    issuer.use(policy(thing))
    start = time.monotonic()
    await issuer.stands(thing, "None", reason)
    # Generous for a busy machine; by itself it takes a few hundredths.
    assert time.monotonic() - start < 5
    issuer.use(POLICY)
    await until(
        lambda: issuer.policies.current is not None and bool(issuer.policies.current.manufacturers), lambda: "-"
    )
    assert issuer.leaves.stands(thing.leaf) == ("None", reason), "a milder policy brings no trust back"
    assert (await issuer.attest(thing)).status == 200
    await issuer.stands(thing, "Attested", "Attested")


async def test_a_policy_that_cannot_be_read_changes_nothing(issuer: Issuer) -> None:
    thing = await issuer.attested()
    issuer.use("revoked: [everything]")
    config_map = "fluidos-edge-appraisal"
    await until(lambda: "PolicyRefused" in issuer.leaves.events(config_map), lambda: "no Event")
    assert issuer.leaves.stands(thing.leaf) == ("Attested", "Attested")
    assert (await issuer.attest(thing)).status == 200
    issuer.use(changed(POLICY, revoked=(thing.ueid,)))
    await issuer.stands(thing, "None", "Revoked")


async def test_without_a_policy_nothing_is_accepted(issuer: Issuer) -> None:
    thing = issuer.thing()
    await issuer.known(thing)
    issuer.use(None)
    await until(lambda: not (issuer.policies.current and issuer.policies.current.manufacturers), lambda: "still there")
    assert (await issuer.attest(thing)).status == 403


class Catalog:
    """Firmware that comes and goes."""

    def __init__(self) -> None:
        self.current: tuple[KnownFirmware, ...] = ()
        self._callbacks: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def hold(self, *images: Image) -> None:
        self.current = ACME.policy(images).firmware
        for callback in self._callbacks:
            callback()


async def test_a_catalog_adds_firmware_to_the_policy(
    kube: Kube, leaves: Leaves, cluster: Cluster, tmp_path: Path
) -> None:
    write_policy(cluster, leaves.namespace, ACME.policy([PUMP]))
    catalog = Catalog()
    async with issuing(kube, leaves, tmp_path, catalogs=(catalog,)) as issuer:
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        thing = issuer.thing()
        await issuer.known(thing)
        assert (await issuer.attest(thing)).reason == "MeasurementUnknown"
        catalog.hold(THERMO)
        assert (await issuer.attest(thing)).status == 200
        await issuer.stands(thing, "Attested", "Attested")
        catalog.hold()
        await issuer.stands(thing, "None", "MeasurementUnknown")


async def test_trust_ends_by_itself(kube: Kube, leaves: Leaves, tmp_path: Path) -> None:
    async with issuing(kube, leaves, tmp_path, ttl=timedelta(seconds=3)) as issuer:
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        thing = await issuer.attested()
        await issuer.stands(thing, "None", "Expired")


async def test_a_restart_writes_nothing_that_is_there_already(kube: Kube, leaves: Leaves, tmp_path: Path) -> None:
    async with issuing(kube, leaves, tmp_path) as issuer:
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        thing, refused = await issuer.attested(), await issuer.attested()
        await issuer.attest(refused, refused.boot(TAMPERED))
        await issuer.stands(refused, "None", "MeasurementUnknown")
    before = [version(leaves, each) for each in (thing, refused)]
    async with issuing(kube, leaves, tmp_path) as issuer:
        marker = issuer.thing()
        await issuer.stands(marker, "None", "NeverAttested")
        assert [version(leaves, each) for each in (thing, refused)] == before
        # The counter's floor is on record too.
        assert (await issuer.attest(thing)).status == 200


async def test_what_changed_while_the_issuer_was_away_counts(
    kube: Kube, leaves: Leaves, cluster: Cluster, tmp_path: Path
) -> None:
    async with issuing(kube, leaves, tmp_path) as issuer:
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        thing, other = await issuer.attested(), await issuer.attested()
    write_policy(cluster, leaves.namespace, changed(POLICY, revoked=(thing.ueid,)))
    async with issuing(kube, leaves, tmp_path) as issuer:
        await issuer.stands(thing, "None", "Revoked")
        assert leaves.stands(other.leaf) == ("Attested", "Attested")
    async with issuing(kube, leaves, tmp_path) as issuer:
        issuer.clock.ahead = timedelta(hours=2)
        leaves.add(other.ueid, name=other.leaf, node="edge-2")  # a change, so that the clock is looked at
        await issuer.stands(other, "None", "Expired")


async def test_a_start_with_a_broken_policy_keeps_what_is_on_record(
    kube: Kube, leaves: Leaves, cluster: Cluster, tmp_path: Path
) -> None:
    async with issuing(kube, leaves, tmp_path) as issuer:
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        thing = await issuer.attested()
    write_policy(cluster, leaves.namespace, "]")
    async with issuing(kube, leaves, tmp_path) as issuer:
        marker = issuer.thing()
        await issuer.stands(marker, "None", "NeverAttested")
        assert leaves.stands(thing.leaf) == ("Attested", "Attested")
        answer = await issuer.attest(thing)
        assert (answer.status, answer.reason) == (503, "Busy")


async def test_of_two_that_name_one_device_the_older_counts(issuer: Issuer) -> None:
    thing = await issuer.attested()
    # Creation times have whole seconds, and the name decides within one.
    younger = issuer.leaves.add(thing.ueid, name=f"z-{thing.leaf}")
    await issuer.leaves.eventually(younger, "None", "DuplicateUeid")
    await issuer.attest_anew(thing)
    assert issuer.leaves.stands(younger) == ("None", "DuplicateUeid")
    issuer.leaves.delete(thing.leaf)
    await issuer.leaves.eventually(younger, "None", "NeverAttested")
    assert (await issuer.attest(thing)).status == 200
    await issuer.leaves.eventually(younger, "Attested", "Attested")


async def test_trust_does_not_pass_to_another_device_under_the_same_leaf(issuer: Issuer) -> None:
    thing, other = await issuer.attested(), issuer.thing(expected=False)
    issuer.leaves.add(other.ueid, name=thing.leaf)
    await issuer.stands(thing, "None", "NeverAttested")
    assert (await issuer.post(f"{thing.ueid}/challenge")).reason == "NotExpected"


class Meddling(Kube):
    """Somebody gives the LeafDevice to another device just before our next write on it arrives."""

    meddle: Callable[[], None] | None = None

    async def request(self, method: str, path: str, **rest: Any) -> Object:
        if method == "PATCH" and self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            await asyncio.to_thread(meddle)
        return await super().request(method, path, **rest)


async def test_trust_is_never_written_on_what_has_become_another_device(
    cluster: Cluster, leaves: Leaves, tmp_path: Path, kube: Kube
) -> None:
    config = await asyncio.to_thread(cluster.service_account_kubeconfig, "fluidos", "identity-issuer")
    told: list[tuple[str, str | None]] = []

    async with await Meddling.connect(kubeconfig=config) as meddling, issuing(meddling, leaves, tmp_path) as issuer:
        assert isinstance(meddling, Meddling)
        await until(lambda: issuer.policies.current is not None, lambda: "no policy")
        thing, other = issuer.thing(), issuer.thing(expected=False)
        await issuer.stands(thing, "None", "NeverAttested")

        def note(change: Change) -> None:
            if isinstance(change, Put) and change.key == (leaves.namespace, thing.leaf):
                trust = change.obj.get("status", {}).get("trust", {})
                told.append((change.obj["spec"]["ueid"], trust.get("spiffeID")))

        synced = asyncio.Event()
        following = asyncio.create_task(follow(kube, KIND, changed=note, synced=synced, namespace=leaves.namespace))
        await synced.wait()

        def rename() -> None:
            leaves.add(other.ueid, name=thing.leaf)

        meddling.meddle = rename
        assert (await issuer.attest(thing)).status == 200
        await until(lambda: issuer.devices.expects(other.board.ueid), lambda: "not renamed")
        assert (await issuer.attest(replace(other, leaf=thing.leaf))).status == 200
        await issuer.stands(thing, "Attested", "Attested")
        await until(lambda: told[-1][1] is not None, lambda: str(told))
        following.cancel()
    assert [each for each in told if each[1] is not None and each[0] not in each[1]] == []


async def test_what_was_said_of_a_name_goes_with_it(issuer: Issuer) -> None:
    thing = await issuer.attested()
    body = {"spec": {"ueid": None}}
    issuer.leaves.cluster.api.request(
        "PATCH",
        KIND.path(namespace=issuer.leaves.namespace, name=thing.leaf),
        body=body,
        content_type="application/merge-patch+json",
    )
    await until(lambda: issuer.leaves.stands(thing.leaf) == (None, None), lambda: str(issuer.leaves.stands(thing.leaf)))
    assert (await issuer.post(f"{thing.ueid}/challenge")).reason == "NotExpected"


async def test_a_device_whose_leaf_is_gone_is_not_expected(issuer: Issuer) -> None:
    thing = await issuer.attested()
    issuer.leaves.delete(thing.leaf)
    await until(lambda: not issuer.devices.expects(thing.board.ueid), lambda: "still expected")
    assert (await issuer.post(f"{thing.ueid}/challenge")).reason == "NotExpected"


async def test_an_older_certificate_is_legacy_where_the_policy_accepts_it(issuer: Issuer) -> None:
    old = Old("f0:f5:bd:00:c2:88")
    leaf = issuer.leaves.add(old.ueid)
    await issuer.leaves.eventually(leaf, "None", "NeverAttested")
    answer = await issuer.show(old.ueid, old.shown, b"")
    assert (answer.status, answer.reason) == (403, "LegacyRefused")
    await issuer.in_force(changed(POLICY, legacy=(old.accepted,)))
    answer = await issuer.show(old.ueid, old.shown, b"")
    assert answer.status == 200
    assert answer.body["tier"] == "Legacy"
    assert "chain" not in answer.body
    await issuer.leaves.eventually(leaf, "Legacy", "Legacy")
    assert "spiffeID" not in issuer.leaves.status(leaf)["trust"]
    await issuer.in_force(POLICY)
    await issuer.leaves.eventually(leaf, "None", "LegacyRefused")


async def test_an_older_certificate_undoes_no_proof(issuer: Issuer) -> None:
    old = Old("f0:f5:bd:00:c2:89")
    await issuer.in_force(
        changed(
            POLICY,
            legacy=(old.accepted,),
            manufacturers=(POLICY.manufacturers[0].model_copy(update={"names_devices": True}),),
        )
    )
    board = ACME.board(bytes(range(32)), ueid=Ueid(bytes.fromhex(old.ueid)))
    thing = Thing(board, issuer.leaves.add(old.ueid))
    await issuer.known(thing)
    assert (await issuer.attest(thing)).status == 200
    await issuer.stands(thing, "Attested", "Attested")
    answer = await issuer.show(old.ueid, old.shown, b"")
    assert (answer.status, answer.reason) == (403, "LegacyRefused")
    assert issuer.leaves.stands(thing.leaf) == ("Attested", "Attested")
