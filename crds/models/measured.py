"""What was measured of a delivery: the same figures in a DataRoute, in a SensorClaim and between clusters."""

from __future__ import annotations

from crds.models.base import Count, Model, Timestamp


class Measured(Model):
    """Figures that change at a bounded rate, whatever the rate of messages.

    Latencies are of the deliveries between the last two reports, right within 25 %: from the time that the device put
    into its reading, where its sensor says where that is, else from the relay's read of it, to the target's answer.
    """

    delivered: Count = 0
    backlog_records: Count = 0
    """Taken over from the source, and not yet delivered."""
    lag_microseconds: Count = 0
    """Age of the oldest of them; 0 where there are none."""
    rate_millihertz: Count = 0
    """Deliveries a second between the last two reports."""
    p50_microseconds: Count | None = None
    p99_microseconds: Count | None = None
    last_delivered_time: Timestamp | None = None

    @property
    def worst_microseconds(self) -> int | None:
        """The latency that a promise is held to: what is late already counts before it has arrived."""
        return max(self.p99_microseconds or 0, self.lag_microseconds) or None

    def figures(self) -> Measured:
        """These alone, of a status that says more."""
        return Measured(**{name: getattr(self, name) for name in Measured.model_fields})
