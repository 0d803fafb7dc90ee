"""What comes next for a device that shall run an image: decided by what it holds, runs and proves at this moment.

Hardly anything is decided by what was done before, so that an attempt goes on where a killed one stopped. The order of
things: written beside what runs, started on trial, proven by evidence of that start, confirmed; else back to what was
confirmed before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from crds.conditions import parse_timestamp
from crds.models.base import Condition
from crds.models.trust import Trust
from flash_controller.protocols.base import Capabilities, Installed
from flash_controller.reasons import FlashReason
from spire.domain.errors import Reason

RESTART: Final = timedelta(seconds=5)
"""A device answers before it restarts."""
MAX_TRIALS: Final = 2
"""An image that went back may have met a power cut; one that does so again did not work."""

CANNOT_ATTEST: Final = "the device has no identity to attest with, or a Legacy one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the device shall run, as the index says it, and whether it has to prove that it does."""

    application: str
    version: str
    measurement: str
    proven: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A device now.

    Attributes:
        installed: what it says of itself.
        can: what its protocol can.
        proves: it has an identity to attest with.
        trust: what was proven last.
        attested: the condition of this name, as its appraiser wrote it.
    """

    installed: Installed
    can: Capabilities
    proves: bool
    trust: Trust | None
    attested: Condition | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the device shall not keep the image."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is not to be seen in the device.

    Attributes:
        began: when this attempt first saw it.
        written: by this attempt.
        admitted: what was there already may be started.
        tried: when the image was last started on trial, by this attempt or one before; evidence counts from then on.
        trials: of this attempt.
        outdated: what was proven until then, where that is something else: in the same second there may be more.
        refusal: set as soon as the image is refused.
    """

    began: datetime
    written: bool = False
    admitted: bool = False
    tried: datetime | None = None
    trials: int = 0
    outdated: Trust | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """Bring the image into the device."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Find out whether the device may have it: it is in there already, by whom and when ever."""


@dataclass(frozen=True, slots=True)
class Try:
    """Start it, on trial where that can be."""


@dataclass(frozen=True, slots=True)
class AwaitRestart:
    """It was told to start the image, and has not begun yet: told twice, it would end the trial."""


@dataclass(frozen=True, slots=True)
class AwaitEvidence:
    """Wait for news of the device's trust, at most until then."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not keep it, and go back."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Confirm:
    """Keep it."""


@dataclass(frozen=True, slots=True)
class Revert:
    """One step towards what is confirmed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The device runs the image for good."""


@dataclass(frozen=True, slots=True)
class Back:
    """The device runs for good what it ran before."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Stuck:
    """The device runs for good what it should not."""

    refusal: Refusal


Step = Write | Admit | Try | AwaitRestart | AwaitEvidence | Refuse | Confirm | Revert | Kept | Back | Stuck


def next_step(wanted: Wanted, seen: Seen, course: Course, *, patience: timedelta, now: datetime) -> Step:
    """What to do now.

    Args:
        wanted: what shall run.
        seen: what there is.
        course: what is remembered.
        patience: with a device that runs the image and has not proven it yet.
        now: the time.
    """
    runs = _runs(wanted, seen, course)
    if course.refusal is not None:
        return _go_back(course.refusal, seen, runs=runs)
    if runs:
        return _judge(wanted, seen, course, patience=patience, now=now)
    slot = seen.installed.find(wanted.measurement)
    pending = slot is not None and slot.pending
    if seen.installed.active is not None and not seen.installed.settled and not pending and seen.can.reverts:
        return Revert()  # somebody else's trial: until it has ended, there is no room
    if pending and course.tried is not None and now < course.tried + RESTART:
        return AwaitRestart()
    if course.trials and not pending:
        if not (seen.can.test_boots and slot is not None and course.trials < MAX_TRIALS):
            return Refuse(Refusal(FlashReason.NOT_STARTED, f"the device runs {_said(seen.installed)} again"))
        return Try()
    if slot is None and not course.written:
        return Write()
    return Try() if course.written or course.admitted or course.tried is not None else Admit()


