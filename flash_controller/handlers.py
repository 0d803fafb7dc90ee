"""What the manager of firmware watches."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial

from crds.kube.client import Kube
from crds.kube.manager import Followed, Manager
from crds.kube.watch import Change
from crds.models.firmware import Firmware
from crds.models.firmwarerollout import FirmwareRollout
from crds.models.leafdevice import LeafDevice
from flash_controller.adoption import Adoption
from flash_controller.catalog import Catalog
from flash_controller.rolling import Rollouts
from flash_controller.settings import FlashSettings


async def build(kube: Kube, settings: FlashSettings) -> Manager:
    """Kinds and queues of this manager."""
    catalog = Catalog(kube, namespace=settings.namespace, clock=_clock, monotonic=time.monotonic)
    rollouts = Rollouts(kube, settings.runner, _clock)

    def firmware_seen(change: Change) -> None:
        catalog.firmware_seen(change)
        rollouts.firmware_seen(change)

    adoption = Adoption(kube, clock=_clock, plain_http=lambda: catalog.plain_http)
    followed = (
        Followed(Firmware.crd, firmware_seen),
        Followed(LeafDevice.crd, rollouts.leaf_seen),
        Followed(FirmwareRollout.crd, rollouts.rollout_seen),
    )
    roll_out = partial(rollouts.run, [each.synced for each in followed])
    return Manager(
        watched=(),
        followed=followed,
        work=(catalog.queue.run, catalog.run_policy, roll_out, *((adoption.run,) if settings.adopt else ())),
    )


def _clock() -> datetime:
    return datetime.now(UTC)
