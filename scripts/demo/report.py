"""The outcome: what was owed against what arrived. Pure; `__main__` writes it, `show` prints it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Annotated, Any

from pydantic import Field

from crds.models.base import Model
from crds.models.trust import Tier
from scripts.sink.record import Arrival


class BoundFlavor(Model):
    """One flavor that a claim got."""

    flavor: str
    provider: str
    spiffe_id: str | None = None
    """Of the device; null where it cannot prove who it is."""
    tier: Tier | None = None
    """How far it is trusted."""


class ClaimOutcome(Model):
    """One claim."""

    name: str
    cluster: str
    bound: tuple[BoundFlavor, ...]
    seconds_to_bound: float | None
    seconds_to_first_message: float | None
    satisfied: bool
    """It got what it asked for, as the demo knows from its inventory."""


class TargetOutcome(Model):
    """One endpoint of one claim."""

    name: str
    claim: str
    published: int
    """Readings of the bound flavors that a broker acknowledged after all routes worked."""
    delivered: int
    signed: int
    """Of these: by their device, as the endpoint verified."""
    duplicates: int
    lost: int
    p50_milliseconds: float | None
    p99_milliseconds: float | None


class Revoked(Model):
    """A device that lost its trust while its data flowed."""

    device: str
    reason: str
    """Of the condition Attested."""
    withdrawn: bool
    """Its flavors and routes are gone, and no claim has it any more."""
    seconds_to_last_message: float | None
    """From its tampering to the last of its readings that arrived anywhere; 0 where none came after it."""


class Repurposed(Model):
    """A device that was flashed for a claim which no device satisfied."""

    device: str
    before: Annotated[str, Field(alias="from")]
    """The application that it ran."""
    after: Annotated[str, Field(alias="to")]
    """The one that it has proven to run now."""
    digest: str | None
    """Of the index that it came from."""
    seconds_to_first_message: float
    """From the claim on."""


class Halted(Model):
    """A rollout that stopped by itself when its first device failed."""

    rollout: str
    device: str
    state: str
    """Of that device, in the rollout's status."""
    reason: str
    message: str
    untouched: int
    """Of the other devices."""
    others: int


class Report(Model):
    """`demo-report.json`."""

    ok: bool
    claims: tuple[ClaimOutcome, ...] = ()
    targets: tuple[TargetOutcome, ...] = ()
    revoked: tuple[Revoked, ...] = ()
    repurposed: tuple[Repurposed, ...] = ()
    halted: tuple[Halted, ...] = ()
    error: str | None = None
    """What ended the demo early."""
    steps: dict[str, float] = Field(default_factory=dict)
    """Seconds by step."""

    def document(self) -> dict[str, Any]:
        """All keys, absent values as null."""
        return self.model_dump(mode="json", by_alias=True)


def target_outcome(*, name: str, claim: str, owed: Set[str], arrivals: Mapping[str, Arrival]) -> TargetOutcome:
    """Judge one endpoint.

    Args:
        name: of the target.
        claim: whose it is.
        owed: ids that had to arrive; anything else that arrived does not count.
        arrivals: by id.
    """
    arrived = [arrivals[each] for each in owed if each in arrivals]
    latencies = sorted(each.latency_milliseconds for each in arrived if each.latency_milliseconds is not None)
    return TargetOutcome(
        name=name,
        claim=claim,
        published=len(owed),
        delivered=len(arrived),
        signed=sum(each.signed_by is not None for each in arrived),
        duplicates=sum(each.copies - 1 for each in arrived),
        lost=len(owed) - len(arrived),
        p50_milliseconds=percentile(latencies, 50),
        p99_milliseconds=percentile(latencies, 99),
    )


def judge(
    claims: Sequence[ClaimOutcome],
    targets: Sequence[TargetOutcome],
    *,
    steps: Mapping[str, float],
    revoked: Sequence[Revoked] = (),
    repurposed: Sequence[Repurposed] = (),
    halted: Sequence[Halted] = (),
) -> Report:
    """Put it together.

    Good when every claim got what it asked for, every target all that it was owed, whoever lost its trust lost
    everything, what was flashed runs something else, and what failed did so on one device alone.
    """
    bound = bool(claims) and all(each.bound and each.satisfied for each in claims)
    delivered = {each.claim for each in targets if each.published > 0 and each.lost == 0}
    complete = all(each.lost == 0 for each in targets) and delivered >= {each.name for each in claims}
    withdrawn = all(each.withdrawn for each in revoked)
    flashed = all(each.after not in ("", each.before) for each in repurposed)
    contained = all(each.untouched == each.others and each.state in ("Failed", "RolledBack") for each in halted)
    return Report(
        ok=bound and complete and withdrawn and flashed and contained,
        claims=tuple(claims),
        targets=tuple(targets),
        revoked=tuple(revoked),
        repurposed=tuple(repurposed),
        halted=tuple(halted),
        steps=dict(steps),
    )


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least `percent` of all do not exceed (nearest rank), to the microsecond."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)], 3)


def plot(points: Sequence[tuple[float, float]], *, width: int = 72, height: int = 8, unit: str = "") -> list[str]:
    """Values over time as lines of text: one column a slice of time, a dot for each value in it.

    Args:
        points: (seconds, value), at least one.
        width: columns.
        height: lines.
        unit: after the numbers at the side.
    """
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    rows = [[" "] * width for _ in range(height)]
    for at, value in points:
        column = round((at - first) / (last - first or 1) * (width - 1))
        row = round((high - value) / (high - low or 1) * (height - 1))
        rows[row][column] = "•"
    labels = [f"{value:.1f} {unit}".rstrip() for value in (high, low)]
    margin = max(map(len, labels))
    sides = [labels[0], *[""] * (height - 2), labels[1]]
    lines = [f"{side:>{margin}} │{''.join(row)}" for side, row in zip(sides, rows, strict=True)]
    return [*lines, f"{'':>{margin}} └{f' {last - first:.1f} s '.rjust(width, '─')}"]
