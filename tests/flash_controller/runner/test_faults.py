"""Whatever breaks in the middle: the device ends on a confirmed image, and what is reported is true."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flash_controller.domain.images import read_image
from scripts.testbed.cluster import Cluster
from spire.helper.api import serve
from spire.helper.held import Granted, Held, Latest
from tests.flash_controller.runner.bench import Bench, bench, image, powered
from tests.flash_controller.runner.board import Board
from tests.flash_controller.runner.test_attempt import kept, said
from tests.flash_controller.runner.wire import wire
from tests.relay.support import until

pytestmark = pytest.mark.control_plane
OLD, NEW = "1.0.0", "1.1.0"
ERASING, UPLOADING, SWAPPING = 100_000, 550_000, 800_000


@asynccontextmanager
async def offered(own: Bench) -> AsyncIterator[Board]:
    async with powered(own, runs=image(OLD)) as board:
        await own.offer(image(NEW))
        yield board


@pytest.mark.parametrize("written", [ERASING, UPLOADING, SWAPPING])
async def test_a_power_cut_costs_time_and_nothing_else(own: Bench, written: int) -> None:
    async with offered(own) as board:
        board.flash.power = written
        report = await own.flash()
        assert said(report) == ("Confirmed", "Confirmed"), report
        assert board.cuts == 1
        assert kept(board, NEW)


async def test_a_reset_in_the_trial_is_no_verdict(own: Bench) -> None:
    async with offered(own) as board:
        board.started = lambda: len(board.boots) == 2
        report = await own.flash()
        assert said(report) == ("Confirmed", "Confirmed"), report
        old, new = (read_image(image(version)).measurement for version in (OLD, NEW))
        assert board.boots == [old, new, old, new]


@pytest.mark.parametrize("frames", [2, 20, 45])
async def test_a_link_that_is_cut_is_leased_again(own: Bench, frames: int) -> None:
    async with offered(own) as board, wire(urlsplit(own.station.url).port or 0) as between:
        own.flags["agent"] = f"https://127.0.0.1:{between.port}"
        seen: list[bytes] = []

        def drop(frame: bytes) -> bool:
            seen.append(frame)
            if len(seen) in {frames, frames + 7}:
                between.cut()
                return True
            return False

        board.dropped = drop
        report = await own.flash()
        assert said(report) == ("Confirmed", "Confirmed"), report
        assert between.cuts
        assert kept(board, NEW)


async def test_told_to_stop_while_it_writes_it_leaves_everything_as_it_was(own: Bench) -> None:
    stop = asyncio.Event()
    async with offered(own) as board:

        def drop(_: bytes) -> bool:
            if board.written > 20_000:
                stop.set()
            return stop.is_set()

        board.dropped = drop
        report = await own.flash(stop=stop)
        assert said(report) == ("Failed", "Stopped"), report
        assert report.retryable
        assert len(board.boots) == 1
        board.dropped = lambda _: False
        assert said(await own.flash()) == ("Confirmed", "Confirmed")


async def test_told_to_stop_in_the_trial_it_brings_the_device_back(own: Bench) -> None:
    stop = asyncio.Event()
    async with offered(own) as board:
        board.mute = True

        def started() -> bool:
            if len(board.boots) == 2:
                stop.set()
            return False

        board.started = started
        report = await own.flash(stop=stop)
        assert said(report) == ("Failed", "Stopped"), report
        assert "runs what it ran before" in report.message
        assert len(board.boots) == 3
        assert kept(board, OLD)


@asynccontextmanager
async def process(own: Bench, folder: Path, kubeconfig: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A runner of its own."""
    own.attempts += 1
    identity = own.station.identity("/runner/edge-1").current
    async with serve(folder / "identity" / "api.sock", Latest[Held](Granted(identity))):
        flags: dict[str, Any] = own.settings().model_dump(exclude_none=True) | {
            "kubeconfig": kubeconfig,
            "identity_socket": folder / "identity" / "api.sock",
        }
        words = [
            word
            for name, value in flags.items()
            if not isinstance(value, bool)
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        child = await asyncio.create_subprocess_exec(sys.executable, "-m", "flash_controller.runner", *words)
        try:
            yield child
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()


def hold_writing(board: Board) -> Callable[[], None]:
    board.dropped = lambda _: board.written > 20_000

    def release() -> None:
        board.dropped = lambda _: False

    return release


def hold_trying(board: Board) -> Callable[[], None]:
    board.dropped = lambda _: len(board.boots) == 2
    return lambda: setattr(board, "dropped", lambda _: False)


def hold_attesting(board: Board) -> Callable[[], None]:
    board.mute = True
    return lambda: setattr(board, "mute", False)


@pytest.mark.parametrize(
    ("state", "hold"), [("Writing", hold_writing), ("TestBoot", hold_trying), ("Attesting", hold_attesting)]
)
async def test_the_attempt_after_a_killed_one_goes_on(
    own: Bench, cluster: Cluster, tmp_path: Path, state: str, hold: Callable[[Board], Callable[[], None]]
) -> None:
    kubeconfig = cluster.service_account_kubeconfig("fluidos", "flash-runner")
    async with offered(own) as board:
        release = hold(board)
        async with process(own, tmp_path, kubeconfig) as runner:
            await own.reported(state)
            if state != "Attesting":
                await until(lambda: board.held, what="a request of the runner")
            runner.send_signal(signal.SIGKILL)
            await runner.wait()
        release()
        await own.change_lease(renewTime="2026-01-01T00:00:00.000000Z")
        if state == "Attesting":
            await board.prove()
        written = board.written
        report = await own.flash()
        assert said(report) == ("Confirmed", "Confirmed"), report
        assert kept(board, NEW)
        assert len(board.boots) == 2
        if state != "Writing":
            assert board.written == written, "what was there is not written again"


async def test_a_device_is_one_attempts_at_a_time(own: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flash_controller.runner.service.API_SECONDS", 1.0)
    async with offered(own) as board:
        release = hold_writing(board)
        first = asyncio.create_task(own.flash())
        await until(lambda: board.held, what="a request of the first")
        report = await own.flash(rollout_uid="uid-2")
        assert report.rollout_uid == "uid-1"
        assert report.state == "Writing"
        release()
        assert said(await first) == ("Confirmed", "Confirmed")


async def test_who_has_lost_the_device_touches_it_no_more(own: Bench) -> None:
    async with offered(own) as board:
        release = hold_writing(board)
        first = asyncio.create_task(own.flash())
        await until(lambda: board.held, what="a request of the first")
        await own.change_lease(holderIdentity="uid-2/1")
        release()
        assert (await first).state == "Writing", "it says nothing any more, either"
        assert len(board.boots) == 1


async def test_an_api_server_that_is_killed_stops_no_flash(
    start_cluster: Callable[..., Cluster], registry: str, tmp_path: Path
) -> None:
    cluster = start_cluster(controllers=False)
    cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "site"}}])
    async with bench(cluster, "site", registry, tmp_path) as own, offered(own) as board:
        killed = False

        def kill(_: bytes) -> bool:
            nonlocal killed
            if board.written > 20_000 and not killed:
                killed = True
                cluster.kill_apiserver()
            return False

        board.dropped = kill
        flashing = asyncio.create_task(own.flash())
        await until(lambda: len(board.boots) == 2, what="the trial")
        await asyncio.to_thread(cluster.restart_apiserver)
        report = await flashing
        assert said(report) == ("Confirmed", "Confirmed"), report
        assert kept(board, NEW)
