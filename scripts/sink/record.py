"""What one endpoint has received: every id, when it came first, how old it was then, and how often it came."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field

from crds.models.base import Model
from scripts.sink.bodies import Reading
from scripts.sink.signatures import signed
from spire.domain.errors import Malformed, Untrusted
from spire.domain.spiffe_id import SpiffeId, TrustDomain


class Fault(Model):
    """How an endpoint misbehaves. What it does not answer 2xx to, it does not keep."""

    status: Annotated[int, Field(ge=200, le=599)] = 200
    retry_after: str | None = None
    delay_seconds: Annotated[float, Field(ge=0, le=600)] = 0.0
    hang: bool = False
    """Never answer."""
    over_records: Annotated[int, Field(ge=0)] = 0
    """`status` is for batches of more records than this; smaller ones are taken."""
    times: int | None = None
    """Requests that the fault is for; absent: all."""


class Arrival(Model):
    """The first arrival of one reading, and how many copies came in all."""

    at: float
    """Seconds since the epoch."""
    latency_milliseconds: float | None = None
    """From its `sentAt`, by the clock of this machine."""
    device: str
    sensor: str
    value: float | None = None
    client: str | None = None
    """SPIFFE ID of the relay that delivered it; absent without TLS."""
    signed_by: str | None = None
    """SPIFFE ID of the device that signed it; absent where nobody did, or nobody looked."""
    copies: int = 1


class Received(Model):
    """One endpoint's record, as `GET` shows it."""

    arrivals: dict[str, Arrival]
    requests: int
    unreadable: int
    """Requests whose body was refused, and readings without an id."""
    unverifiable: int = 0
    """Readings with a signature that proves nothing; they are not kept."""


class Endpoint:
    """One endpoint while it receives."""

    def __init__(self) -> None:
        self.arrivals: dict[str, Arrival] = {}
        self.requests = 0
        self.unreadable = 0
        self.unverifiable = 0
        self.fault = Fault()

    def next_fault(self) -> Fault:
        """What the present request meets."""
        fault = self.fault
        if fault.times is not None:
            self.fault = Fault() if fault.times <= 1 else fault.model_copy(update={"times": fault.times - 1})
        return fault

    def take(
        self,
        readings: Iterable[Reading],
        *,
        at: datetime,
        client: SpiffeId | None = None,
        bundles: Mapping[TrustDomain, Sequence[bytes]] | None = None,
    ) -> None:
        """Keep a batch.

        Args:
            readings: as they came.
            at: when they arrived, aware.
            client: who brought them.
            bundles: roots by which to verify those that are signed; None verifies nothing.
        """
        for sent in readings:
            reading, signer = sent, None
            if bundles is not None:
                try:
                    reading, signer = signed(sent, bundles=bundles, now=at)
                except (Malformed, Untrusted, ValueError):
                    self.unverifiable += 1
                    continue
            reading_id = reading.get("id")
            if not isinstance(reading_id, str):
                self.unreadable += 1
            elif known := self.arrivals.get(reading_id):
                self.arrivals[reading_id] = known.model_copy(update={"copies": known.copies + 1})
            else:
                self.arrivals[reading_id] = _arrival(reading, at=at, client=client, signer=signer)

    def received(self) -> Received:
        """All that is known so far."""
        return Received(
            arrivals=self.arrivals,
            requests=self.requests,
            unreadable=self.unreadable,
            unverifiable=self.unverifiable,
        )


def _arrival(reading: Reading, *, at: datetime, client: SpiffeId | None, signer: SpiffeId | None) -> Arrival:
    value = reading.get("value")
    return Arrival(
        at=at.timestamp(),
        latency_milliseconds=_latency(reading.get("sentAt"), at=at),
        device=str(reading.get("device", "")),
        sensor=str(reading.get("sensor", "")),
        value=float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None,
        client=None if client is None else str(client),
        signed_by=None if signer is None else str(signer),
    )


def _latency(sent: object, *, at: datetime) -> float | None:
    if not isinstance(sent, str):
        return None
    try:
        moment = datetime.fromisoformat(sent)
    except ValueError:
        return None
    return None if moment.tzinfo is None else (at - moment).total_seconds() * 1000
