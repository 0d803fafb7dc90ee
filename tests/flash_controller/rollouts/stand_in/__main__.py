"""Takes the device's Lease, reports every state, and ends as an annotation of the LeafDevice says, attempt by attempt.

`Confirmed`, `RolledBack`, `Failed` are final reports; `Retry` is one that failed and may go better; `Die` ends without
a report, `Hang` never ends. A file `<device>.<state>` in the folder of gates holds it there.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crds.conditions import timestamp
from crds.kube.client import Kube
from crds.models.flash_report import FlashReport, FlashState
from crds.models.leafdevice import LeafDevice
from flash_controller.adapters.device_lease import Busy, DeviceLease, holder_of

OUTCOMES = "test.fluidos.eu/outcomes"
GATES = "TEST_GATES"
STATES: tuple[FlashState, ...] = ("Downloading", "Writing", "TestBoot", "Attesting")
SIZE = 1000


def clock() -> datetime:
    return datetime.now(UTC)


def wait_at(gate: Path) -> None:
    while gate.exists():
        time.sleep(0.02)


class Attempt:
    def __init__(self, flags: argparse.Namespace, kube: Kube) -> None:
        self.flags = flags
        holder = holder_of(flags.rollout_uid, flags.attempt)
        self.lease = DeviceLease(kube, namespace=flags.namespace, device=flags.device, holder=holder, clock=clock)

    def report(self, state: FlashState, **more: Any) -> FlashReport:
        return FlashReport(
            state=state,
            goal=self.flags.goal,
            total_bytes=SIZE,
            rollout_uid=self.flags.rollout_uid,
            attempt=self.flags.attempt,
            time=timestamp(clock()),
            **more,
        )

    async def run(self, outcome: str) -> int:
        """The exit code."""
        try:
            await self.lease.acquire(self.report("Downloading"))
        except Busy:
            return 1
        for number, state in enumerate(STATES):
            await self.lease.say(self.report(state, bytes=SIZE * number // len(STATES)))
            await asyncio.to_thread(wait_at, Path(os.environ[GATES], f"{self.flags.device}.{state}"))
            if state == "Writing" and outcome == "Die":
                os._exit(9)
            if state == "Writing" and outcome == "Hang":
                await asyncio.Event().wait()
        if outcome == "Retry":
            await self.conclude("Failed", reason="LinkLost", message="the link went away", retryable=True)
        elif outcome == "Failed":
            await self.conclude("Failed", reason="NotSigned", message="no key of the policy signed it")
        elif outcome == "Confirmed" and self.flags.goal == "RollBack":
            await self.conclude("RolledBack", reason="RolledBack")
        elif outcome == "RolledBack":
            await self.conclude("RolledBack", reason="OtherImageRuns", message="it attested the old image")
        else:
            await self.conclude("Confirmed", reason="Confirmed", bytes=SIZE)
        return 0 if outcome == "Confirmed" else 1

    async def conclude(self, state: FlashState, **more: Any) -> None:
        await self.lease.conclude(self.report(state, **more))


async def main() -> int:
    parser = argparse.ArgumentParser()
    for flag in ("namespace", "rollout", "rollout-uid", "device", "goal", "firmware", "digest"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    flags, _ = parser.parse_known_args()
    async with await Kube.connect(kubeconfig=Path(os.environ["FLUIDOS_EDGE_KUBECONFIG"])) as kube:
        leaf = await kube.get(LeafDevice, flags.device, namespace=flags.namespace)
        assert leaf is not None
        outcomes = leaf.metadata.annotations.get(OUTCOMES, "Confirmed").split()
        attempt = Attempt(flags, kube)
        running = asyncio.create_task(attempt.run(outcomes[min(flags.attempt, len(outcomes)) - 1]))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        try:
            return await running
        except asyncio.CancelledError:
            await attempt.conclude("Failed", reason="Stopped", message="told to stop", retryable=True)
            return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
