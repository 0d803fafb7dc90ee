"""Rollouts on a real control plane: the manager's own process, Jobs, and runners that report by the devices' Leases."""

from __future__ import annotations

from itertools import pairwise

import pytest

from crds.models.firmwarerollout import FirmwareRollout
from tests.flash_controller.rollouts.site import Site, digest, flashes, reason, says, states, until

pytestmark = pytest.mark.control_plane


async def test_every_device_is_flashed_by_a_job_on_its_node_and_the_status_says_how_it_went(working: Site) -> None:
    working.firmware()
    for name in ("t-1", "t-2"):
        working.leaf(name)
        await working.proves(name, runs="b")
    working.firmware("earlier", letter="b", version="1.0.0")
    gate = working.gate("t-1", "Writing")
    working.roll_out(devices=["t-1", "t-2"])
    status = await working.until(lambda status: states(status)["t-1"] == "Writing")
    assert await working.flashing("t-1") == "True"
    assert (status.digest, says(status)["Progressing"]) == (digest("a"), "True/RollingOut")
    gate.unlink()
    status = await working.finished()
    assert says(status) == {"Progressing": "False/Complete", "Succeeded": "True/Confirmed"}
    assert (status.counts.total, status.counts.confirmed) == (2, 2)
    one = flashes(status)["t-1"]
    assert (one.state, one.attempts, one.bytes, one.measurement) == ("Confirmed", 1, 1000, "a" * 64)
    assert one.before is not None
    assert (one.before.version, one.before.firmware, one.before.digest) == ("1.0.0", "earlier", digest("b"))
    jobs = working.jobs()
    assert {job["spec"]["template"]["spec"]["nodeName"] for job in jobs} == {"flash-node"}
    await working.until_idle("t-1")


async def test_a_canary_that_fails_leaves_the_rest_untouched_until_more_failures_are_allowed(working: Site) -> None:
    working.firmware()
    working.leaf("t-1", "RolledBack")
    for name in ("t-2", "t-3"):
        working.leaf(name)
    working.roll_out(devices=["t-1", "t-2", "t-3"], strategy={"canary": {"count": 1}, "batchSize": 2})
    status = await working.until(lambda status: says(status).get("Succeeded") == "False/TooManyFailures")
    assert states(status) == {"t-1": "RolledBack", "t-2": "Pending", "t-3": "Pending"}
    assert len(working.jobs()) == 1
    assert says(status)["Progressing"] == "False/TooManyFailures"
    working.change(strategy={"maxFailurePercent": 100})
    status = await working.finished()
    assert states(status) == {"t-1": "RolledBack", "t-2": "Confirmed", "t-3": "Confirmed"}
    assert says(status)["Succeeded"] == "False/DevicesFailed"


async def test_what_may_go_better_is_tried_again_and_what_cannot_is_not(working: Site) -> None:
    working.firmware()
    working.leaf("flaky", "Retry", "Die", "Confirmed")
    working.leaf("hopeless", "Failed", "Confirmed")
    working.leaf("unlucky", "Retry")
    names = ["flaky", "hopeless", "unlucky"]
    working.roll_out(devices=names, strategy={"maxFailurePercent": 100}, retries=2)
    status = await working.finished()
    found = {each.name: (each.state, each.attempts, each.reason) for each in status.devices}
    assert found == {
        "flaky": ("Confirmed", 3, "Confirmed"),
        "hopeless": ("Failed", 1, "NotSigned"),
        "unlucky": ("Failed", 3, "LinkLost"),
    }


async def test_two_rollouts_for_one_device_follow_each_other(working: Site) -> None:
    working.firmware()
    working.firmware("other", letter="c")
    working.leaf("t-1")
    gate = working.gate("t-1", "Attesting")
    working.roll_out("first", devices=["t-1"])
    await working.until(lambda status: states(status)["t-1"] == "Attesting", name="first")
    working.roll_out("second", devices=["t-1"], firmware="other")
    status = await working.until(lambda status: reason(status, "t-1") == "DeviceBusy", name="second")
    assert f"{working.namespace}/first" in flashes(status)["t-1"].message
    gate.unlink()
    first, second = await working.finished(name="first"), await working.finished(name="second")
    assert states(first) == states(second) == {"t-1": "Confirmed"}
    assert flashes(first)["t-1"].finished_time <= flashes(second)["t-1"].started_time  # type: ignore[operator]


