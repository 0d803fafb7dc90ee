"""What lanes give up: readings that are too old for their route, and those that hold back too much of the disk.

The log on disk is one for all routes, so the lane that is furthest behind decides what of it can go. A route that may
lose readings therefore loses them before the spool is full: by then its dead target would have stopped all others.
"""

from __future__ import annotations

from crds.models.retention import Retention
from router_manager.domain.ages import Ages
from router_manager.relay.spool import Spool


class Keeper:
    """Knows for every route's wish how far back it may reach. For one task."""

    def __init__(self, spool: Spool, *, lane_share: float, now: float) -> None:
        """Start.

        Args:
            spool: of the relay.
            lane_share: how much of the spool one lane may hold back that may lose readings, from 0 to 1.
            now: monotonic, seconds.
        """
        self._spool = spool
        self._lane_share = lane_share
        self._ages = Ages(spool.ages(), now=now)
        self._now = now
        self._crowding = 0

    def look(self, *, now: float) -> None:
        """Note how far the spool has come, and how much room there is. To be called about once a second."""
        self._now = now
        self._spool.measure()
        self._ages.note(self._spool.next_id, now=now)
        self._crowding = self._spool.newest(self._lane_share * self._spool.capacity)

    def floor(self, wish: Retention | None) -> int:
        """The first record that a lane of a route with this wish may still deliver."""
        if wish is None:
            return 0
        aged = 0 if wish.max_age_seconds is None else self._ages.floor(self._now - wish.max_age_seconds)
        return max(aged, self._crowding if wish.when_full == "DropOldest" else 0)
