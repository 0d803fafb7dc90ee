"""Flags and environment of the relay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from crds.kube.process import EgressSettings
from crds.models.base import Name
from router_manager.relay.mqtt.client import SessionSettings
from router_manager.relay.mqtt.packets import Version
from spire.domain.authorization import exactly
from spire.identity import IdentitySource
from spire.tls import client_context
from spire.workload import IdentitySettings

_MIB = 1 << 20
_SECURE, _PLAIN = ("mqtts", 8883), ("mqtt", 1883)


class Settings(EgressSettings, IdentitySettings):
    """`python -m router_manager.relay --node edge-1 ...`."""

    node: Name = Field(description="name of the Node that this relay serves")
    broker: str | None = Field(
        default=None,
        description="the node's broker, mqtts://host[:port] (--insecure: mqtt://host[:port]); this host if not given",
    )
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
    def _broker_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        insecure = info.data.get("insecure", False)
        scheme, _ = _PLAIN if insecure else _SECURE
        if parts.scheme != scheme or not parts.hostname:
            raise ValueError(f"{scheme}://host[:port]" + ("" if insecure else " (mqtt:// is for --insecure)"))
        return value

    def session(self, identity: IdentitySource | None) -> SessionSettings:
        """How the MQTT session is opened. The client id is the node's: the broker keeps one queue for it.

        The broker has to be the one of this node.
        """
        _, port = _PLAIN if identity is None else _SECURE
        parts = urlsplit(self.broker or "//127.0.0.1")
        context = None
        if identity is not None:
            broker = identity.current.svid.spiffe_id.trust_domain.spiffe_id("broker", self.node)
            context = client_context(identity, authorize=exactly(broker))
        return SessionSettings(
            host=parts.hostname or "",
            port=parts.port or port,
            client_id=f"fluidos-edge-relay-{self.node}",
            version=Version.V5 if self.mqtt_version == "5" else Version.V311,
            tls=context,
        )

    @property
    def spool_bytes(self) -> int:
        """Bound of the spool."""
        return self.spool_mebibytes * _MIB
