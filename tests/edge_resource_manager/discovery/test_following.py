"""Sensors follow firmware: a device has those of what it attested, and keeps its own while it is being flashed."""

from datetime import UTC, datetime
from typing import Any

import pytest

from crds.conditions import timestamp
from crds.kube.client import Kind, Kube
from crds.models.base import Condition
from crds.models.firmware import Firmware
from crds.models.flash_report import FLASHING
from crds.models.fluidos import Flavor
from crds.models.leafdevice import LeafDevice, LeafDeviceStatus
from crds.models.trust import Firmware as Proven
from crds.models.trust import Tier, Trust
from edge_resource_manager.domain.following import Entry, provided, running
from edge_resource_manager.domain.publication import Paused, Withheld, may_publish
from tests.edge_resource_manager import firmwares
from tests.edge_resource_manager.discovery.conftest import Site, characteristics
from tests.edge_resource_manager.discovery.states import idle
from tests.edge_resource_manager.discovery.test_trust import GOOD, UEID, Appraiser, issuer, proves
from tests.edge_resource_manager.firmwares import THERMOMETER, WIND

__all__ = ["issuer"]

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SPEED = firmwares.sensor("WindSpeed", "m/s")
TEMPERATURE = firmwares.sensor("Temperature", "°C")


def trust(application: str, measurement: str, *, tier: Tier = "Attested", until: datetime | None = None) -> Trust:
    return Trust(
        tier=tier,
        spiffe_id=f"spiffe://provider/device/{UEID}/app/{application}",
        application=application,
        firmware=Proven(measurement=measurement),
        expiration_time=timestamp(until) if until else None,
    )


def catalog(*entries: tuple[str, dict[str, Any]]) -> list[Entry]:
    return [Entry.of(firmwares.firmware(name, status)) for name, status in entries]


def flashing(status: str = "True") -> Condition:
    said = {"type": FLASHING, "status": status, "reason": "Job", "message": ""}
    return Condition.model_validate({**said, "lastTransitionTime": timestamp(NOW)})


@pytest.mark.parametrize(
    ("proof", "application"),
    [
        (trust("wind", WIND), "wind"),
        (trust("wind", THERMOMETER), None),
        (trust("wind", "0c" * 32), None),
        (trust("wind", WIND, tier="GatewayVouched"), None),
        (trust("wind", WIND, tier="None"), None),
        (None, None),
    ],
)
def test_what_runs_is_what_was_attested_by_measurement_and_name(proof: Trust | None, application: str | None) -> None:
    known = catalog(
        ("a", firmwares.status("thermometer", THERMOMETER, TEMPERATURE)),
        ("b", firmwares.status("wind", WIND, SPEED, ready="False")),  # its registry is away, which changes nothing
    )
    found = running(LeafDeviceStatus(trust=proof), known)
    assert (found and found.application) == application


def test_an_earlier_release_is_known_still() -> None:
    old = firmwares.status("wind", WIND, SPEED)
    release = {key: value for key, value in old.items() if key != "conditions"}
    moved = {**firmwares.status("wind", "0c" * 32), "history": [release]}
    found = running(LeafDeviceStatus(trust=trust("wind", WIND)), catalog(("a", moved)))
    assert found is not None
    assert [sensor.model for sensor in found.sensors] == ["windspeed-model"]


def test_sensors_publish_where_the_device_knows_by_itself() -> None:
    status = firmwares.firmware("a", firmwares.status("wind", WIND, SPEED, {**SPEED, "uid": "gust"})).status
    assert status is not None
    assert status.current is not None
    found = provided(status.current, ueid=UEID)
    assert [(each.uid, each.access.topic) for each in found.sensors] == [
        ("wind/1", f"device/{UEID}/1"),
        ("wind/gust", f"device/{UEID}/gust"),
    ]
    assert (found.sensors[0].declared.latency, found.sensors[0].declared.latency_unit) == ("12000", "us")
    assert found.errors == ()


def test_a_sensor_that_cannot_be_is_told_and_hides_no_other() -> None:
    status = firmwares.firmware("a", firmwares.status("wind", WIND, {**SPEED, "uid": "u" * 128}, SPEED)).status
    assert status is not None
    assert status.current is not None
    found = provided(status.current, ueid=UEID)
    assert [each.uid for each in found.sensors] == ["wind/1"]
    assert [error.field for error in found.errors] == ["sensors[0] of wind 1.0.0, uid"]


def test_nothing_is_decided_by_what_is_proven_during_a_flash() -> None:
    for proof in (trust("wind", WIND, until=NOW), trust("wind", WIND, tier="None"), None):
        during = LeafDeviceStatus(trust=proof, conditions=(flashing(),))
        assert may_publish(during, ueid=UEID, minimum="Attested", now=NOW) == Paused()
        after = LeafDeviceStatus(trust=proof, conditions=(flashing("False"),))
        assert isinstance(may_publish(after, ueid=UEID, minimum="Attested", now=NOW), Withheld)


