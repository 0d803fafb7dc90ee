"""What the relays of a route measured and met, as one."""

from __future__ import annotations

from collections.abc import Sequence

from crds.conditions import Verdict
from crds.models.dataroute import RelayReport
from crds.models.measured import Measured
from router_manager.reasons import Reason


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


def delivering(reports: Sequence[RelayReport]) -> tuple[Verdict, ...]:
    """The condition that says whether a relay has trouble; none before one has said anything."""
    if not reports:
        return ()
    trouble = "; ".join(f"{each.node}: {each.message}" for each in reports if each.message)
    if trouble:
        return (Verdict(type="Delivering", status="False", reason=Reason.DISTURBED, message=trouble),)
    return (Verdict(type="Delivering", status="True", reason=Reason.DELIVERING),)
