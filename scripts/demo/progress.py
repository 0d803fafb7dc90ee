"""One claim on its way: what it asked for, what it got, what it is owed and what has arrived."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from scripts.demo.claims import Ask
from scripts.demo.observe import Offer, SinkClient
from scripts.demo.report import BoundFlavor, ClaimOutcome, TargetOutcome, target_outcome
from scripts.demo.site import Consumer
from scripts.sink.record import Arrival, Received


@dataclass(slots=True)
class ClaimProgress:
    """One claim on its way."""

    ask: Ask
    consumer: Consumer
    applied_at: float
    bound: tuple[Offer, ...] = ()
    seconds_to_bound: float | None = None
    message: str = "no status yet"
    owed: frozenset[str] = frozenset()
    received: dict[str, Received] = field(default_factory=dict)

    @property
    def sink(self) -> SinkClient:
        """Where its readings arrive."""
        return SinkClient(self.consumer.sink_port)

    def has_all(self, endpoint: str) -> bool:
        """Whether this endpoint has every reading that it is owed."""
        return self.owed <= self.arrivals(endpoint).keys()

    def arrivals(self, endpoint: str) -> Mapping[str, Arrival]:
        """What counts as arrived: where signed readings are asked for, those that the bound device itself signed."""
        received = self.received.get(endpoint)
        found = received.arrivals if received else {}
        if self.ask.spec.get("integrity") != "Signed":
            return found
        devices = {offer.device: offer.view.trust.spiffe_id for offer in self.bound if offer.view.trust}
        return {reading: it for reading, it in found.items() if it.signed_by and it.signed_by == devices.get(it.device)}

    def satisfied(self, providers: int) -> bool:
        """Whether it has what it asked for, where there are so many providers."""
        bound = frozenset(offer.view.sensor.uid for offer in self.bound)
        return self.ask.satisfied(bound, providers=providers)

    def silent(self) -> Iterable[str]:
        """Look what has arrived, and say which bound sensors an endpoint has no reading of."""
        for endpoint in self.ask.endpoints:
            target = self.ask.target(endpoint)
            self.received[endpoint] = self.sink.received(target)
            heard = {(it.device, it.sensor) for it in self.arrivals(endpoint).values()}
            for offer in self.bound:
                if (offer.device, offer.view.sensor.model) not in heard:
                    yield f"{target}: nothing of {offer.device} {offer.view.sensor.model} yet"

    def outcome(self, providers: int) -> ClaimOutcome:
        """For the report."""
        first = [it.at for received in self.received.values() for it in received.arrivals.values()]
        return ClaimOutcome(
            name=self.ask.name,
            cluster=self.consumer.name,
            bound=tuple(
                BoundFlavor(
                    flavor=offer.name,
                    provider=offer.provider.name,
                    spiffe_id=offer.view.trust.spiffe_id if offer.view.trust else None,
                    tier=offer.view.trust.tier if offer.view.trust else None,
                )
                for offer in self.bound
            ),
            seconds_to_bound=None if self.seconds_to_bound is None else round(self.seconds_to_bound, 3),
            seconds_to_first_message=round(min(first) - self.applied_at, 3) if first else None,
            satisfied=self.satisfied(providers),
        )

    def target(self, endpoint: str) -> TargetOutcome:
        """One endpoint of it, for the report."""
        return target_outcome(
            name=self.ask.target(endpoint), claim=self.ask.name, owed=self.owed, arrivals=self.arrivals(endpoint)
        )
