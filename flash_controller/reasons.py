"""Reasons of conditions of a Firmware and of a FirmwareRollout, each for one situation."""

from __future__ import annotations

from enum import StrEnum


class FirmwareReason(StrEnum):
    """What a Firmware's conditions may say."""

    READY = "Ready"
    RESOLVED = "Resolved"
    SUSPENDED = "Suspended"
    PLAIN_HTTP = "PlainHTTP"
    REPOSITORY_REFUSED = "RepositoryRefused"
    CREDENTIALS_MISSING = "CredentialsMissing"
    CERTIFICATE_MISSING = "CertificateMissing"
    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    VERIFIED = "Verified"
    UNSIGNED = "Unsigned"
    NOT_TRUSTED = "NotTrusted"
    APPLICATION_REFUSED = "ApplicationRefused"


class RolloutCondition(StrEnum):
    """Conditions of a FirmwareRollout."""

    PROGRESSING = "Progressing"
    SUCCEEDED = "Succeeded"


class RolloutReason(StrEnum):
    """What those, and the devices of a rollout, may say beside what runners report."""

    ROLLING_OUT = "RollingOut"
    ROLLING_BACK = "RollingBack"
    SOAKING = "Soaking"
    AWAITING_APPROVAL = "AwaitingApproval"
    OUTSIDE_WINDOW = "OutsideWindow"
    SUSPENDED = "Suspended"
    TOO_MANY_FAILURES = "TooManyFailures"
    FIRMWARE_NOT_READY = "FirmwareNotReady"
    NO_DEVICES = "NoDevices"
    INVALID = "Invalid"
    COMPLETE = "Complete"
    CONFIRMED = "Confirmed"
    DEVICES_FAILED = "DevicesFailed"
    CANCELLED = "Cancelled"
    ROLLED_BACK = "RolledBack"
    STARTING = "Starting"
    UP_TO_DATE = "UpToDate"
    DEVICE_MISSING = "DeviceMissing"
    DEVICE_BUSY = "DeviceBusy"
    NO_SUCH_BOARD = "NoSuchBoard"
    NO_PREVIOUS_FIRMWARE = "NoPreviousFirmware"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    DEVICE_TIMEOUT = "DeviceTimeout"
    RUNNER_LOST = "RunnerLost"


class PackageReason(StrEnum):
    """Why a package was not taken, or not had."""

    NOT_FOUND = "NotFound"
    NO_SUCH_BOARD = "NoSuchBoard"
    REGISTRY_UNAUTHORIZED = "RegistryUnauthorized"
    REGISTRY_UNTRUSTED = "RegistryUntrusted"
    REGISTRY_REFUSED = "RegistryRefused"
    INVALID_CREDENTIALS = "InvalidCredentials"
    INVALID_MANIFEST = "InvalidManifest"
    INVALID_IMAGE = "InvalidImage"
    DIGEST_MISMATCH = "DigestMismatch"
    MEASUREMENT_MISMATCH = "MeasurementMismatch"


class ProtocolReason(StrEnum):
    """Why a device does not do what its update protocol asks."""

    NOT_SUPPORTED = "NotSupported"
    DEVICE_REFUSED = "DeviceRefused"
    INVALID_ANSWER = "InvalidAnswer"
    INVALID_EVIDENCE = "InvalidEvidence"
    INSECURE_UPDATE = "InsecureUpdate"
    NOT_WRITTEN = "NotWritten"
    OTHER_IMAGE_RUNS = "OtherImageRuns"
    CANNOT_REVERT = "CannotRevert"


class FlashingReason(StrEnum):
    """What the condition `Flashing` of a LeafDevice may say."""

    HELD = "Held"
    IDLE = "Idle"


class FlashReason(StrEnum):
    """What a runner reports."""

    STARTING = "Starting"
    PULLING = "Pulling"
    WRITING = "Writing"
    TRYING = "Trying"
    AWAITING_EVIDENCE = "AwaitingEvidence"
    CONFIRMED = "Confirmed"
    NO_UPDATE_PATH = "NoUpdatePath"
    NOT_READY = "NotReady"
    NO_SUCH_BOARD = "NoSuchBoard"
    WRONG_BOARD = "WrongBoard"
    WRONG_MEASUREMENT = "WrongMeasurement"
    WRONG_APPLICATION = "WrongApplication"
    COUNTER_TOO_LOW = "CounterTooLow"
    NOT_NEWER = "NotNewer"
    CANNOT_ATTEST = "CannotAttest"
    NOT_ATTESTED = "NotAttested"
    NO_EVIDENCE = "NoEvidence"
    NOT_STARTED = "NotStarted"
    NOT_FOUND = "NotFound"
    UNAVAILABLE = "Unavailable"
    NO_CERTIFICATE = "NoCertificate"
    DEVICE_LOST = "DeviceLost"
    STOPPED = "Stopped"
