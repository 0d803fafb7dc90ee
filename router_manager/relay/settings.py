"""Flags and environment of the relay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from crds.kube.process import EgressSettings
from crds.models.base import Name
from router_manager.relay.mqtt.client import SessionSettings
from router_manager.relay.mqtt.packets import Version

_MIB = 1 << 20


class Settings(EgressSettings):
    """`python -m router_manager.relay --node edge-1 ...`."""

    node: Name = Field(description="name of the Node that this relay serves")
    broker: str = Field(default="mqtt://127.0.0.1:1883", description="mqtt://host:port of the node's broker")
    mqtt_version: Literal["3.1.1", "5"] = Field(default="5", description="protocol version spoken to the broker")
    state_dir: Path = Field(description="folder of the spool; one relay each")
    spool_mebibytes: Annotated[int, Field(ge=32)] = Field(
        default=4096, description="disk that the spool may use before the broker has to wait"
    )
    target_timeout_seconds: Annotated[float, Field(gt=0, le=300)] = Field(
        default=10.0, description="how long a target may take for its answer"
    )
    drain_seconds: Annotated[float, Field(ge=0, le=300)] = Field(
        default=5.0, description="how long to go on delivering after SIGTERM"
    )

    @field_validator("broker")
    @classmethod
    def _broker_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "mqtt" or not parts.hostname:
            msg = "mqtt://host[:port]"
            raise ValueError(msg)
        return value

    def session(self) -> SessionSettings:
        """How the MQTT session is opened. The client id is the node's: the broker keeps one queue for it."""
        parts = urlsplit(self.broker)
        return SessionSettings(
            host=parts.hostname or "",
            port=parts.port or 1883,
            client_id=f"fluidos-edge-relay-{self.node}",
            version=Version.V5 if self.mqtt_version == "5" else Version.V311,
        )

    @property
    def spool_bytes(self) -> int:
        """Bound of the spool."""
        return self.spool_mebibytes * _MIB
