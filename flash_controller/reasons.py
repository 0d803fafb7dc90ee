"""Reasons of conditions of a Firmware and of a FirmwareRollout, each for one situation."""

from __future__ import annotations

from enum import StrEnum


class FirmwareReason(StrEnum):
    """What a Firmware's conditions may say."""

    READY = "Ready"
    RESOLVED = "Resolved"
    SUSPENDED = "Suspended"
    POLICY_UNREADABLE = "PolicyUnreadable"
    PLAIN_HTTP = "PlainHTTP"
    CREDENTIALS_MISSING = "CredentialsMissing"
    CERTIFICATE_MISSING = "CertificateMissing"
    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    VERIFIED = "Verified"
    UNSIGNED = "Unsigned"
    NOT_TRUSTED = "NotTrusted"
    APPLICATION_REFUSED = "ApplicationRefused"
