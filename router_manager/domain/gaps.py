"""How many readings did not come, by the numbers that they carry."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 1024
"""Readings that may overtake each other; what is further back is of a device that counts from the start again."""


class Gaps:
    """Of one sensor. Readings may come in any order, and twice.

    What was lost before the first reading or after the last one cannot be known.
    """

    def __init__(self) -> None:
        self._expected = 0
        self._came = 0
        self._first = self._highest = 0
        self._bits = 0

    @property
    def missing(self) -> int:
        """Numbers that were passed over; one that comes late is missing no more."""
        return self._expected - self._came

    def observe(self, number: int) -> None:
        """A reading with this number came."""
        ahead = number - self._highest
        if not self._came or abs(ahead) >= WINDOW * WINDOW or ahead <= -WINDOW:
            self._first = self._highest = number
            self._bits = 1
            self._expected += 1
        elif ahead > 0:
            self._highest = number
            self._bits = ((self._bits << min(ahead, WINDOW)) | 1) & ((1 << WINDOW) - 1)
            self._expected += ahead
        elif self._bits >> -ahead & 1:
            return
        else:
            self._bits |= 1 << -ahead
            self._expected += max(0, self._first - number)
            self._first = min(self._first, number)
        self._came += 1
