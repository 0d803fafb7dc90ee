"""A device's Lease on a real API server: one attempt has it, reports, and gives it up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from crds.conditions import timestamp
from crds.kube.client import LEASES, MERGE_PATCH, Kube, Object
from crds.kube.lease import Lost
from crds.models.flash_report import FlashReport, FlashState
from crds.naming import flash_lease_name
from flash_controller.adapters.device_lease import DURATION_SECONDS, Busy, DeviceLease, holder_of, report_of

pytestmark = pytest.mark.control_plane

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def report(state: FlashState = "Downloading", *, attempt: int = 1, size: int = 0) -> FlashReport:
    return FlashReport(state=state, rollout_uid="uid", attempt=attempt, bytes=size, time=timestamp(NOW))


def lease(kube: Kube, namespace: str, *, uid: str = "uid", attempt: int = 1, now: datetime = NOW) -> DeviceLease:
    holder = holder_of(uid, attempt)
    return DeviceLease(kube, namespace=namespace, device="t-1", holder=holder, clock=lambda: now)


async def stored(kube: Kube, namespace: str) -> Object:
    return await kube.request("GET", LEASES.path(namespace=namespace, name=flash_lease_name("t-1")))


async def test_only_one_rollout_has_a_device_until_it_gives_it_up_or_falls_silent(kube: Kube, namespace: str) -> None:
    first, later = lease(kube, namespace), NOW + timedelta(seconds=DURATION_SECONDS)
    await first.acquire(report())
    with pytest.raises(Busy):
        await lease(kube, namespace, uid="other").acquire(report())
    silent = lease(kube, namespace, uid="other", now=later)
    assert (await silent.acquire(report("Writing", attempt=7))) == report()
    with pytest.raises(Lost):
        await first.say(report("Writing"))
    await silent.conclude(report("Confirmed"))
    await lease(kube, namespace, uid="third").acquire(report())


async def test_the_next_attempt_of_a_rollout_takes_over_what_the_last_one_left(kube: Kube, namespace: str) -> None:
    await lease(kube, namespace).acquire(report("Writing", size=700))
    before = await lease(kube, namespace, attempt=2).acquire(report(attempt=2))
    assert before is not None
    assert (before.attempt, before.bytes) == (1, 700)


async def test_only_news_is_written_at_once(kube: Kube, namespace: str) -> None:
    held = lease(kube, namespace)
    await held.acquire(report())
    version = (await stored(kube, namespace))["metadata"]["resourceVersion"]
    await held.say(report(size=10))
    assert (await stored(kube, namespace))["metadata"]["resourceVersion"] == version
    await held.say(report("Writing", size=20))
    assert report_of(await stored(kube, namespace)) == report("Writing", size=20)


async def test_a_label_that_somebody_sets_costs_no_report(kube: Kube, namespace: str) -> None:
    held = lease(kube, namespace)
    await held.acquire(report())
    path = LEASES.path(namespace=namespace, name=flash_lease_name("t-1"))
    await kube.request("PATCH", path, body={"metadata": {"labels": {"by": "hand"}}}, content_type=MERGE_PATCH)
    await held.conclude(report("Confirmed"))
    found = await stored(kube, namespace)
    assert (report_of(found), found["spec"].get("holderIdentity")) == (report("Confirmed"), None)


async def test_an_end_that_was_written_though_its_answer_was_lost_is_no_loss(kube: Kube, namespace: str) -> None:
    held, again = lease(kube, namespace), lease(kube, namespace)
    await held.acquire(report())
    await again.acquire(report())
    await again.conclude(report("Confirmed"))
    await held.conclude(report("Confirmed"))


async def test_a_report_that_cannot_be_read_is_none(kube: Kube, namespace: str) -> None:
    await lease(kube, namespace).acquire(report())
    found = await stored(kube, namespace)
    found["metadata"]["annotations"] = {"edge.fluidos.eu/flash-report": '{"state": "Flying"}'}
    assert report_of(found) is None
