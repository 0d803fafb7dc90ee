"""What the relays of a route measured, as one."""

from __future__ import annotations

from collections.abc import Sequence

from crds.models.measured import Measured


def together(reports: Sequence[Measured]) -> Measured:
    """Counts are summed; times are those of the slowest relay, since percentiles have no sum."""
    return Measured(
        delivered=sum(each.delivered for each in reports),
        backlog_records=sum(each.backlog_records for each in reports),
        rate_millihertz=sum(each.rate_millihertz for each in reports),
        lag_microseconds=max((each.lag_microseconds for each in reports), default=0),
        p50_microseconds=max((each.p50_microseconds for each in reports if each.p50_microseconds), default=None),
        p99_microseconds=max((each.p99_microseconds for each in reports if each.p99_microseconds), default=None),
        last_delivered_time=max(
            (each.last_delivered_time for each in reports if each.last_delivered_time), default=None
        ),
    )