async def test_cancelling_stops_what_runs_and_begins_nothing_more(working: Site) -> None:
    working.firmware()
    for name in ("t-1", "t-2"):
        working.leaf(name, "Hang")
    working.roll_out(devices=["t-1", "t-2"], strategy={"batchSize": 1})
    await working.until(lambda status: states(status)["t-1"] == "Writing")
    working.change(desired="Cancel")
    status = await working.finished()
    found = {each.name: (each.state, each.reason) for each in status.devices}
    assert found == {"t-1": ("Failed", "Stopped"), "t-2": ("Pending", "Cancelled")}
    assert says(status)["Succeeded"] == "False/Cancelled"


async def test_a_rollout_that_is_called_off_before_it_began_is_over_and_begins_all_the_same_when_wanted(
    working: Site,
) -> None:
    working.leaf("t-1")
    working.roll_out(devices=["t-1"], desired="Cancel", historyLimit=1)
    status = await working.finished()
    assert (says(status)["Succeeded"], status.devices) == ("False/Cancelled", ())
    working.change(desired="Run")
    await working.until(lambda status: not status.finished_time)
    working.firmware()
    assert states(await working.finished()) == {"t-1": "Confirmed"}


async def test_a_roll_back_brings_every_device_back_to_what_it_ran(working: Site) -> None:
    working.firmware()
    working.firmware("earlier", letter="b", version="1.0.0")
    working.leaf("t-1")
    await working.proves("t-1", runs="b")
    working.leaf("stranger")
    await working.proves("stranger", runs="d")
    working.leaf("failed", "Failed")
    await working.proves("failed", runs="b")
    names = ["t-1", "stranger", "failed"]
    working.roll_out(devices=names, strategy={"maxFailurePercent": 100})
    await working.finished()
    working.change(desired="RollBack")
    status = await working.until(
        lambda status: says(status).get("Succeeded") == "False/DevicesFailed" and states(status)["t-1"] == "RolledBack"
    )
    found = {each.name: (each.goal, each.state, each.reason) for each in status.devices}
    assert found == {
        "t-1": ("RollBack", "RolledBack", "RolledBack"),
        "stranger": ("RollBack", "Failed", "NoPreviousFirmware"),
        "failed": ("Update", "Failed", "NotSigned"),
    }
    (back,) = [
        job for job in working.jobs() if job["metadata"]["annotations"]["edge.fluidos.eu/flash-goal"] == "RollBack"
    ]
    words = back["spec"]["template"]["spec"]["containers"][0]["args"]
    flags = dict(pairwise(words))
    assert (flags["--firmware"], flags["--digest"], flags["--policy"]) == ("earlier", digest("b"), "Always")


async def test_a_selector_waits_for_devices_that_it_takes(working: Site) -> None:
    working.firmware()
    working.roll_out(devices={"selector": {"matchLabels": {"kind": "thermometer"}}})
    await working.until(lambda status: says(status).get("Progressing") == "False/NoDevices")
    working.leaf("t-1")
    assert states(await working.finished()) == {"t-1": "Confirmed"}


async def test_a_device_that_has_proved_to_run_it_already_is_left_alone(working: Site) -> None:
    working.firmware()
    working.leaf("t-1")
    await working.proves("t-1", runs="a")
    working.roll_out(devices=["t-1", "nobody"], strategy={"maxFailurePercent": 100})
    status = await working.finished()
    found = {each.name: (each.state, each.reason, each.attempts) for each in status.devices}
    assert found == {"t-1": ("Confirmed", "UpToDate", 0), "nobody": ("Failed", "DeviceMissing", 0)}
    assert not working.jobs()


async def test_each_batch_waits_for_approval(working: Site) -> None:
    working.firmware()
    for name in ("t-1", "t-2", "t-3"):
        working.leaf(name)
    strategy = {"canary": {"count": 1}, "batchSize": 1, "approval": "EachBatch"}
    working.roll_out(devices=["t-1", "t-2", "t-3"], strategy=strategy)
    for approved in (1, 2):
        status = await working.until(lambda status: says(status).get("Progressing") == "False/AwaitingApproval")
        assert status.counts.confirmed == approved
        working.change(approvedBatches=approved)
        await working.until(lambda status: status.counts.confirmed == approved + 1)  # noqa: B023 - awaited here
    assert says(await working.finished())["Succeeded"] == "True/Confirmed"


async def test_the_oldest_finished_rollout_goes_first_and_its_jobs_with_it(working: Site) -> None:
    working.firmware()
    working.leaf("t-1")
    for number in range(3):
        working.roll_out(f"roll-{number}", devices=["t-1"], policy="Always", historyLimit=2)
        await working.finished(name=f"roll-{number}")
    await until(lambda: len(working.jobs()) == 2)
    left = await working.kube.list(FirmwareRollout, namespace=working.namespace)
    assert sorted(each.metadata.name for each in left) == ["roll-1", "roll-2"]
