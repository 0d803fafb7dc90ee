"""What the manager of firmware watches."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from crds.kube.client import Kube
from crds.kube.manager import Followed, Manager
from crds.models.firmware import Firmware
from flash_controller.catalog import Catalog
from flash_controller.settings import FlashSettings


async def build(kube: Kube, settings: FlashSettings) -> Manager:
    """Kinds and queues of this manager."""
    catalog = Catalog(kube, namespace=settings.namespace, clock=lambda: datetime.now(UTC), monotonic=time.monotonic)
    return Manager(
        watched=(),
        followed=(Followed(Firmware.crd, catalog.firmware_seen),),
        work=(catalog.queue.run, catalog.run_policy),
    )
