"""Flags of a runner: those of `domain.jobs`, and what the manager passes on to all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from crds.models.base import Count, Name
from crds.models.firmware import Digest
from crds.models.flash_report import Goal
from flash_controller.domain.preflight import Attestation, Policy
from spire.workload import IdentitySettings

Seconds = Annotated[float, Field(gt=0, le=86400)]


class RunnerSettings(IdentitySettings):
    """`python -m flash_controller.runner`: brings one device to what a rollout wants of it."""

    namespace: Name = Field(description="of rollout, firmware and device")
    rollout: Name = Field(description="the FirmwareRollout")
    rollout_uid: Annotated[str, Field(min_length=1, max_length=64)]
    device: Name = Field(description="the LeafDevice")
    attempt: Count = Field(description="which attempt of the rollout at this device this is")
    goal: Goal = "Update"
    firmware: Name = Field(description="the Firmware")
    digest: Digest = Field(description="of the index that it is to have")
    policy: Policy = "OnlyNewer"
    attestation: Attestation = "Required"
    agent: str = Field(description="the edge agent of the device's node, https://host:port")
    cache: Path = Field(description="folder where the node's runners keep what they pulled")
    evidence_seconds: Seconds = Field(default=60, description="how long a started image may take to prove itself")
    return_seconds: Seconds = Field(default=90, description="how long a device may be out of reach")
    ota_certificate: Path | None = Field(
        default=None, description="PEM chain that the firmware of devices which dial in pins"
    )
    ota_key: Path | None = Field(
        default=None, validate_default=True, description="private key of --ota-certificate, PEM"
    )

    @field_validator("agent")
    @classmethod
    def _is_agent(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname or parts.port is None:
            raise ValueError("https://host:port")
        return value

    @field_validator("ota_key")
    @classmethod
    def _is_of_the_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("ota_certificate") is None):
            raise ValueError("a file where --ota-certificate is given, and none where it is not")
        return value
