"""Condition types and reasons of this manager, each reason for one situation."""

from __future__ import annotations

from enum import StrEnum


class LeafCondition(StrEnum):
    """Conditions of a LeafDevice that discovery writes."""

    ONLINE = "Online"
    SENSORS_ACCEPTED = "SensorsAccepted"
    FLAVOR_PUBLISHED = "FlavorPublished"
    READY = "Ready"
    INSECURE = "Insecure"


class DiscoveryReason(StrEnum):
    """What the `reason` of these conditions may say."""

    REPORTING = "Reporting"
    NO_REPORT = "NoReport"
    DEVICE_OFFLINE = "DeviceOffline"
    DEVICE_SILENT = "DeviceSilent"
    NODE_NOT_READY = "NodeNotReady"
    NODE_GONE = "NodeGone"
    ACCEPTED = "Accepted"
    NO_SENSORS = "NoSensors"
    INVALID_SENSORS = "InvalidSensors"
    PUBLISHED = "Published"
    FLAVOR_REFUSED = "FlavorRefused"
    NOT_ATTESTED = "NotAttested"
    TIER_TOO_LOW = "TierTooLow"
    EXPIRED = "Expired"
    INVALID_UEID = "InvalidUeid"
    MINIMUM_TIER_INVALID = "MinimumTierInvalid"
    READY = "Ready"
    INSECURE_MODE = "InsecureMode"


class ClaimCondition(StrEnum):
    """Conditions of a SensorClaim."""

    ACCEPTED = "Accepted"
    BOUND = "Bound"
    READY = "Ready"
    PROMISE_KEPT = "PromiseKept"
    INSECURE = "Insecure"


class ClaimReason(StrEnum):
    """What the `reason` of these conditions, and of Events about a claim, may say."""

    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    NO_IDENTITY = "NoIdentity"
    NO_PROVIDERS = "NoProviders"
    PROVIDERS_SILENT = "ProvidersSilent"
    NO_MATCH = "NoMatch"
    REFUSED = "Refused"
    REPURPOSING = "Repurposing"
    PARTLY_BOUND = "PartlyBound"
    BOUND = "Bound"
    READY = "Ready"
    NOT_BOUND = "NotBound"
    FLAVOR_UNAVAILABLE = "FlavorUnavailable"
    PROVIDER_SILENT = "ProviderSilent"
    CONFIGURATION_REFUSED = "ConfigurationRefused"
    BINDING_LOST = "BindingLost"
    BINDING_RELEASED = "BindingReleased"
    KEPT = "Kept"
    NOT_MEASURED = "NotMeasured"
    LATENCY_BREACHED = "LatencyBreached"
    CONTRACTS_LEFT = "ContractsLeft"
    INSECURE_MODE = "InsecureMode"
