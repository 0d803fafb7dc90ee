"""Flags and environment of the issuer."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from crds.errors import InvalidField
from crds.kube.process import ProcessSettings, listening_address
from crds.models.fluidos import FLUIDOS_NAMESPACE
from spire.domain.authority import LIVES_OF_SVIDS
from spire.domain.spiffe_id import TrustDomain

Seconds = Annotated[int, Field(ge=1, le=10 * 366 * 86400)]


class IssuerSettings(ProcessSettings):
    """`python -m spire.issuer`: says who is who in this cluster's trust domain."""

    trust_domain: str = Field(description="name of this cluster's trust domain, such as site-a.example")
    listen: str = Field(default="0.0.0.0:8443", description="host:port of HTTPS; port 0 takes a free one and logs it")
    namespace: str = Field(
        default=FLUIDOS_NAMESPACE, description="namespace of our ServiceAccounts, ConfigMaps and Secrets"
    )
    authority: Literal["embedded", "spire"] = Field(
        default="embedded", description="who signs: this process, or a SPIRE server"
    )
    state_dir: Path | None = Field(
        default=None, description="directory of the embedded authority's keys; Secrets in the namespace without it"
    )
    ca_seconds: Seconds = Field(default=30 * 86400, description="life of a key of the embedded authority")
    svid_seconds: Seconds = Field(default=3600, description="life of an SVID, at most 1/6 of --ca-seconds")
    refresh_hint_seconds: Seconds = Field(default=300, description="how often federated clusters shall ask for ours")
    spire_socket: str | None = Field(
        default=None, description="admin socket of the SPIRE server, for --authority spire"
    )
    bindings: Path | None = Field(
        default=None, description="folder that SPIRE's composer shares with us: which key a device's evidence named"
    )
    bundle_file: Path | None = Field(
        default=None, description="file for this trust domain's roots in PEM, for helpers on this machine"
    )

    @field_validator("trust_domain")
    @classmethod
    def _is_one(cls, value: str) -> str:
        try:
            TrustDomain(value)
        except InvalidField as error:
            raise ValueError(error.expected) from error
        return value

    @field_validator("svid_seconds")
    @classmethod
    def _fits(cls, value: int, info: ValidationInfo) -> int:
        life = info.data.get("ca_seconds")
        if life is not None and value * LIVES_OF_SVIDS > life:
            raise ValueError(f"at most {life // LIVES_OF_SVIDS}, which is 1/{LIVES_OF_SVIDS} of --ca-seconds {life}")
        return value

    @property
    def domain(self) -> TrustDomain:
        """Of this cluster."""
        return TrustDomain(self.trust_domain)

    @property
    def ttl(self) -> timedelta:
        """Of SVIDs."""
        return timedelta(seconds=self.svid_seconds)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`.

        Raises:
            InvalidField: it is not host:port.
        """
        return listening_address(self.listen, example="0.0.0.0:8443")
