"""What comes next for a device: on a model of MCUboot that resets, loses power and lies when it likes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crds.conditions import timestamp
from crds.models.base import Condition
from crds.models.trust import Firmware, Trust
from flash_controller.domain.flash import (
    Admit,
    AwaitEvidence,
    AwaitRestart,
    Back,
    Confirm,
    Course,
    Kept,
    Refusal,
    Refuse,
    Revert,
    Seen,
    Step,
    Stuck,
    Try,
    Wanted,
    Write,
    next_step,
)
from flash_controller.protocols.base import Capabilities, Installed, Slot
from flash_controller.reasons import FlashReason

NOW = datetime(2026, 11, 21, 12, 0, 0, 400_000, tzinfo=UTC)
PATIENCE = timedelta(seconds=30)
OLD, NEW, OTHER = "0a" * 32, "0b" * 32, "0c" * 32
WANTED = Wanted(application="weather", version="1.1.0", measurement=NEW)
MCUBOOT = Capabilities(signed=True, resumes=True, test_boots=True, confirms=True, reverts=True, measures=True)
FIELDED = Capabilities(tells_version=True)


def proven(measurement: str, *, at: datetime = NOW, application: str = "weather", minutes: float = 60) -> Trust:
    return Trust(
        tier="Attested",
        application=application,
        firmware=Firmware(measurement=measurement),
        attested_time=timestamp(at),
        expiration_time=timestamp(at + timedelta(minutes=minutes)),
    )


@dataclass
class Mcuboot:
    """Two slots. `claims` is what its certificates say of an image that they should say something else of."""

    primary: str = OLD
    secondary: str = ""
    confirmed: bool = True
    pending: bool = False
    claims: dict[str, str] = field(default_factory=dict)
    trust: Trust | None = None

    def reset(self, now: datetime) -> None:
        if self.pending or not self.confirmed:
            self.primary, self.secondary = self.secondary, self.primary
            self.confirmed, self.pending = not self.pending, False
        self.trust = proven(self.claims.get(self.primary, self.primary), at=now)

    def installed(self) -> Installed:
        slots = (
            Slot(measurement=self.primary, active=True, confirmed=self.confirmed),
            Slot(measurement=self.secondary, pending=self.pending, confirmed=not self.confirmed),
        )
        return Installed(slots=slots[: 1 + bool(self.secondary)])

    def seen(self) -> Seen:
        return Seen(installed=self.installed(), can=MCUBOOT, proves=True, trust=self.trust)


def act(device: Mcuboot, course: Course, step: Step, *, now: datetime) -> Course:
    """What the runner does about a step."""
    match step:
        case Write():
            assert device.installed().settled, "there is no room beside a trial"
            device.secondary = NEW
            return replace(course, written=True)
        case Admit():
            return replace(course, admitted=True)
        case Try():
            assert course.written or course.admitted or course.tried, "nothing is started that nobody has checked"
            course = replace(course, tried=now, trials=course.trials + 1)
            if device.secondary == NEW:
                device.pending = True
                device.reset(now)
        case Confirm():
            assert device.trust is not None
            assert device.trust.firmware is not None
            assert device.trust.firmware.measurement == NEW, "nothing is kept that has not proven itself"
            if device.primary == NEW:
                device.confirmed = True
        case Revert():
            device.reset(now)
        case Refuse(refusal):
            return replace(course, refusal=refusal)
        case _:
            pass
    return course


@settings(max_examples=150, deadline=None)
@given(
    lies=st.booleans(),
    leftover=st.sampled_from(["", "pending", "trial", "written", "other trial"]),
    faults=st.lists(st.sampled_from(["", "", "reset", "forgets", "new attempt"]), max_size=30),
)
def test_every_course_ends_on_a_confirmed_image_and_tells_the_truth(
    lies: bool, leftover: str, faults: list[str]
) -> None:
    device = Mcuboot(claims={NEW: OTHER} if lies else {}, trust=proven(OLD, at=NOW - timedelta(minutes=5)))
    if leftover:
        device.secondary = OTHER if leftover == "other trial" else NEW
        device.pending = leftover in ("pending", "trial", "other trial")
        if leftover.endswith("trial"):
            device.reset(NOW - timedelta(minutes=1))
    now, course = NOW, Course(began=NOW)
    for number in range(80):
        now += timedelta(seconds=1)
        fault = faults[number] if number < len(faults) else ""
        if fault == "reset":
            device.reset(now)
        elif fault == "forgets":
            device.secondary = "" if device.confirmed and not device.pending else device.secondary
        elif fault == "new attempt":
            course = Course(began=now, tried=course.tried)
        step = next_step(WANTED, device.seen(), course, patience=PATIENCE, now=now)
        match step:
            case Kept():
                assert (device.primary, device.confirmed) == (NEW, True)
                assert not lies
                return
            case Back():
                assert device.primary != NEW
                assert device.confirmed
                assert not device.pending
                return
            case Stuck():
                raise AssertionError("MCUboot can always go back")
        course = act(device, course, step, now=now)
    raise AssertionError(f"it did not end: {step}, {device}")


def look(
    installed: Installed,
    trust: Trust | None = None,
    can: Capabilities = MCUBOOT,
    *,
    proves: bool = True,
    proven: bool = True,
    attested: Condition | None = None,
    **course: Any,
) -> Step:
    seen = Seen(installed=installed, can=can, proves=proves, trust=trust, attested=attested)
    return next_step(replace(WANTED, proven=proven), seen, Course(began=NOW, **course), patience=PATIENCE, now=NOW)


TRIAL = Mcuboot(primary=NEW, secondary=OLD, confirmed=False).installed()


def test_a_started_image_is_kept_for_evidence_of_that_start_alone() -> None:
    tried = NOW - timedelta(seconds=10)
    assert look(TRIAL, proven(NEW, at=tried + timedelta(seconds=2)), tried=tried) == Confirm()
    # Of an earlier life of the same image.
    assert look(TRIAL, proven(NEW, at=tried - timedelta(seconds=2)), tried=tried) == AwaitEvidence(tried + PATIENCE)
    # Status knows whole seconds.
    assert look(TRIAL, proven(NEW, at=tried), tried=tried) == Confirm()


@pytest.mark.parametrize(
    ("trust", "reason"),
    [
        (proven(OLD), FlashReason.WRONG_MEASUREMENT),
        (proven(NEW, application="other"), FlashReason.WRONG_APPLICATION),
    ],
)
def test_what_is_proven_and_not_wanted_is_refused(trust: Trust, reason: FlashReason) -> None:
    step = look(TRIAL, trust, tried=NOW - timedelta(seconds=1))
    assert isinstance(step, Refuse)
    assert step.refusal.reason == reason


@pytest.mark.parametrize(
    ("reason", "seconds", "refused"),
    [("ClaimContradicted", 1, True), ("ClaimContradicted", -2, False), ("Expired", 1, False)],
)
def test_evidence_of_the_start_that_was_refused_ends_the_wait(reason: str, seconds: int, refused: bool) -> None:
    tried = NOW - timedelta(seconds=5)
    condition = Condition(
        type="Attested",
        status="False",
        reason=reason,
        message="it lies",
        last_transition_time=timestamp(tried + timedelta(seconds=seconds)),
    )
    step = look(TRIAL, proven(OLD, at=tried - PATIENCE), attested=condition, tried=tried)
    assert isinstance(step, Refuse) is refused
    if isinstance(step, Refuse):
        assert step.refusal.reason == reason
        assert NEW in step.refusal.message
        assert "it lies" in step.refusal.message


def test_what_was_proven_until_the_start_is_no_reason_to_refuse() -> None:
    before = proven(OLD)
    assert isinstance(look(TRIAL, before, tried=NOW, outdated=before), AwaitEvidence)


def test_expired_evidence_and_vouching_count_for_nothing() -> None:
    tried = NOW - timedelta(seconds=5)
    assert isinstance(look(TRIAL, proven(NEW, minutes=0), tried=tried), AwaitEvidence)
    vouched = proven(NEW).model_copy(update={"tier": "GatewayVouched"})
    assert isinstance(look(TRIAL, vouched, tried=tried), AwaitEvidence)


def test_patience_ends() -> None:
    step = look(TRIAL, proven(OLD, at=NOW - timedelta(hours=1)), tried=NOW - PATIENCE)
    assert isinstance(step, Refuse)
    assert step.refusal.reason == FlashReason.NO_EVIDENCE
    assert OLD in step.refusal.message


def test_a_device_that_proves_nothing_is_believed_that_it_runs_the_image_where_that_is_enough() -> None:
    runs = Installed(slots=(Slot(measurement=NEW, active=True, confirmed=True),))
    assert look(TRIAL, proves=False, proven=False) == Confirm()
    assert look(runs, proves=False, proven=False) == Kept()
    for installed in (TRIAL, runs):
        step = look(installed, proves=False)
        assert isinstance(step, Refuse)
        assert step.refusal.reason == FlashReason.CANNOT_ATTEST


@pytest.mark.parametrize("pending", [False, True])
def test_what_is_in_a_device_already_is_checked_as_what_is_written_into_it(pending: bool) -> None:
    holds = Mcuboot(secondary=NEW, pending=pending).installed()
    assert look(holds) == Admit()
    assert look(holds, admitted=True) == Try()


def test_a_device_is_not_told_twice_while_it_restarts() -> None:
    marked = Mcuboot(secondary=NEW, pending=True).installed()
    assert look(marked, tried=NOW, trials=1) == AwaitRestart()
    assert look(marked, tried=NOW - timedelta(seconds=6), trials=1) == Try()


def test_an_image_that_went_back_has_a_second_chance_and_no_third() -> None:
    back = Mcuboot(secondary=NEW).installed()
    assert look(back, tried=NOW, trials=1) == Try()
    step = look(back, tried=NOW, trials=2)
    assert isinstance(step, Refuse)
    assert step.refusal.reason == FlashReason.NOT_STARTED


def test_what_cannot_go_back_is_said_to_be_stuck() -> None:
    runs = Installed(slots=(Slot(version="1.1.0", active=True, confirmed=True),), application="weather")
    step = look(runs, proven(OLD), can=FIELDED, written=True, tried=NOW - timedelta(seconds=1), trials=1)
    assert isinstance(step, Refuse)
    assert look(runs, proven(OLD), can=FIELDED, refusal=step.refusal) == Stuck(step.refusal)


def test_a_device_without_trials_that_still_runs_the_old_version_did_not_take_the_image() -> None:
    old = Installed(slots=(Slot(version="1.0.0", active=True, confirmed=True),), application="weather")
    step = look(old, can=FIELDED, written=True, tried=NOW, trials=1, proves=False)
    assert isinstance(step, Refuse)
    assert look(old, can=FIELDED, refusal=step.refusal, proves=False) == Back(step.refusal)


def test_a_boot_loader_alone_gets_the_image() -> None:
    assert look(Installed(slots=())) == Write()


def test_a_refusal_stands_whatever_is_seen_later() -> None:
    refusal = Refusal(FlashReason.STOPPED, "told to stop")
    assert look(TRIAL, proven(NEW), refusal=refusal, tried=NOW) == Revert()
