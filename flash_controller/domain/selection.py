"""Which devices a rollout means, in which batches, and whether one of them needs its firmware."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from crds.errors import InvalidField
from crds.models.firmware import Firmware, Release
from crds.models.firmwarerollout import DeviceFlash, DeviceSelection, FirmwareRollout, Strategy
from crds.models.flash_report import Running
from crds.models.leafdevice import LeafDevice
from flash_controller.domain.versions import Version
from flash_controller.reasons import RolloutReason


@dataclass(frozen=True, slots=True)
class Target:
    """What a device shall be made to run: an index, by the Firmware that it is pulled through."""

    firmware: str
    digest: str
    measurement: str | None = None


@dataclass(frozen=True, slots=True)
class Go:
    """The device can be flashed now."""

    target: Target
    before: Running | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class UpToDate:
    """There is nothing to do."""

    message: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """It never can be."""

    reason: str
    message: str


Judgement = Go | Wait | UpToDate | Unfit


def current(firmware: Firmware | None) -> Release | None:
    """What a Firmware means now, where it is ready to be flashed."""
    status = firmware.status if firmware else None
    ready = status is not None and any(each.type == "Ready" and each.status == "True" for each in status.conditions)
    return status.current if status is not None and ready else None


def measured(firmwares: Iterable[Firmware]) -> dict[str, Target]:
    """Where firmware that somebody runs came from, by its measurement."""
    return {
        image.measurement: Target(firmware.metadata.name, release.digest, image.measurement)
        for firmware in firmwares
        if firmware.status is not None
        for release in reversed(firmware.status.releases)
        for image in release.boards
        if image.measurement is not None
    }


def selected(selection: DeviceSelection, leaves: Iterable[LeafDevice], release: Release) -> tuple[str, ...]:
    """Names of devices, in the order in which they are flashed.

    Names count as they are given. A selector, or a count, takes devices that the firmware has a part for.
    """
    if selection.names is not None:
        return selection.names
    wanted = (selection.selector.match_labels if selection.selector else {}).items()
    fitting = sorted(
        leaf.metadata.name
        for leaf in leaves
        if wanted <= leaf.metadata.labels.items() and release.image_for(leaf.spec.board.name) is not None
    )
    return tuple(fitting[: selection.count])


def in_batches(names: Sequence[str], strategy: Strategy) -> tuple[DeviceFlash, ...]:
    """Every device with the number of its batch, the canary first."""
    canary = strategy.canary
    first = strategy.batch_size
    if canary is not None:
        first = canary.count or ceil(len(names) * (canary.percent or 0) / 100)
    return tuple(
        DeviceFlash(name=name, batch=0 if number < first else 1 + (number - first) // strategy.batch_size)
        for number, name in enumerate(names)
    )


def running(leaf: LeafDevice, known: Mapping[str, Target]) -> Running | None:
    """What a device proved to run, and where to get that again; None where it proved nothing.

    Args:
        leaf: the device.
        known: indexes by the measurements of their images.
    """
    trust = leaf.status.trust if leaf.status else None
    if trust is None or trust.firmware is None:
        return None
    ran = Running(application=trust.application, version=trust.firmware.version, measurement=trust.firmware.measurement)
    return traced(ran, known)


def traced(ran: Running, known: Mapping[str, Target]) -> Running:
    """With the index that it came from, where one is known for its measurement."""
    source = known.get(ran.measurement or "")
    if source is None:
        return ran
    return ran.model_copy(update={"digest": source.digest, "firmware": source.firmware})


def judge(
    rollout: FirmwareRollout,
    flash: DeviceFlash,
    leaf: LeafDevice | None,
    firmware: Firmware | None,
    *,
    known: Mapping[str, Target],
) -> Judgement:
    """Whether a device needs the firmware of a rollout, or that of before, when nobody has spoken to it yet.

    The runner judges again, by what the device and the image itself say.
    """
    if leaf is None:
        return Unfit(RolloutReason.DEVICE_MISSING, "there is no such LeafDevice")
    if flash.goal == "RollBack":
        return _back(flash, known)
    digest = rollout.status.digest if rollout.status else None
    release = _released(firmware, digest) if digest else None
    if release is None:
        name = rollout.spec.firmware_ref.name
        return Wait(RolloutReason.FIRMWARE_NOT_READY, f"the Firmware {name} does not offer {digest}")
    image = release.image_for(leaf.spec.board.name)
    if image is None:
        board = leaf.spec.board.name or "(unnamed)"
        return Unfit(RolloutReason.NO_SUCH_BOARD, f"the index has no part for the board {board}")
    before = running(leaf, known)
    if rollout.spec.policy == "OnlyNewer" and before is not None:
        if before.measurement == image.measurement:
            return UpToDate(f"runs {_named(before)} already")
        if before.application == release.application and not_newer(image.version, before.version):
            return UpToDate(f"runs {_named(before)}, and {image.version} is not newer")
    return Go(Target(rollout.spec.firmware_ref.name, release.digest, image.measurement), before)


def _released(firmware: Firmware | None, digest: str) -> Release | None:
    """What a digest holds, as long as it may be flashed: trust that is withdrawn stops rollouts that have begun."""
    if firmware is None or firmware.status is None:
        return None
    return current(firmware) if firmware.status.digest == digest else firmware.status.release(digest)


def _back(flash: DeviceFlash, known: Mapping[str, Target]) -> Judgement:
    ran = flash.before
    if ran is not None and ran.digest is None:
        ran = traced(ran, known)  # the catalog may have learned of it since
    if ran is None or ran.digest is None or ran.firmware is None:
        return Unfit(RolloutReason.NO_PREVIOUS_FIRMWARE, "the catalog does not know where what it ran came from")
    return Go(Target(ran.firmware, ran.digest, ran.measurement))


def _named(ran: Running) -> str:
    return f"{ran.application} {ran.version}".strip() or "it"


def not_newer(offered: str, present: str) -> bool:
    """Whether versions say so; those that cannot be read say nothing."""
    try:
        return Version.parse(offered) <= Version.parse(present)
    except InvalidField:
        return False
