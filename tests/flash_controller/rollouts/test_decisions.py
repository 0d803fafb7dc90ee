"""What is decided about a rollout, situation by situation."""

from datetime import timedelta

import pytest

from crds.models.firmwarerollout import DeviceFlash
from crds.models.flash_report import Running
from flash_controller.domain.attempts import Attempt, Retrying, begun, observed
from flash_controller.domain.rollout import counts, unpinned
from flash_controller.domain.selection import Unfit, UpToDate, Wait
from tests.flash_controller.rollouts.world import START, World, spec_of, succeeded, told


def test_the_canary_goes_first_then_batches_one_after_the_other() -> None:
    world = World.of(6, strategy={"canary": {"count": 1}, "batchSize": 3})
    began = []
    while not world.look().finished:
        if world.active:
            began.append(sorted(world.active))
        world.end_all()
    assert began == [["d-0"], ["d-1", "d-2", "d-3"], ["d-4", "d-5"]]
    assert counts(world.devices).confirmed == 6


def test_a_canary_that_is_a_share_is_rounded_up() -> None:
    world = World.of(11, strategy={"canary": {"percent": 10}, "batchSize": 50})
    world.look()
    assert len(world.active) == 2


@pytest.mark.parametrize(("failed", "goes_on"), [(1, True), (2, False)])
def test_more_failures_than_are_allowed_hold_the_next_batch(failed: int, goes_on: bool) -> None:
    world = World.of(20, strategy={"batchSize": 10, "maxFailurePercent": 10})
    world.look()
    for name in world.active[:failed]:
        world.end(name, "Failed")
    world.end_all()
    plan = world.look_on()
    assert told(plan) == ("True/RollingOut" if goes_on else "False/TooManyFailures")
    assert bool(world.active) == goes_on


def test_failures_hold_the_retries_of_their_own_batch_too() -> None:
    world = World.of(3)
    world.look()
    world.end("d-0", "Failed")
    world.end("d-1", "Failed", retryable=True)
    world.wait(60)
    world.look_on()
    assert world.active == ["d-2"]


def test_a_batch_soaks_before_the_next_one_begins() -> None:
    world = World.of(2, strategy={"canary": {"count": 1}, "soakSeconds": 600})
    world.look()
    world.end_all()
    plan = world.look_on()
    assert told(plan) == "True/Soaking"
    assert plan.again is not None
    assert (plan.again - world.now).total_seconds() == 600
    world.wait(600)
    world.look_on()
    assert world.active == ["d-1"]


def test_a_device_that_falls_silent_while_it_soaks_holds_the_next_batch() -> None:
    world = World.of(2, strategy={"canary": {"count": 1}, "soakSeconds": 600})
    world.look()
    world.end_all()
    world.look_on()
    world.wait(600)
    world.silent = frozenset({"d-0"})
    assert told(world.look_on()) == "False/TooManyFailures"
    world.silent = frozenset()
    world.look_on()
    assert world.active == ["d-1"]


def test_only_the_batch_after_the_canary_waits_for_approval_if_that_is_all_that_is_asked() -> None:
    world = World.of(3, strategy={"canary": {"count": 1}, "batchSize": 1, "approval": "AfterCanary"})
    world.look()
    world.end_all()
    assert told(world.look_on()) == "False/AwaitingApproval"
    world.wish(approved_batches=1)
    world.look()
    world.end_all()
    world.look_on()
    assert world.active == ["d-2"]


def test_nothing_begins_outside_the_window_and_what_has_begun_ends() -> None:
    world = World.of(2, strategy={"batchSize": 1}, window={"start": "11:30", "durationSeconds": 3600})
    world.look()
    world.wait(3600)
    world.end_all()
    plan = world.look_on()
    assert told(plan) == "False/OutsideWindow"
    assert world.states == {"d-0": "Confirmed", "d-1": "Pending"}
    assert plan.again is not None
    assert plan.again.isoformat() == "2026-11-22T11:30:00+00:00"


def test_a_window_on_unknown_clocks_holds_the_rollout_and_says_why() -> None:
    world = World.of(1, window={"start": "11:30", "durationSeconds": 3600, "timezone": "Mars/Olympus"})
    plan = world.look_on()
    assert told(plan) == "False/Invalid"
    assert any("Mars/Olympus" in each.message for each in plan.verdicts)


def test_suspended_it_begins_nothing_and_goes_on_afterwards() -> None:
    world = World.of(2, strategy={"batchSize": 1})
    world.look()
    world.wish(desired="Suspend")
    world.end_all()
    assert told(world.look_on()) == "False/Suspended"
    world.wish(desired="Run")
    world.look_on()
    assert world.active == ["d-1"]


def test_retries_wait_longer_each_time_and_come_to_an_end() -> None:
    world = World.of(1, retries=2, backoffSeconds=10)
    waited = []
    for _ in range(3):
        world.look()
        world.end_all("Failed", retryable=True)
        plan = world.look_on()
        if plan.again is not None:
            waited.append((plan.again - world.now).total_seconds())
            world.now = plan.again
    assert waited == [10, 20]
    assert world.states == {"d-0": "Failed"}


def test_a_runner_that_is_gone_without_a_word_counts_as_an_attempt() -> None:
    world = World.of(1, retries=1)
    world.look()
    world.end("d-0", None)
    world.look_on()
    (flash,) = world.devices
    assert (flash.state, flash.reason) == ("Pending", "RunnerLost")