def disagreement(wanted: Wanted, trust: Trust) -> Refusal | None:
    """How what was proven is not what is wanted, if it is not."""
    measured = trust.firmware.measurement if trust.firmware else "nothing"
    if measured != wanted.measurement:
        message = f"expected measurement {wanted.measurement}, the device proved {measured}"
        return Refusal(FlashReason.WRONG_MEASUREMENT, message)
    if trust.application != wanted.application:
        message = f"expected application {wanted.application}, the device's certificate says {trust.application}"
        return Refusal(FlashReason.WRONG_APPLICATION, message)
    return None


def _runs(wanted: Wanted, seen: Seen, course: Course) -> bool:
    """Whether the image runs, as far as the protocol, or else the device's evidence, can tell."""
    active = seen.installed.active
    if active is None:
        return False
    if seen.can.measures:
        return active.measurement == wanted.measurement
    if seen.trust is not None and seen.trust.firmware and seen.trust.firmware.measurement == wanted.measurement:
        return True
    if seen.can.tells_version:
        return (active.version, seen.installed.application or wanted.application) == (
            wanted.version,
            wanted.application,
        )
    return course.tried is not None


def _judge(wanted: Wanted, seen: Seen, course: Course, *, patience: timedelta, now: datetime) -> Step:
    active = seen.installed.active
    keep = Kept() if active is not None and active.confirmed else Confirm()
    if not seen.proves:
        return Refuse(Refusal(FlashReason.CANNOT_ATTEST, CANNOT_ATTEST)) if wanted.proven else keep
    trust = _fresh(wanted, seen.trust, course, now=now)
    if trust is None:
        doubt = _doubt(wanted, seen.attested, course)
        if doubt is not None:
            return Refuse(doubt)
        until = (course.tried or course.began) + patience
        if now < until:
            return AwaitEvidence(until)
        message = f"no new evidence within {patience.total_seconds():g} s, {_proven(seen.trust)}"
        return Refuse(Refusal(FlashReason.NO_EVIDENCE, message))
    refusal = disagreement(wanted, trust)
    return keep if refusal is None else Refuse(refusal)


def _fresh(wanted: Wanted, trust: Trust | None, course: Course, *, now: datetime) -> Trust | None:
    """What was proven since the image was started, if anything was."""
    if trust is None or trust.tier != "Attested" or trust == course.outdated:
        return None
    attested, expires = parse_timestamp(trust.attested_time or ""), parse_timestamp(trust.expiration_time or "")
    if attested is None or (expires is not None and expires <= now):
        return None
    if course.tried is None and disagreement(wanted, trust) is None:
        return trust  # started by somebody who is gone, and proven all the same
    # Status knows whole seconds.
    return trust if attested >= (course.tried or course.began).replace(microsecond=0) else None


def _doubt(wanted: Wanted, attested: Condition | None, course: Course) -> Refusal | None:
    """Why evidence of the started image was not accepted, if it was not; that it ended says nothing about it."""
    if attested is None or attested.status != "False" or attested.reason == Reason.EXPIRED:
        return None
    since = parse_timestamp(attested.last_transition_time)
    if since is None or since < (course.tried or course.began).replace(microsecond=0):
        return None
    message = f"expected measurement {wanted.measurement}, the evidence was refused: {attested.message}"
    return Refusal(attested.reason, message)


def _go_back(refusal: Refusal, seen: Seen, *, runs: bool) -> Step:
    if not runs and seen.installed.settled:
        return Back(refusal)
    if seen.installed.settled or not seen.can.reverts:
        return Stuck(refusal)
    return Revert()


def _said(installed: Installed) -> str:
    active = installed.active
    if active is None:
        return "nothing but its boot loader"
    return " ".join(filter(None, (installed.application, active.version, active.measurement))) or "something"


def _proven(trust: Trust | None) -> str:
    if trust is None or trust.attested_time is None:
        return "nor was there any before"
    measured = trust.firmware.measurement if trust.firmware else "nothing"
    return f"the last is of {trust.attested_time}, for {measured}"
