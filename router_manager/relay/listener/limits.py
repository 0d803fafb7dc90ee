"""What a client of the listener may use, and what the listener counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may use.

    Attributes:
        per_second: messages; each begun KiB of one counts as one more.
        burst: that it may send at once.
        receive_maximum: QoS 1 messages that are not yet acknowledged.
        packet_bytes: of one packet.
    """

    per_second: float = 1000.0
    burst: float = 2000.0
    receive_maximum: int = 10_000
    packet_bytes: int = (1 << 20) + 4096


@dataclass(slots=True)
class Counts:
    """What the listener has seen; grows for as long as the process lives."""

    accepted: int = 0
    refused: int = 0
    taken_over: int = 0
    denied: int = 0
    malformed: int = 0
    throttled: int = 0
    timed_out: int = 0
    wills: int = 0
