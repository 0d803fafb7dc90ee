"""Flags and environment of the edge agent."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from crds.kube.process import listening_address
from crds.models.base import Name
from crds.models.links import LINKS_PORT
from spire.workload import IdentitySettings


class AgentSettings(IdentitySettings):
    """`python -m edge_resource_manager.agent`: carries attestation, keeps the broker's accounts, speaks for devices."""

    node: Name = Field(description="name of the Node whose devices these are; --kubeconfig has a token bound to it")
    broker: str = Field(description="the node's broker, mqtts://host:port")
    onboarding: str | None = Field(
        default=None, description="the agent's port of the node's onboarding broker, mqtts://host:port; none without"
    )
    issuer: str = Field(description="the cluster's identity issuer, https://host:port")
    links: str | None = Field(
        default=None, description="host:port where the node's flash runners lease devices (3005); nobody can without"
    )
    inbound_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="where devices dial in for firmware, on the host of --links (4433); none can without"
    )

    @property
    def links_address(self) -> tuple[str, int] | None:
        """Host and port of `links`.

        Raises:
            InvalidField: it is not host:port.
        """
        example = f"0.0.0.0:{LINKS_PORT}"
        return None if self.links is None else listening_address(self.links, example=example, flag="--links")

    @field_validator("broker", "onboarding")
    @classmethod
    def _is_broker(cls, value: str | None) -> str | None:
        return None if value is None else _url(value, scheme="mqtts")

    @field_validator("issuer")
    @classmethod
    def _is_issuer(cls, value: str) -> str:
        return _url(value, scheme="https")


def _url(value: str, *, scheme: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != scheme or not parts.hostname or parts.port is None:
        raise ValueError(f"{scheme}://host:port")
    return value
