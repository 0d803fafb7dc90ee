"""Reasons of the edge agent, each for one situation."""

from __future__ import annotations

from enum import StrEnum


class AgentReason(StrEnum):
    """In conditions, and in refusals that devices read."""

    VOUCHED_BY_GATEWAY = "VouchedByGateway"
    UNKNOWN_DEVICE = "UnknownDevice"
    TRY_LATER = "TryLater"
