"""An attempt from its first look at the device to its report."""

from __future__ import annotations

from typing import Any

import pytest

from crds.kube.watch import Change, Put
from crds.models.firmware import Firmware
from crds.models.flash_report import FlashReport
from crds.models.leafdevice import LeafDevice
from flash_controller.domain.images import read_image
from tests.flash_controller.runner.bench import Bench, image, powered
from tests.flash_controller.runner.board import Board
from tests.relay.support import until

pytestmark = pytest.mark.control_plane
OTHER = "0c" * 32


def kept(board: Board, version: str = "1.0.0") -> bool:
    """Whether it runs this version, and for good."""
    state = board.flash.state
    return board.runs == read_image(image(version)).measurement and state.confirmed and state.swap is None


def said(report: FlashReport) -> tuple[str, str]:
    return report.state, report.reason


def given_up(write: Change) -> bool:
    return isinstance(write, Put) and not write.obj["spec"].get("holderIdentity")


async def test_a_device_is_flashed_tried_proven_and_confirmed(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        before = board.runs
        await own.offer(image("1.1.0"))
        async with own.lease_writes() as writes:
            report = await own.flash()
            await until(lambda: writes and given_up(writes[-1]), what="the last write")
        assert said(report) == ("Confirmed", "Confirmed"), report
        assert len(writes) <= 6
        leaf = await own.kube.get(LeafDevice, own.device, namespace=own.namespace)
        assert leaf is not None
        assert isinstance(writes[-1], Put)
        (owner,) = writes[-1].obj["metadata"]["ownerReferences"]
        assert owner["uid"] == leaf.metadata.uid, "it goes with its device"
        assert kept(board, "1.1.0")
        assert report.bytes == report.total_bytes > 60_000
        assert report.before is not None
        assert (report.before.measurement, report.before.version) == (before, "1.0.0")
        assert report.lacks == ()
        # Another attempt finds nothing to do.
        again = await own.flash(policy="Always")
        assert said(again) == ("Confirmed", "Confirmed"), again
        assert len(board.boots) == 2


async def test_a_goal_of_rolling_back_ends_as_rolled_back(own: Bench) -> None:
    async with powered(own, runs=image("1.1.0")) as board:
        await own.offer(image("1.0.0"))
        assert said(await own.flash()) == ("Failed", "NotNewer")
        assert kept(board, "1.1.0")
        report = await own.flash(goal="RollBack", policy="Always")
        assert said(report) == ("RolledBack", "Confirmed"), report
        assert kept(board, "1.0.0")


async def test_a_board_without_an_identity_is_flashed_where_that_is_allowed(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0"), ueid=None) as board:
        await own.offer(image("1.1.0"))
        assert said(await own.flash()) == ("Failed", "CannotAttest")
        report = await own.flash(attestation="Optional")
        assert said(report) == ("Confirmed", "Confirmed"), report
        assert report.lacks == ("Attestation",)
        assert kept(board, "1.1.0")
        assert said(await own.flash()) == ("Failed", "CannotAttest"), "it runs it, and cannot prove that"


async def test_a_device_that_proves_something_else_goes_back(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image("1.1.0"))
        board.claims = {read_image(image("1.1.0")).measurement: OTHER}
        report = await own.flash()
        assert said(report) == ("RolledBack", "WrongMeasurement"), report
        assert OTHER in report.message
        assert read_image(image("1.1.0")).measurement in report.message
        assert kept(board)


async def test_a_device_that_proves_the_old_image_goes_back(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image("1.1.0"))
        board.claims = {read_image(image("1.1.0")).measurement: board.runs}
        report = await own.flash(evidence_seconds=3)
        # Where both proofs are of one second they are the same.
        assert said(report) in {("RolledBack", "WrongMeasurement"), ("RolledBack", "NoEvidence")}, report
        assert board.runs in report.message
        assert kept(board)


async def test_a_device_that_proves_nothing_anew_goes_back(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image("1.1.0"))
        board.mute = True
        report = await own.flash(evidence_seconds=1)
        assert said(report) == ("RolledBack", "NoEvidence"), report
        assert kept(board)


async def test_a_device_that_never_comes_back_is_told_as_lost(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image("1.1.0"))
        board.silent_from = 1
        report = await own.flash(return_seconds=2)
        assert said(report) == ("Failed", "DeviceLost"), report
        assert report.retryable


async def test_an_image_that_hangs_is_told_as_not_started(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image("1.1.0"))
        board.hangs = read_image(image("1.1.0")).measurement
        report = await own.flash()
        assert said(report) == ("RolledBack", "NotStarted"), report
        assert kept(board)


@pytest.mark.parametrize(
    ("reason", "firmware", "offer"),
    [
        ("NotReady", {}, {"conditions": []}),
        ("NoSuchBoard", {"board": "another-board"}, {"board": "another-board"}),
        ("CounterTooLow", {"counter": 0}, {}),
        ("NotNewer", {"version": "0.9.0"}, {}),
        ("NotFound", {}, {"repository": "elsewhere"}),
    ],
)
async def test_a_device_is_not_touched_before_everything_holds(
    own: Bench, reason: str, firmware: dict[str, Any], offer: dict[str, Any]
) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image(**({"version": "1.1.0"} | firmware)), **offer)
        report = await own.flash()
        assert said(report) == ("Failed", reason), report
        assert not report.retryable
        assert (len(board.boots), board.written) == (1, 0)


async def test_an_image_of_another_board_is_told_by_its_header_whatever_the_index_says(
    own: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_controller.domain.composition._check", lambda *_: None)  # a careless maker's tools
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image("1.1.0", board="another-board"))
        report = await own.flash()
        assert said(report) == ("Failed", "WrongBoard"), report
        assert (len(board.boots), board.written) == (1, 0)


async def test_an_image_that_is_in_the_device_already_is_not_started_before_everything_holds(own: Bench) -> None:
    async with powered(own, runs=image("1.1.0")) as board:
        board.flash.erase()
        board.flash.write(0, image("1.0.0"))
        await own.offer(image("1.0.0"))
        assert said(await own.flash()) == ("Failed", "NotNewer")
        board.claims = {board.runs: OTHER}
        await board.prove()
        assert said(await own.flash(policy="Always")) == ("Failed", "NotAttested")
        assert (len(board.boots), board.written) == (1, 0)
        board.claims = {}
        await board.prove()
        assert said(await own.flash(policy="Always")) == ("Confirmed", "Confirmed")
        assert kept(board)
        assert board.written == 0


async def test_a_tag_that_moves_meanwhile_changes_nothing_of_what_was_begun(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image("1.1.0"))
        firmware = await own.kube.get(Firmware, "offered", namespace=own.namespace)
        assert firmware is not None
        assert firmware.status is not None
        moved = {"digest": f"sha256:{0:064}", "history": (firmware.status.current,), "conditions": (), "boards": ()}
        status = firmware.status.model_copy(update=moved).dump()
        await own.kube.apply_status(Firmware, name="offered", namespace=own.namespace, status=status, manager="catalog")
        report = await own.flash()
        assert said(report) == ("Confirmed", "Confirmed"), report
        assert kept(board, "1.1.0")


async def test_old_evidence_and_evidence_of_something_else_stop_it(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image("1.1.0"))
        board.claims = {board.runs: OTHER}
        await board.prove()
        report = await own.flash()
        assert said(report) == ("Failed", "NotAttested"), report
        assert OTHER in report.message
        board.claims = {}
        await board.prove(minutes=-1)
        assert said(await own.flash()) == ("Failed", "NotAttested")
        assert (len(board.boots), board.written) == (1, 0)


async def test_a_registry_that_is_away_is_a_reason_to_try_again(own: Bench) -> None:
    async with powered(own, runs=image("1.0.0")) as board:
        await own.offer(image("1.1.0"), host="127.0.0.1:1")
        report = await own.flash()
        assert (report.state, report.retryable) == ("Failed", True), report
        assert (len(board.boots), board.written) == (1, 0)
