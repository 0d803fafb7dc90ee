"""What was promised and what was measured.

A provider publishes, next to the latency that a device declares, the one that it observes. A buyer holds what it has
bought to its claim's limit on latency: one bad window says little, several in succession are a breach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median_low
from typing import Literal

from crds.conditions import Verdict, parse_timestamp, timestamp
from crds.models.measured import Measured
from crds.models.sensorclaim import Binding, Bound
from edge_resource_manager.domain.matching import asked, milliseconds
from edge_resource_manager.reasons import ClaimCondition, ClaimReason

STEADY = 4
"""A figure is news when it differs from the published one by more than a quarter: the measurement is no better."""
SHOWN = 3
HANDED_OVER_MICROSECONDS = 1_000_000
"""Younger readings are on their way, older ones wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How measurements are judged.

    Attributes:
        breach: so many windows in succession beyond the limit are a breach.
        seconds: the shortest window; what is heard sooner is not looked at.
    """

    breach: int = 3
    seconds: float = 10.0


def observation(p99s: Sequence[int | None], *, published: int | None) -> int | None:
    """The observed p99 of a flavor, in microseconds.

    It is the median over its routes: an endpoint that is slow says nothing of the sensor that all others get in time.

    Args:
        p99s: of every route that reads this flavor alone; None where nothing was measured yet.
        published: what was said before.

    Returns:
        What to say: as before, while that is near; None where no route reads the flavor.
    """
    known = [each for each in p99s if each is not None]
    if not known:
        return published if p99s else None
    now = median_low(known)
    if published is not None and abs(now - published) * STEADY <= published:
        return published
    return now


def heard(binding: Binding, news: Measured | None, *, limit: Bound | None, windows: Windows, now: datetime) -> Binding:
    """A binding with what its provider has measured since it was last asked; as it was, where that is no news.

    Args:
        binding: bought.
        news: from the provider.
        limit: of the claim, on latency.
        windows: how often to listen, and how many bad ones make a breach.
        now: to tell one window from the next.
    """
    last = parse_timestamp(binding.measured_time or "")
    if news is None or news == binding.measured or (last and (now - last).total_seconds() < windows.seconds):
        return binding
    breached = 0
    if limit is not None and _exceeds(news, limit):
        breached = min(binding.breached_windows + 1, windows.breach)
    return binding.model_copy(update={"measured": news, "measured_time": timestamp(now), "breached_windows": breached})


def is_broken(binding: Binding, *, limit: Bound | None, windows: Windows) -> bool:
    """Whether what was promised is not kept. A limit that has been loosened since is not broken."""
    measured = binding.measured
    if limit is None or measured is None or binding.breached_windows < windows.breach:
        return False
    return _exceeds(measured, limit)


def has_handed_over(old: Binding, substitutes: Iterable[Binding], *, now: datetime) -> bool:
    """Whether a contract may end for which there are substitutes: they deliver, and nothing waits at the old provider.

    In any case it ends when it would have to be renewed.
    """
    if (due := parse_timestamp(old.renewal_time or "")) is not None and due <= now:
        return True
    waits = old.measured is not None and old.measured.lag_microseconds > HANDED_OVER_MICROSECONDS
    return not waits and all(each.measured is not None and each.measured.delivered for each in substitutes)


def breach(binding: Binding, *, limit: Bound) -> str:
    """What was measured and what was asked, for people."""
    worst = (binding.measured and binding.measured.worst_microseconds) or 0
    return f"measured latency {milliseconds(worst)}, asked {asked(limit, milliseconds)}"


def verdicts(bindings: Sequence[Binding], *, limit: Bound | None, windows: Windows) -> tuple[Verdict, ...]:
    """The condition PromiseKept; none where the claim limits no latency, or nothing is bound."""
    if limit is None or not bindings:
        return ()
    broken = [each for each in bindings if is_broken(each, limit=limit, windows=windows)]
    if broken:
        rows = [f"{each.flavor} of {each.provider}: {breach(each, limit=limit)}" for each in broken[:SHOWN]]
        more = [f"and {len(broken) - SHOWN} more"] if len(broken) > SHOWN else []
        return (_kept("False", ClaimReason.LATENCY_BREACHED, "; ".join([*rows, *more])),)
    measured = sum(each.measured is not None for each in bindings)
    if measured == 0:
        return (_kept("Unknown", ClaimReason.NOT_MEASURED, "nothing has been measured yet"),)
    return (_kept("True", ClaimReason.KEPT, f"{measured} of {len(bindings)} measured"),)


def _kept(status: Literal["True", "False", "Unknown"], reason: ClaimReason, message: str) -> Verdict:
    return Verdict(type=ClaimCondition.PROMISE_KEPT, status=status, reason=reason, message=message)


def _exceeds(measured: Measured, limit: Bound) -> bool:
    worst = measured.worst_microseconds
    return worst is not None and limit.upper is not None and worst > limit.upper
