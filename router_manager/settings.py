"""Flags of the manager of routes."""

from __future__ import annotations

from crds.kube.manager import ManagerSettings
from crds.kube.process import EgressSettings
from spire.workload import IdentitySettings


class RouterSettings(EgressSettings, IdentitySettings, ManagerSettings):
    """`python -m router_manager`."""
