"""Which readings were seen before: delivery may repeat a reading honestly, and a gateway may play old ones back."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from spire.domain.readings import VerifiedReading

WINDOW: Final = 1024
"""Readings of one sensor that may overtake each other."""


class Replays:
    """The newest sequence numbers of each sensor, as RFC 4303 keeps them against replays.

    In memory, of one receiver: after a restart everything is new once more.
    """

    def __init__(self, *, capacity: int = 65536) -> None:
        """Start with nothing seen.

        Args:
            capacity: sensors that are remembered; the one that was silent for longest is forgotten first.
        """
        self._capacity = capacity
        self._seen: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    def is_new(self, reading: VerifiedReading) -> bool:
        """Whether this is the first time; it is not from then on. What is older than the window is not new."""
        sensor = (str(reading.spiffe_id), reading.sensor)
        highest, bits = self._seen.pop(sensor, (reading.sequence - 1, 0))
        ahead = reading.sequence - highest
        if ahead > 0:
            highest, bits = reading.sequence, ((bits << min(ahead, WINDOW)) | 1) & ((1 << WINDOW) - 1)
            new = True
        else:
            bit = 1 << -ahead if -ahead < WINDOW else 0
            new = bool(bit) and not bits & bit
            bits |= bit
        while len(self._seen) >= self._capacity:
            self._seen.popitem(last=False)
        self._seen[sensor] = highest, bits
        return new
