"""Flags of the manager of routes."""

from __future__ import annotations

from pydantic import Field

from crds.kube.manager import ManagerSettings


class RouterSettings(ManagerSettings):
    """`python -m router_manager`."""

    egress_allow: list[str] = Field(
        default=[], description="CIDR that targets may be in although it is special or refused"
    )
    egress_refuse: list[str] = Field(default=[], description="CIDR that no target may be in (the cluster's own ranges)")
