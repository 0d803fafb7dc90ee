"""What a lane has done, counted as it happens; metrics and DataRoute.status are made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from router_manager.domain.moments import taken_ns
from router_manager.domain.payload import Pointer, Record

_PER_OCTAVE = 4
"""Buckets a doubling: a percentile is right within 25 %."""


class Latencies:
    """Histogram with logarithmic buckets from 1 us; its size does not grow with what comes."""

    def __init__(self, counts: Counter[int] | None = None) -> None:
        self._counts = Counter[int]() if counts is None else counts

    def observe(self, microseconds: int, times: int = 1) -> None:
        """Count a latency."""
        whole = max(1, microseconds)
        octave = whole.bit_length() - 1
        self._counts[octave * _PER_OCTAVE + (whole * _PER_OCTAVE >> octave) - _PER_OCTAVE] += times

    def percentile(self, share: float) -> int | None:
        """The upper edge, in microseconds, of the bucket where `share` of all observations is reached."""
        wanted = share * self._counts.total()
        reached = 0
        for edge, times in self:
            reached += times
            if reached >= wanted:
                return edge
        return None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Buckets in order: upper edge in microseconds, observations."""
        for bucket in sorted(self._counts):
            octave, part = divmod(bucket, _PER_OCTAVE)
            edge: int = (1 << octave) * (_PER_OCTAVE + part + 1) // _PER_OCTAVE
            yield edge, self._counts[bucket]

    def since(self, earlier: Latencies) -> Latencies:
        """What was observed after `earlier` was copied."""
        return Latencies(self._counts - earlier._counts)

    @classmethod
    def merged(cls, several: Iterable[Latencies]) -> Latencies:
        """The sum, independent of its parts."""
        counts = Counter[int]()
        for one in several:
            counts.update(one._counts)  # noqa: SLF001 - of its own class
        return cls(counts)


@dataclass(slots=True)
class LaneStatistics:
    """Grows for as long as the process lives."""

    delivered: int = 0
    filtered: int = 0
    unreadable: int = 0
    wrapped: int = 0
    retried: int = 0
    dead: int = 0
    replayed: int = 0
    expired: int = 0
    last_delivered_ns: int = 0
    problem: str = ""
    """The last error, empty after a delivery."""
    latencies: Latencies = field(default_factory=Latencies)
    """From when a reading was taken, or else read, to the target's answer."""

    def count_delivery(self, records: Sequence[Record], *, now_ns: int, clocks: Mapping[str, Pointer]) -> None:
        """A batch was acknowledged by the target; `clocks` as for `taken_ns`."""
        self.delivered += len(records)
        self.last_delivered_ns = now_ns
        self.problem = ""
        # Records of one read of the socket share their time, and are neighbours.
        begun = [taken_ns(each, clocks) for each in records] if clocks else [each.ingested_ns for each in records]
        for begun_ns, same in groupby(begun):
            self.latencies.observe((now_ns - begun_ns) // 1000, len(list(same)))
