"""Reasons of the conditions of a DataRoute, each for one situation."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """What a condition's `reason` may say."""

    ACCEPTED = "Accepted"
    INVALID_SELECTOR = "InvalidSelector"
    EGRESS_REFUSED = "EgressRefused"
    PLAIN_HTTP = "PlainHTTP"
    INVALID_CA_BUNDLE = "InvalidCABundle"
    RESOLVED = "SourcesResolved"
    NO_SOURCE = "NoSource"
    FLAVOR_MISSING = "FlavorMissing"
    NOT_SHAPEABLE = "NotShapeable"
    INVALID_EXPRESSION = "InvalidExpression"
    NO_INLET = "NoInlet"
    TOPIC_NOT_FORWARDABLE = "TopicNotForwardable"
    FORWARDED = "Forwarded"
    FORWARDING_PENDING = "ForwardingPending"
    NODE_NOT_READY = "NodeNotReady"
    TOPIC_TAKEN = "TopicTaken"
    DELIVERING = "Delivering"
    DISTURBED = "Disturbed"
    READY = "Ready"
    FLASHING = "Flashing"
    SUSPENDED = "Suspended"
    NOT_ACCEPTED = "NotAccepted"
    CONTRACT_UNUSABLE = "ContractUnusable"
    INSECURE_MODE = "InsecureMode"
