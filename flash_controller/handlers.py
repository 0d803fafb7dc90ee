"""What the manager of firmware watches."""

from __future__ import annotations

from crds.kube.client import Kube
from crds.kube.manager import Manager
from flash_controller.settings import FlashSettings


async def build(kube: Kube, settings: FlashSettings) -> Manager:
    """Kinds and queues of this manager."""
    return Manager(watched=(), followed=(), work=())
