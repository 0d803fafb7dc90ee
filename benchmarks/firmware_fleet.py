"""Hundreds of boards in batches: against the time that the boards themselves take, and what the manager costs.

Everything is real but the boards, which take their images as fast as a board with a slow radio does: manager, Jobs,
runners forked by the testbed's kubelet, edge agent, issuer, broker, registry.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.report import Figure
from benchmarks.usage import resident_megabytes
from crds.models.firmwarerollout import FirmwareRollout
from scripts.demo.crew import Crew
from scripts.demo.factory import Boards
from scripts.demo.idle import IDLE, SIZE, WATCHFUL
from scripts.demo.inventory import NAMESPACE
from scripts.demo.repurpose import Act
from scripts.demo.site import Consumer, Provider
from scripts.demo.trust import identify
from scripts.demo.workshop import Workshop
from scripts.testbed.binaries import Binaries
from scripts.testbed.controlplane import ControlPlanes

BYTES_PER_SECOND = 20_000
"""Of a board: what MCUmgr over Bluetooth Low Energy reaches."""
BOOT_SECONDS = 1.0
BATCHES = 4
LIMIT_SECONDS = 1800.0
ACCOUNTS = ("flash-controller", "flash-runner")
WRITES = ("create", "update", "patch", "delete")
PATH = f"/apis/edge.fluidos.eu/v1alpha1/namespaces/{NAMESPACE}/firmwarerollouts"
OWN_SECONDS = SIZE / BYTES_PER_SECOND + BOOT_SECONDS
"""What a board takes for itself."""


def measure(*, boards: int) -> list[Figure]:
    """Flash one board, and then so many, a quarter at a time."""
    with tempfile.TemporaryDirectory(prefix="fb-") as folder, ExitStack() as stack:
        directory = Path(folder)
        planes = stack.enter_context(ControlPlanes(directory / "planes", binaries=Binaries.find()))
        cluster = planes.start_cluster("provider-1", audit=True)
        factory, crew = Boards(directory / "boards"), Crew(directory)
        provider = Provider(cluster, 1, directory=directory, boards=factory, flashes=True)
        provider.prepare()
        identify([provider], crew, boards=factory, limit=LIMIT_SECONDS)
        provider.open_broker(stack)
        stack.callback(crew.stop)
        provider.start(crew, discover=None)
        crew.wait_ready(limit=LIMIT_SECONDS)
        act = Act(
            provider=provider,
            consumer=Consumer(cluster, 1, directory=directory),
            crew=crew,
            boards=factory,
            workshop=Workshop(provider, directory / "workshop", stack=stack),
            directory=directory,
            limit=LIMIT_SECONDS,
            count=boards + 1,
            traits={"flashBytesPerSecond": BYTES_PER_SECOND, "bootMilliseconds": int(BOOT_SECONDS * 1000)},
        )
        act.prepare()
        return _measure(act, boards=boards)


def _measure(act: Act, *, boards: int) -> list[Figure]:
    log = act.provider.cluster.audit_log
    if log is None:
        raise RuntimeError("nothing is audited")
    first, *others = [leaf.metadata.name for leaf in act.running(IDLE)]
    alone, _ = _roll_out(act, "one", [first])
    before = _writes(log)
    seconds, memory = _roll_out(act, "fleet", others)
    ideal = BATCHES * OWN_SECONDS
    return [
        Figure(
            key="ownSecondsOfFlash",
            text="one board: rollout applied until it is finished, without the board's own time, in s",
            value=round(alone - OWN_SECONDS, 3),
            goal=2.0,
            holds="below",
            peer=f"{alone:.1f} s; the board takes {OWN_SECONDS:.1f} s",
        ),
        Figure(
            key="fleetAgainstIdeal",
            text=f"{boards} boards in {BATCHES} batches, times the boards' own time",
            value=round(seconds / ideal, 3),
            goal=2.0,
            holds="below",
            peer=f"{seconds:.1f} s; the boards alone take {ideal:.1f} s",
        ),
        Figure(
            key="managerMegabytes",
            text="the manager's memory, at most",
            value=round(memory, 1),
            goal=150.0,
            holds="below",
        ),
        Figure(
            key="writesPerDevice",
            text="writes of manager and runners to the API server for each board",
            value=round((_writes(log) - before) / boards, 2),
            goal=12.0,
            holds="at most",
        ),
    ]


def _roll_out(act: Act, name: str, devices: list[str]) -> tuple[float, float]:
    """The seconds that it takes, and the most memory that the manager has meanwhile."""
    api, memory = act.provider.cluster.api, 0.0
    manager = act.crew.pid(f"{act.provider.name}-flash-controller")

    def done() -> bool:
        nonlocal memory
        memory = max(memory, resident_megabytes(manager))
        found = FirmwareRollout.parse(api.request("GET", f"{PATH}/{name}")).status
        return found is not None and found.finished_time is not None

    before = len(act.running(WATCHFUL))
    act.provider.cluster.apply([_document(name, devices)])
    began = time.monotonic()
    act.crew.wait(done, what="all boards to be flashed", limit=LIMIT_SECONDS)
    seconds = time.monotonic() - began
    if (flashed := len(act.running(WATCHFUL)) - before) != len(devices):
        raise RuntimeError(f"{flashed} of {len(devices)} boards run what they should")
    return seconds, memory


def _document(name: str, devices: list[str]) -> dict[str, object]:
    return {
        "apiVersion": "edge.fluidos.eu/v1alpha1",
        "kind": "FirmwareRollout",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "firmwareRef": {"name": WATCHFUL.name},
            "devices": {"names": devices},
            "strategy": {"batchSize": -(-len(devices) // BATCHES)},
        },
    }


def _writes(log: Path) -> int:
    """Of the two accounts, so far."""
    users = {f"system:serviceaccount:fluidos:{account}" for account in ACCOUNTS}
    with log.open() as lines:
        events = map(json.loads, lines)
        return sum(each["verb"] in WRITES and each["user"]["username"] in users for each in events)
