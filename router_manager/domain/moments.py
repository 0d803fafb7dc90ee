"""When a reading was taken, by what its device wrote into it.

Lines of InfluxDB carry that time, and latency is measured from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from router_manager.domain.payload import Pointer, Record, value_at

MAX_AGE_NS = 86_400 * 1_000_000_000
"""A device whose clock is further behind has none."""


def taken_ns(record: Record, clocks: Mapping[str, Pointer]) -> int:
    """When a reading was taken: as it says, where that can be; else when it was read.

    Args:
        record: the reading.
        clocks: by topic, where readings say it; topics that are not there have devices that do not say.
    """
    pointer = clocks.get(record.topic)
    at_ns = None if pointer is None else moment_ns(value_at(record.value, pointer))
    # A reading of the future comes from a clock that is ahead: of how much later it was read, nobody knows anything.
    if at_ns is None or not record.ingested_ns - MAX_AGE_NS <= at_ns <= record.ingested_ns:
        return record.ingested_ns
    return at_ns


def moment_ns(value: Any) -> int | None:
    """Nanoseconds since the epoch, of RFC 3339 or of an epoch in s, ms, us or ns, told by its size; None of others."""
    match value:
        case bool():
            return None
        case int() | float() if value > 0:
            return _epoch_ns(value)
        case str():
            return text_ns(value)
        case _:
            return None


def text_ns(text: str) -> int | None:
    """Of RFC 3339; without a zone nobody knows when that was."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    delta = moment - datetime.fromtimestamp(0, UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1_000


def _epoch_ns(number: float) -> int:
    """Seconds have ten digits until 2286, and every unit is a thousand of the next."""
    for limit, factor in ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000)):
        if number < limit:
            return int(number * factor)
    return int(number) if number < 2**63 else 2**63 - 1
