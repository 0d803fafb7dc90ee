"""What must hold before a device is touched."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from crds.conditions import timestamp
from crds.errors import Retryable, Terminal
from crds.models.base import Condition, ObjectMeta
from crds.models.firmware import BoardImage, Firmware, FirmwareSpec, FirmwareStatus, Release
from flash_controller.domain.images import Format, Image, read_image
from flash_controller.domain.preflight import check_device, check_image, lacks, release_for
from flash_controller.protocols.base import Capabilities, Installed, Slot
from flash_controller.reasons import FlashReason
from tests.flash_controller.firmware import esp_idf
from tests.flash_controller.test_flash_steps import NEW, NOW, OLD, proven

DIGEST, EARLIER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def part(**said: Any) -> BoardImage:
    given: dict[str, Any] = {"board": "esp32s3", "format": "Binary", "measurement": NEW, "version": "1.1.0"}
    return BoardImage(manifest_digest=DIGEST, digest=DIGEST, size_bytes=1, **(given | said))


RELEASE = Release(digest=DIGEST, application="weather", version="1.1.0", boards=(part(),))
RUNS_OLD = Installed(slots=(Slot(measurement=OLD, version="1.0.0", active=True, confirmed=True),))


def firmware(*, ready: bool = True) -> Firmware:
    condition = Condition(
        type="Ready",
        status="True" if ready else "False",
        reason="NotTrusted",
        message="no key",
        last_transition_time=timestamp(NOW),
    )
    status = FirmwareStatus(
        digest=DIGEST,
        application="weather",
        conditions=(condition,),
        history=(Release(digest=EARLIER, application="weather", signed_by="maker"),),
    )
    spec = FirmwareSpec(repository="registry.test/weather", tag="latest")
    return Firmware(metadata=ObjectMeta(name="weather", namespace="site"), spec=spec, status=status)


def refused(check: Any, *given: Any, **said: Any) -> str:
    with pytest.raises(Terminal) as error:
        check(*given, **said)
    return error.value.reason


def test_only_what_the_catalog_takes_is_flashed() -> None:
    assert release_for(firmware(), DIGEST).digest == DIGEST
    assert refused(release_for, firmware(ready=False), DIGEST) == FlashReason.NOT_READY
    assert refused(release_for, firmware(), "sha256:" + "9" * 64) == FlashReason.NOT_READY
    assert refused(release_for, firmware().model_copy(update={"status": None}), DIGEST) == FlashReason.NOT_READY


def test_what_was_verified_before_is_there_for_rolling_back() -> None:
    assert release_for(firmware(ready=False), EARLIER).digest == EARLIER


def test_nothing_is_pulled_by_a_spec_that_the_catalog_has_not_looked_at_or_may_not_follow() -> None:
    known = firmware()
    changed = known.model_copy(update={"metadata": known.metadata.model_copy(update={"generation": 2})})
    with pytest.raises(Retryable, match="has changed"):
        release_for(changed, EARLIER)
    assert known.status is not None
    for reason in ("PlainHTTP", "RepositoryRefused"):
        forbidden = known.status.conditions[0].model_copy(update={"type": "Resolved", "reason": reason})
        status = known.status.model_copy(update={"conditions": (*known.status.conditions, forbidden)})
        for digest in (DIGEST, EARLIER):
            assert refused(release_for, known.model_copy(update={"status": status}), digest) == FlashReason.NOT_READY


def image(**said: Any) -> Image:
    return Image(**({"format": Format.BINARY, "measurement": NEW} | said))


def check(read: Image, *, counter: int | None = None) -> None:
    trust = proven(OLD)
    assert trust.firmware is not None
    trust = trust.model_copy(update={"firmware": trust.firmware.model_copy(update={"security_counter": counter})})
    check_image(read, release=RELEASE, part=part(), trust=trust)


def test_an_image_is_compared_with_board_index_and_counter() -> None:
    check(image())
    check(image(security_counter=4, chip="esp32s3", application="weather"), counter=4)
    assert refused(check, image(chip="esp32c6")) == FlashReason.WRONG_BOARD
    assert refused(check, image(measurement=OLD)) == FlashReason.WRONG_MEASUREMENT
    assert refused(check, image(application="other")) == FlashReason.WRONG_APPLICATION
    assert refused(check, image(security_counter=3), counter=4) == FlashReason.COUNTER_TOO_LOW
    assert refused(check, image(), counter=4) == FlashReason.COUNTER_TOO_LOW


def test_a_real_image_for_another_chip_is_told_by_its_header() -> None:
    read = read_image(esp_idf(chip=13))
    assert refused(check, read) == FlashReason.WRONG_BOARD


def look(**said: Any) -> None:
    given: dict[str, Any] = {"installed": RUNS_OLD, "trust": proven(OLD), "proving": True, "policy": "OnlyNewer"}
    given |= {"attestation": "Required", "now": NOW} | said
    check_device(given.pop("installed"), given.pop("trust"), release=RELEASE, part=part(), **given)


def test_evidence_must_be_there_and_of_what_runs() -> None:
    look()
    later = datetime(2026, 11, 22, tzinfo=UTC)
    assert refused(look, trust=None) == FlashReason.NOT_ATTESTED
    assert refused(look, now=later) == FlashReason.NOT_ATTESTED
    assert refused(look, trust=proven(NEW)) == FlashReason.NOT_ATTESTED
    vouched = proven(OLD).model_copy(update={"tier": "GatewayVouched"})
    assert refused(look, trust=vouched) == FlashReason.NOT_ATTESTED
    # Optional is for boards that cannot attest, not for those that do not.
    assert refused(look, trust=None, attestation="Optional") == FlashReason.NOT_ATTESTED


def test_a_board_that_cannot_attest_needs_leave() -> None:
    assert refused(look, proving=False, trust=None) == FlashReason.CANNOT_ATTEST
    look(proving=False, trust=None, attestation="Optional")


@pytest.mark.parametrize("version", ["1.1.0", "1.2.0"])
def test_only_newer_means_newer_of_the_same_application(version: str) -> None:
    runs = Installed(slots=(Slot(measurement=OLD, version=version, active=True, confirmed=True),))
    assert refused(look, installed=runs) == FlashReason.NOT_NEWER
    look(installed=runs, policy="Always")
    look(installed=runs, trust=proven(OLD, application="another"))


def test_what_nobody_promises_is_told() -> None:
    assert lacks(Capabilities(), proving=False) == ("Signature", "Revert", "Resume", "Confirmation", "Attestation")
    everything = Capabilities(signed=True, resumes=True, test_boots=True, confirms=True, reverts=True, measures=True)
    assert lacks(everything, proving=True) == ()
