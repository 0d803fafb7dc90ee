"""Managers, API servers, nodes and runners that die in the middle of a rollout: it goes on, and the status is true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crds.kube.client import Kube
from crds.models.flash_report import FlashState
from scripts.testbed.cluster import Cluster
from tests.flash_controller.rollouts.site import NODE, POLICY, Site, Status, flashes, says, states, until
from tests.flash_controller.rollouts.stand_in.__main__ import STATES

pytestmark = pytest.mark.control_plane


def prepare(site: Site) -> tuple[list[str], dict[FlashState, Path]]:
    """A device held at each stage, and one whose turn has not come."""
    site.firmware()
    gates = {state: site.gate(f"at-{state.lower()}", state) for state in STATES}
    names = [*(f"at-{state.lower()}" for state in STATES), "waiting"]
    for name in names:
        site.leaf(name)
    site.roll_out(devices=names, strategy={"batchSize": len(STATES)})
    return names, gates


def at_their_gates(status: Status) -> bool:
    found = states(status)
    return all(found[f"at-{state.lower()}"] == state for state in STATES)


async def test_a_manager_that_is_killed_begins_nothing_twice_and_forgets_nothing(site: Site) -> None:
    names, gates = prepare(site)
    with site.kubelet():
        with site.manager() as first:
            await site.until(at_their_gates)
            first.kill()
        gates["Downloading"].unlink()
        gates["Attesting"].unlink()  # these end while nobody looks
        with site.manager():
            await site.until(lambda status: status.counts.confirmed == 2)
            for state in ("Writing", "TestBoot"):
                gates[state].unlink()
            status = await site.finished()
            await site.until_idle("waiting")
    assert {each.name: (each.state, each.attempts) for each in status.devices} == dict.fromkeys(names, ("Confirmed", 1))
    assert len(site.jobs()) == len(names)


async def test_an_api_server_that_is_killed_at_every_stage_delays_and_changes_nothing(
    start_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = start_cluster()
    cluster.add_node(NODE)
    cluster.apply([POLICY, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "site"}}])
    async with await Kube.connect(kubeconfig=cluster.kubeconfig) as kube:
        site = Site(cluster, kube, "site", tmp_path)
        names, gates = prepare(site)
        with site.kubelet(), site.manager():
            await site.until(at_their_gates)
            cluster.kill_apiserver()
            for gate in gates.values():
                gate.unlink()
            cluster.restart_apiserver()
            status = await site.finished(limit=120)
            for name in names:
                await site.until_idle(name)
    assert states(status) == dict.fromkeys(names, "Confirmed")
    assert says(status)["Succeeded"] == "True/Confirmed"


async def test_a_node_that_starts_anew_loses_its_runners_and_the_next_attempt_takes_the_device_over(site: Site) -> None:
    site.firmware()
    site.leaf("t-1")
    gate = site.gate("t-1", "Writing")
    site.roll_out(devices=["t-1"])
    with site.manager():
        with site.kubelet() as node:
            await site.until(lambda status: states(status)["t-1"] == "Writing")
            node.kill()
        gate.unlink()
        with site.kubelet():
            status = await site.finished()
    one = flashes(status)["t-1"]
    assert (one.state, one.attempts) == ("Confirmed", 2)


async def test_an_attempt_that_takes_too_long_is_stopped_and_fails(site: Site) -> None:
    site.firmware()
    site.leaf("gone", "Hang")
    site.leaf("next")
    site.roll_out(devices=["gone", "next"], strategy={"canary": {"count": 1}}, deviceTimeoutSeconds=10, retries=0)
    with site.at_work():
        status = await site.until(lambda status: says(status)["Progressing"] == "False/TooManyFailures")
    assert states(status) == {"gone": "Failed", "next": "Pending"}
    # What the runner says when it is told to stop; a busy machine may not have let it begin.
    assert flashes(status)["gone"].reason in ("Stopped", "DeviceTimeout")


async def test_a_rollout_that_is_deleted_takes_its_jobs_along(site: Site) -> None:
    site.firmware()
    site.leaf("t-1", "Hang")
    site.roll_out(devices=["t-1"])
    with site.at_work():
        await site.until(lambda status: states(status)["t-1"] == "Writing")
        site.delete("roll")
        await until(lambda: not site.jobs())
        await site.until_idle("t-1")


async def test_a_manager_that_was_away_ends_the_jobs_of_a_rollout_that_was_deleted_meanwhile(site: Site) -> None:
    site.firmware()
    site.leaf("t-1", "Hang")
    site.roll_out(devices=["t-1"])
    with site.kubelet():
        with site.manager() as first:
            await site.until(lambda status: states(status)["t-1"] == "Writing")
            first.kill()
        site.delete("roll")
        with site.manager():
            await until(lambda: not site.jobs())
            await site.until_idle("t-1")
