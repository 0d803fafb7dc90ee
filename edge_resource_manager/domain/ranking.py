"""Which of several flavors that fit is bought first.

Second step of a claim's decision (matching → ranking → claims). The order is lexicographic over buckets, so that noise
in one criterion never overrules the next: margin to the limits, freshness, price, spread over providers, and the
flavor's id so that the same input always gives the same answer. docs/claims.md explains it to users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation

from edge_resource_manager.domain.matching import Candidate, Fits
from edge_resource_manager.domain.wire import Price

MARGIN_BUCKETS = 10
FRESH_SECONDS = (60, 600, 3600, 86400)
FREE = Decimal(0)
UNREADABLE = Decimal("Infinity")


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A candidate with everything of its rank that does not depend on what was chosen before it."""

    candidate: Candidate
    merit: tuple[int, int, Decimal]


def rank(fitting: Iterable[tuple[Candidate, Fits]], *, bound: Mapping[str, int], now: datetime) -> Iterator[Candidate]:
    """Best first; each flavor id once, from the provider that ranks best.

    Args:
        fitting: flavors that satisfy the claim.
        bound: how many flavors of this claim each provider has sold already.
        now: to tell how fresh an offer is.
    """
    offers = list(fitting)
    comparable = _comparable(candidate.price for candidate, _ in offers)
    ranked = sorted(
        (
            _Ranked(
                candidate,
                (
                    -int(fits.margin * MARGIN_BUCKETS),
                    _age_bucket(candidate.timestamp, now=now),
                    _amount(candidate.price) if comparable else FREE,
                ),
            )
            for candidate, fits in offers
        ),
        key=lambda one: (one.merit, one.candidate.flavor, one.candidate.provider),
    )
    yield from _spread(ranked, bound=Counter(bound))


def _spread(ranked: list[_Ranked], *, bound: Counter[str]) -> Iterator[Candidate]:
    """Within equal merit, always the provider next that has sold the least so far."""
    seen: set[str] = set()
    start = 0
    while start < len(ranked):
        end = start
        queues: dict[str, list[Candidate]] = {}
        while end < len(ranked) and ranked[end].merit == ranked[start].merit:
            candidate = ranked[end].candidate
            queues.setdefault(candidate.provider, []).append(candidate)
            end += 1
        for queue in queues.values():
            queue.reverse()
        while queues:
            provider = min(queues, key=lambda name: (bound[name], queues[name][-1].flavor, name))
            candidate = queues[provider].pop()
            if not queues[provider]:
                del queues[provider]
            if candidate.flavor not in seen:
                seen.add(candidate.flavor)
                bound[provider] += 1
                yield candidate
        start = end


def _age_bucket(timestamp: datetime, *, now: datetime) -> int:
    age = (now - timestamp).total_seconds()
    return sum(age >= limit for limit in FRESH_SECONDS)


def _amount(price: Price) -> Decimal:
    """The amount: zero where nothing is asked, beyond all others where it is no price."""
    try:
        amount = Decimal(price.amount.strip() or "0")
    except InvalidOperation:
        return UNREADABLE
    return amount if amount.is_finite() and amount >= FREE else UNREADABLE


def _comparable(prices: Iterable[Price]) -> bool:
    """Whether all that cost something do so in one currency for one period; what is free always compares."""
    paid = (price for price in prices if FREE < _amount(price) < UNREADABLE)
    return len({(price.currency.strip().casefold(), price.period.strip().casefold()) for price in paid}) <= 1
