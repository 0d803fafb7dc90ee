"""How often a rollout's status is written, and which rollouts are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from crds.models.firmwarerollout import Counts, FirmwareRollout
from crds.models.repurposing import AFTERWARDS
from flash_controller.rolloutstore import WRITE_SECONDS, RolloutStore
from tests.flash_controller.rollouts.site import Site


async def test_progress_is_written_now_and_then_whatever_the_clock_does(site: Site) -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    site.roll_out(devices=["t-1"])
    store = RolloutStore(site.kube, lambda: now)
    held = await store.refresh((site.namespace, "roll"))
    assert held is not None

    async def confirmed(number: int) -> float | None:
        status = held.status.model_copy(update={"counts": Counts(confirmed=number)})
        return await store.write(held, status)

    assert await confirmed(1) is None
    assert await confirmed(2) == WRITE_SECONDS
    now += timedelta(seconds=WRITE_SECONDS)
    assert await confirmed(3) is None
    now -= timedelta(hours=1)
    assert await confirmed(4) is None, "the clock was put back"
    stored = await site.kube.get(FirmwareRollout, "roll", namespace=site.namespace)
    assert stored is not None
    assert stored.status is not None
    assert stored.status.counts.confirmed == 4


def ended(name: str, device: str, *, minute: int, **annotations: str) -> dict[str, Any]:
    """A finished rollout that keeps no history."""
    meta = {"name": name, "namespace": "site", "uid": name, "generation": 1, "annotations": annotations}
    spec = {"firmwareRef": {"name": "wind"}, "devices": {"names": [device]}, "historyLimit": 0}
    status = {"observedGeneration": 1, "finishedTime": f"2026-11-21T12:{minute:02}:00Z"}
    return {"metadata": meta, "spec": spec, "status": status}


def test_what_tells_the_gateway_what_to_bring_back_is_kept_while_it_is_the_devices_newest(site: Site) -> None:
    store = RolloutStore(site.kube, lambda: datetime.now(UTC))
    back = {AFTERWARDS: "thermometer"}
    rollouts = [
        ended("first", "d-1", minute=0, **back),
        ended("own", "d-1", minute=1),
        ended("newest", "d-1", minute=2, **back),
        ended("other", "d-2", minute=3, **back),
        ended("last", "d-3", minute=4),
    ]
    held = [store.take(("site", each["metadata"]["name"]), each) for each in rollouts]
    assert held[-1] is not None
    assert {each.key[1] for each in store.superfluous(held[-1])} == {"first", "own", "last"}
