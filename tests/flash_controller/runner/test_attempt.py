"""An attempt from its first look at the device to its report."""

from __future__ import annotations

import pytest

from tests.flash_controller.runner.bench import Bench, image, powered

pytestmark = pytest.mark.control_plane


async def test_a_device_is_flashed_tried_proven_and_confirmed(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        before = board.runs
        await own.offer(image("1.1.0"))
        report = await own.flash()
        assert (report.state, report.reason) == ("Confirmed", "Confirmed"), report
        assert board.runs != before
        assert board.flash.state.confirmed
        assert board.flash.state.swap is None
        assert report.bytes == report.total_bytes > 60_000
        assert report.before is not None
        assert report.before.measurement == before
        assert report.lacks == ()
