"""A real Zephyr on a serial console, from the registry to the confirmed image."""

from __future__ import annotations

from typing import Any

import pytest

from crds.models.leafdevice import Update
from flash_controller.protocols import mcumgr
from scripts.testbed import zephyr
from scripts.testbed.zephyr import Zephyr
from tests.flash_controller.runner.bench import Bench

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(300)]
VERSION = "1.2.3+4"
LIMIT_SECONDS = 240.0


async def test_a_real_device_is_flashed_tried_and_confirmed_by_its_console(
    own: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcumgr, "QUIET_SECONDS", 8.0)  # a busy machine lets the emulated one stand still
    image = zephyr.another_image(zephyr.ensure(), version=VERSION)
    async with Zephyr(own.directory) as device:
        await own.create_leaf(Update(protocol="MCUmgrSerial", address=device.address), ueid=None)
        await own.offer(image)
        # Nobody waits until it has started: the runner finds out by itself, now and after the restart.
        patient: dict[str, Any] = {"attestation": "Optional", "within": LIMIT_SECONDS, "return_seconds": 120}
        report = await own.flash(**patient)
        await device.started(2)
        again = await own.flash(**patient)
    assert (report.state, report.reason, report.lacks) == ("Confirmed", "Confirmed", ("Attestation",)), report
    assert report.before is not None
    assert (report.before.version, report.total_bytes) == ("0.0.0", len(image))
    assert again.state == "Confirmed", again
