"""What must hold before a device is touched, each with its own reason: decided on values, after they were read."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from crds.conditions import parse_timestamp
from crds.errors import Retryable, Terminal
from crds.models.firmware import BoardImage, Firmware, Release
from crds.models.flash_report import Lack
from crds.models.leafdevice import LeafDevice, Update
from crds.models.trust import Trust
from flash_controller.domain.catalog import READY
from flash_controller.domain.flash import CANNOT_ATTEST
from flash_controller.domain.images import Image
from flash_controller.domain.selection import not_newer
from flash_controller.protocols.base import Capabilities, Installed
from flash_controller.reasons import FirmwareReason, FlashReason

Attestation = Literal["Required", "Optional"]
Policy = Literal["OnlyNewer", "Always"]
FORBIDDEN: Final = (FirmwareReason.PLAIN_HTTP, FirmwareReason.REPOSITORY_REFUSED)


def way_to(leaf: LeafDevice) -> Update:
    """How firmware gets into a device.

    Raises:
        Terminal: it does not.
    """
    if leaf.spec.update is None:
        raise Terminal("the LeafDevice has no spec.update", reason=FlashReason.NO_UPDATE_PATH)
    return leaf.spec.update


def proves(leaf: LeafDevice) -> bool:
    """Whether a device has an identity to attest with, and not a certificate that anybody can make."""
    trust = leaf.status.trust if leaf.status else None
    return leaf.spec.ueid is not None and (trust is None or trust.tier != "Legacy")


def release_for(firmware: Firmware, digest: str) -> Release:
    """The release that is to be flashed, which the catalog has verified, or takes unsigned by the operator's policy.

    Raises:
        Retryable: the catalog has not looked at what the Firmware says now.
        Terminal: the catalog has none of this digest, does not take it any more, or may not ask where it comes from.
    """
    status = firmware.status
    if status is not None and status.observed_generation != firmware.metadata.generation:
        raise Retryable(f"the Firmware {firmware.metadata.name} has changed, and the catalog has not looked at it yet")
    # What was found stays while a policy forbids to ask again; nothing is pulled from there by us either.
    forbidden = next((each for each in status.conditions if each.reason in FORBIDDEN), None) if status else None
    if forbidden is not None:
        raise Terminal(f"the Firmware {firmware.metadata.name}: {forbidden.message}", reason=FlashReason.NOT_READY)
    release = status.release(digest) if status else None
    ready = next((each for each in status.conditions if each.type == READY), None) if status else None
    if status is None or release is None:
        raise Terminal(f"the Firmware {firmware.metadata.name} has no {digest}", reason=FlashReason.NOT_READY)
    # What was current before is there because its signature still counts.
    if digest == status.digest and (ready is None or ready.status != "True"):
        said = f"{ready.reason} {ready.message}".strip() if ready else "nothing"
        raise Terminal(f"the Firmware {firmware.metadata.name} is not ready: {said}", reason=FlashReason.NOT_READY)
    return release


def part_for(leaf: LeafDevice, release: Release) -> BoardImage:
    """The board's part of a release.

    Raises:
        Terminal: it has none.
    """
    part = release.image_for(leaf.spec.board.name)
    if part is None:
        boards = ", ".join(each.board for each in release.boards) or "no board"
        message = f"the index has {boards}, not {leaf.spec.board.name or '(unnamed)'}"
        raise Terminal(message, reason=FlashReason.NO_SUCH_BOARD)
    return part


def check_image(image: Image, *, release: Release, part: BoardImage, trust: Trust | None) -> None:
    """Compare an image with what the catalog says of it and with the device.

    Args:
        image: what it says of itself.
        release: as the catalog has it.
        part: of it, for the board.
        trust: what the device proved last.

    Raises:
        Terminal: it is not for this device.
    """
    if not image.fits(part.board):
        made_for = image.chip or "another board"
        raise Terminal(f"the image is made for {made_for}, not {part.board}", reason=FlashReason.WRONG_BOARD)
    if part.measurement is not None and image.measurement != part.measurement:
        message = f"the index says measurement {part.measurement}, the image has {image.measurement}"
        raise Terminal(message, reason=FlashReason.WRONG_MEASUREMENT)
    if image.application not in (None, release.application):
        message = f"the index says application {release.application}, the image {image.application}"
        raise Terminal(message, reason=FlashReason.WRONG_APPLICATION)
    counter = trust.firmware.security_counter if trust and trust.firmware else None
    if counter is not None and (image.security_counter or 0) < counter:
        message = f"the device's security counter is {counter}, the image's {image.security_counter}"
        raise Terminal(message, reason=FlashReason.COUNTER_TOO_LOW)


def check_device(
    installed: Installed,
    trust: Trust | None,
    *,
    release: Release,
    part: BoardImage,
    attestation: Attestation,
    policy: Policy,
    proving: bool,
    now: datetime,
) -> None:
    """Whether the device is what it is taken for, and needs the release.

    Args:
        installed: what it says.
        trust: what it proved last.
        release: that it shall get.
        part: of it.
        attestation: whether it must have proven what it says.
        policy: whether it must be older.
        proving: whether it can prove anything.
        now: the time.

    Raises:
        Terminal: it is not to be touched.
    """
    if proving:
        _check_evidence(installed, trust, now=now)
    elif attestation == "Required":
        raise Terminal(CANNOT_ATTEST, reason=FlashReason.CANNOT_ATTEST)
    if policy == "OnlyNewer" and _application(installed, trust) == release.application:
        version = installed.active.version if installed.active else ""
        version = version or (trust.firmware.version if trust and trust.firmware else "")
        if not_newer(part.version or release.version, version):
            message = f"the device runs {version}, and {part.version or release.version} is not newer"
            raise Terminal(message, reason=FlashReason.NOT_NEWER)


def lacks(can: Capabilities, *, proving: bool) -> tuple[Lack, ...]:
    """What nobody promises for this device."""
    has: dict[Lack, bool] = {
        "Signature": can.signed,
        "Revert": can.reverts,
        "Resume": can.resumes,
        "Confirmation": can.confirms,
        "Attestation": proving,
    }
    return tuple(lack for lack, there in has.items() if not there)


def _check_evidence(installed: Installed, trust: Trust | None, *, now: datetime) -> None:
    expires = parse_timestamp(trust.expiration_time or "") if trust else None
    if trust is None or trust.tier != "Attested" or trust.firmware is None or expires is None or expires <= now:
        tier = trust.tier if trust else "None"
        raise Terminal(f"the device is {tier}, and has proven nothing that counts now", reason=FlashReason.NOT_ATTESTED)
    active = installed.active
    if active is not None and active.measurement and active.measurement != trust.firmware.measurement:
        message = f"the device says {active.measurement}, and has proven {trust.firmware.measurement}"
        raise Terminal(message, reason=FlashReason.NOT_ATTESTED)


def _application(installed: Installed, trust: Trust | None) -> str:
    return installed.application or (trust.application if trust else "")
