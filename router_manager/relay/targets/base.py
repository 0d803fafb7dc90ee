"""What a pump hands to a target, and what every kind of target does with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from router_manager.domain.batching import Answer
from router_manager.domain.payload import Record
from router_manager.domain.table import Way


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Readings of one lane that are to be delivered now, in this order.

    Attributes:
        way: of the lane, as it is now: route, target, and who the target has to be.
        records: at least one.
        parts: of each record what is sent of it, framed by nothing.
        key: the same for the same records to the same target, also after a restart.
        replayed: they were dead letters, and go beside what the lane has in flight.
    """

    way: Way
    records: Sequence[Record]
    parts: Sequence[bytes]
    key: str
    replayed: bool = False


class Exit(Protocol):
    """Delivers to all targets of one kind of address."""

    async def send(self, batch: Batch) -> Answer:
        """Send once. Never raises for what the target does or is."""

    async def close(self) -> None:
        """Give connections back."""
