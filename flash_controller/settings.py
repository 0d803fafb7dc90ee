"""Flags of the manager of firmware."""

from __future__ import annotations

from crds.kube.manager import ManagerSettings
from spire.workload import IdentitySettings


class FlashSettings(IdentitySettings, ManagerSettings):
    """`python -m flash_controller`."""
