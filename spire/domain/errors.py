"""Why something is not believed: one word for conditions and metrics, one sentence for people.

`Malformed` says that bytes are not what they should be, `Untrusted` that they are, and yet prove nothing.
"""

from __future__ import annotations

from enum import StrEnum

from crds.errors import InvalidField, Terminal


class Reason(StrEnum):
    """Reasons of a refusal, as the condition Attested shows them."""

    MALFORMED = "Malformed"
    UNKNOWN_MANUFACTURER = "UnknownManufacturer"
    CHAIN_BROKEN = "ChainBroken"
    NOT_VALID_NOW = "NotValidNow"
    BAD_SIGNATURE = "BadSignature"
    KEY_REUSED = "KeyReused"
    KEY_NOT_NAMED = "KeyNotNamed"
    NONCE_REFUSED = "NonceRefused"
    CLAIM_CONTRADICTED = "ClaimContradicted"
    NO_APPLICATION = "NoApplication"
    NO_POLICY = "NoPolicy"
    MANUFACTURER_REFUSED = "ManufacturerRefused"
    MEASUREMENT_UNKNOWN = "MeasurementUnknown"
    MODE_REFUSED = "ModeRefused"
    COUNTER_TOO_LOW = "CounterTooLow"
    APPLICATION_REFUSED = "ApplicationRefused"
    LEGACY_REFUSED = "LegacyRefused"
    REVOKED = "Revoked"
    NEVER_ATTESTED = "NeverAttested"
    EXPIRED = "Expired"
    NOT_EXPECTED = "NotExpected"
    DUPLICATE_UEID = "DuplicateUeid"
    NOT_AN_SVID = "NotAnSvid"
    TRUST_DOMAIN_UNKNOWN = "TrustDomainUnknown"
    PEER_REFUSED = "PeerRefused"
    BUNDLE_OLDER = "BundleOlder"
    NOT_AUTHENTICATED = "NotAuthenticated"
    NOT_ENTITLED = "NotEntitled"


class Malformed(InvalidField):
    """Bytes that are not the structure that they should be."""

    def __init__(self, *, field: str, value: object, expected: str) -> None:
        super().__init__(field=field, value=value, expected=expected, reason=Reason.MALFORMED)


class Untrusted(Terminal):
    """Well-formed, and not believed."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message, reason=reason)
