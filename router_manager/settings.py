"""Flags of the manager of routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from crds.egress import host_and_port
from crds.errors import InvalidField
from crds.kube.manager import ManagerSettings
from crds.kube.process import EgressSettings
from crds.models.dataroute import Engine
from crds.models.retention import Retention
from spire.workload import IdentitySettings


class RouterSettings(EgressSettings, IdentitySettings, ManagerSettings):
    """`python -m router_manager`."""

    inlet_url: str | None = Field(
        default=None,
        description="URL of the relay with --inlet, as cloudcore reaches it; without it KubeEdge's router is not used",
    )
    best_effort_engine: Engine = Field(
        default="Relay", description="what carries the readings of contracts with delivery BestEffort"
    )
    buyers_wait_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = Field(
        default=None, description="how long readings wait for an endpoint of a buyer at most, whatever it asks"
    )
    buyers_drop_oldest: bool = Field(
        default=False, description="buyers' endpoints that are down lose readings before sources have to wait"
    )

    @property
    def patience(self) -> Retention | None:
        """With buyers; None where it is endless."""
        if self.buyers_wait_seconds is None and not self.buyers_drop_oldest:
            return None
        return Retention(
            when_full="DropOldest" if self.buyers_drop_oldest else "Wait", max_age_seconds=self.buyers_wait_seconds
        )

    @field_validator("inlet_url")
    @classmethod
    def _is_a_url(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                host_and_port(value)
            except InvalidField as error:
                raise ValueError(error.expected) from error
            if not value.startswith(("http://", "https://")):
                raise ValueError("http(s)://host:port")
        return value

    @field_validator("best_effort_engine")
    @classmethod
    def _can_be_reached(cls, value: Engine, info: ValidationInfo) -> Engine:
        if value == "KubeEdge" and info.data.get("inlet_url") is None:
            raise ValueError("Relay (KubeEdge's router needs --inlet-url)")
        return value