def test_a_runner_on_a_node_that_is_gone_is_given_up_some_time_after_it_was_told_to_stop() -> None:
    flash = begun(DeviceFlash(name="d-0"), attempt=1, goal="Update", now=START)
    job = Attempt(job="j", number=1, goal="Update", active=True, stopping=START)

    def seen(*, minutes: int, held: bool = False) -> DeviceFlash:
        retrying = Retrying(allowed=False, retries=0, backoff=timedelta(seconds=1))
        now = START + timedelta(minutes=minutes)
        return observed(flash, attempt=job, report=None, retrying=retrying, now=now, held=held)

    assert seen(minutes=2) == seen(minutes=9, held=True) == flash
    lost = seen(minutes=3)
    assert (lost.state, lost.reason, lost.message) == ("Failed", "RunnerLost", "its node does not answer")


def test_after_the_deadline_what_has_not_begun_fails_and_what_has_ends() -> None:
    world = World.of(2, strategy={"batchSize": 1}, deadlineSeconds=60)
    world.look()
    world.wait(61)
    world.look()
    assert world.states == {"d-0": "Pending", "d-1": "Failed"}
    world.end_all()
    assert world.look_on().finished
    assert {each.name: each.reason for each in world.devices} == {"d-0": "Confirmed", "d-1": "DeadlineExceeded"}


def test_a_device_that_waits_holds_its_batch_and_no_other_device_of_it() -> None:
    world = World.of(3, strategy={"batchSize": 2})
    world.judgements["d-0"] = Wait("DeviceBusy", "another rollout has it")
    world.look()
    assert world.active == ["d-1"]
    world.end_all()
    world.look_on()
    assert not world.active
    del world.judgements["d-0"]
    world.look_on()
    assert world.active == ["d-0"]


def test_devices_that_need_nothing_are_confirmed_and_those_that_can_have_nothing_fail() -> None:
    world = World.of(3, strategy={"batchSize": 1, "maxFailurePercent": 50})
    world.judgements = {"d-0": UpToDate("runs it"), "d-1": Unfit("NoSuchBoard", "no part for it")}
    world.look_on()
    assert world.states == {"d-0": "Confirmed", "d-1": "Failed", "d-2": "Pending"}
    assert world.active == ["d-2"]


def test_a_roll_back_stops_what_runs_and_takes_back_what_was_flashed_and_nothing_else() -> None:
    world = World.of(4, strategy={"batchSize": 2})
    world.judgements["d-1"] = UpToDate("runs it")
    world.look()
    world.end_all()
    world.look_on()  # d-2 and d-3 are on their way
    world.end("d-3", "Failed")
    world.wish(desired="RollBack")
    assert told(world.look_on()) == "True/RollingBack"
    assert world.active == ["d-0"]
    world.end_all("RolledBack")
    plan = world.look_on()
    assert plan.finished
    assert succeeded(plan) == "False/RolledBack"
    assert world.states == {"d-0": "RolledBack", "d-1": "Confirmed", "d-2": "Failed", "d-3": "Failed"}


def test_a_roll_back_takes_back_what_a_runner_that_was_lost_may_have_left() -> None:
    world = World.of(1, retries=0)
    world.look()
    world.end("d-0", None)
    world.look_on()
    assert world.states == {"d-0": "Failed"}
    world.wish(desired="RollBack")
    world.look_on()
    assert world.active == ["d-0"]
    world.end_all("RolledBack")
    assert succeeded(world.look_on()) == "False/RolledBack"


def test_a_roll_back_has_as_many_attempts_as_the_update_had() -> None:
    world = World.of(1, retries=1)
    world.look()
    world.end_all()
    world.look_on()
    world.wish(desired="RollBack")
    for _ in range(9):
        world.look_on()
        world.end_all("Failed", retryable=True)
        world.wait(3600)
    assert (world.states, world.jobs["d-0"].number) == ({"d-0": "Failed"}, 4)


def test_what_a_device_ran_before_is_what_the_first_attempt_found() -> None:
    world = World.of(1)
    world.look()
    world.end("d-0", "Failed", retryable=True)
    world.look_on()
    world.wait(60)
    world.look()
    world.reports["d-0"] = world.reports["d-0"].model_copy(
        update={"attempt": 2, "state": "Writing", "before": Running(application="half-written")}
    )
    world.look()
    (flash,) = world.devices
    assert flash.before is not None
    assert (flash.state, flash.before.application) == ("Writing", "thermo")


@pytest.mark.parametrize(
    ("spec", "ready", "names", "reason"),
    [
        ({}, False, 0, "FirmwareNotReady"),
        ({}, True, 0, "NoDevices"),
        ({}, True, 1025, "Invalid"),
        ({"desired": "Suspend"}, True, 1, "Suspended"),
        ({"desired": "RollBack"}, True, 1, "Cancelled"),
    ],
)
def test_what_a_rollout_waits_for_before_it_begins_is_told(
    spec: dict[str, str], ready: bool, names: int, reason: str
) -> None:
    verdicts = unpinned(spec_of(**spec), ready=ready, names=tuple(f"d-{n}" for n in range(names)))
    assert [each.reason for each in verdicts] == [reason, reason]


def test_a_rollout_with_firmware_and_devices_begins() -> None:
    assert unpinned(spec_of(), ready=True, names=("d-0",)) == ()