async def attest(issuer: Appraiser, application: str, measurement: str) -> None:
    await issuer.say("board", trust(application, measurement), GOOD)


async def set_flashing(kube: Kube, site: Site, status: str) -> None:
    """As the flash controller, which keeps the conditions of others."""
    leaf = (await site.leaves())["board"]
    said = {"type": FLASHING, "status": status, "reason": "Job", "message": ""}
    body = {"conditions": [{**said, "lastTransitionTime": timestamp(datetime.now(UTC))}]}
    await kube.apply_status(
        LeafDevice, name=leaf.metadata.name, namespace=site.namespace, status=body, manager="flash-controller-flashing"
    )


def uids(flavors: list[Flavor]) -> list[str]:
    return [characteristics(flavor)["uid"] for flavor in flavors]


async def test_a_device_becomes_what_it_attests(site: Site, issuer: Appraiser, kube: Kube) -> None:
    async with site.discovery(insecure=False):
        proves(site)
        await attest(issuer, "thermometer", THERMOMETER)
        declared = await site.until(lambda _, flavors: len(flavors) == 2)
        await firmwares.publish(
            kube, "thermo", firmwares.status("thermometer", THERMOMETER, TEMPERATURE), namespace=site.namespace
        )
        await firmwares.publish(kube, "wind", firmwares.status("wind", WIND, SPEED), namespace=site.namespace)
        [temperature] = await site.until(lambda _, flavors: uids(flavors) == ["thermometer/1"])
        assert temperature.metadata.name not in {flavor.metadata.name for flavor in declared}

        await set_flashing(kube, site, "True")
        await site.until(lambda _, flavors: not any(flavor.spec.availability for flavor in flavors))
        await attest(issuer, "wind", WIND)

        def attested_anew(leaves: dict[str, LeafDevice], flavors: list[Flavor]) -> bool:
            said = leaves["board"].status
            return uids(flavors) == ["thermometer/1"] and said is not None and said.trust == trust("wind", WIND)

        [same] = await site.until(attested_anew)
        assert same.metadata.uid == temperature.metadata.uid, "nobody knows yet whether it stays so"

        before = (await site.leaves())["board"].metadata.uid
        await set_flashing(kube, site, "False")
        [wind] = await site.until(lambda _, flavors: uids(flavors) == ["wind/1"] and flavors[0].spec.availability)
        assert characteristics(wind)["access"]["resource"]["topic"] == f"device/{UEID}/1"
        assert characteristics(wind)["properties"]["additional"]["application"] == "wind"
        assert (await site.leaves())["board"].metadata.uid == before, "the device is the same"

        await kube.request("DELETE", Kind.of(Firmware.crd).path(namespace=site.namespace, name="wind"))
        await site.until(lambda _, flavors: uids(flavors) == uids(declared))


async def test_firmware_that_is_given_up_again_costs_no_flavor(site: Site, issuer: Appraiser, kube: Kube) -> None:
    await firmwares.publish(kube, "wind", firmwares.status("wind", WIND, SPEED), namespace=site.namespace)
    async with site.discovery(insecure=False) as discovery:
        proves(site)
        await attest(issuer, "wind", WIND)
        [before] = await site.until(lambda _, flavors: uids(flavors) == ["wind/1"])
        await set_flashing(kube, site, "True")
        await site.until(lambda _, flavors: not flavors[0].spec.availability)
        await issuer.refuse()
        await idle(discovery)
        [during] = await site.flavors()
        assert during.spec == before.spec.model_copy(update={"availability": False})
        await attest(issuer, "wind", WIND)
        await set_flashing(kube, site, "False")
        [after] = await site.until(lambda _, flavors: flavors[0].spec.availability)
        assert (after.metadata.uid, after.spec) == (before.metadata.uid, before.spec)
        await issuer.refuse()
        await site.until(lambda _, flavors: not flavors)


async def test_a_manager_that_starts_anew_knows_the_catalog_first(site: Site, issuer: Appraiser, kube: Kube) -> None:
    await firmwares.publish(kube, "wind", firmwares.status("wind", WIND, SPEED), namespace=site.namespace)
    async with site.discovery(insecure=False):
        proves(site)
        await attest(issuer, "wind", WIND)
        [before] = await site.until(lambda _, flavors: uids(flavors) == ["wind/1"])
    writes = len([each for each in site.writes() if "flavors" in each])
    async with site.discovery(insecure=False) as again:
        await idle(again)
        [after] = await site.flavors()
    assert after.metadata.uid == before.metadata.uid
    assert len([each for each in site.writes() if "flavors" in each]) == writes
