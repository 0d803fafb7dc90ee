"""How long records have been here, by a clock that does not jump.

Ingest times are of the wall clock, which on an edge node may be wrong by decades until the network is up: what is
thrown away for its age must not depend on it. So the relay notes now and then how far the spool has come.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

_MAX_MARKS = 4096


class Mark(NamedTuple):
    """By that moment (monotonic, seconds) all records below the id had come."""

    at: float
    next_id: int


class Ages:
    """Some thousands of marks, however long the spool is: the longer it is, the further they are apart."""

    def __init__(self, known: Iterable[tuple[int, float]] = (), *, now: float = 0.0) -> None:
        """Start.

        Args:
            known: from an earlier life, in order: an id, and how many seconds ago every record below had come. None
                counts as older than one before it: then the clock that said so was set in between.
            now: monotonic, seconds.
        """
        self._marks: list[Mark] = []
        least = float("inf")
        for next_id, seconds in known:
            least = min(least, max(0.0, seconds))
            self._marks.append(Mark(now - least, next_id))

    def note(self, next_id: int, *, now: float) -> None:
        """All records below `next_id` have come."""
        if self._marks and self._marks[-1].next_id == next_id:
            return
        self._marks.append(Mark(now, next_id))
        if len(self._marks) > _MAX_MARKS:
            del self._marks[:-1:2]

    def floor(self, before: float) -> int:
        """Every record below came before this moment; those at or above it, perhaps."""
        index = bisect_right(self._marks, before, key=lambda mark: mark.at) - 1
        return self._marks[index].next_id if index >= 0 else 0
