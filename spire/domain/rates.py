"""How often somebody may ask: a bucket of tokens for each, and a bound on how many are remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from datetime import datetime
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Rates(Generic[K]):
    """Buckets by who asks. Full of names, it forgets whom it has not heard of for longest."""

    def __init__(self, *, burst: float, per_second: float, capacity: int = 65536) -> None:
        """Start with full buckets.

        Args:
            burst: what a bucket holds.
            per_second: what flows in.
            capacity: names that are remembered.
        """
        self._burst = burst
        self._per_second = per_second
        self._capacity = capacity
        self._buckets: OrderedDict[K, tuple[float, datetime]] = OrderedDict()

    def allow(self, who: K, *, now: datetime) -> bool:
        """Take a token, if there is one."""
        tokens, since = self._buckets.pop(who, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, (now - since).total_seconds()) * self._per_second)
        allowed = tokens >= 1.0
        while len(self._buckets) >= self._capacity:
            self._buckets.popitem(last=False)
        self._buckets[who] = (tokens - 1.0 if allowed else tokens, now)
        return allowed
