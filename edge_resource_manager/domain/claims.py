"""What to do next for a claim: the decision between what was observed and what is done about it.

Last step of a claim's decision (matching → ranking → claims). `decide` is asked again after every step that was carried
out, until its plan is settled: so a manager that dies in the middle goes on from whatever it finds.
Bindings move through `intended` (contract empty: written down before anything is bought) and `bought`; nothing that the
provider may hold for us is ever forgotten before it has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Literal, assert_never

from crds.conditions import parse_timestamp
from crds.models.measured import Measured
from crds.models.sensorclaim import MAX_BINDINGS, Binding
from edge_resource_manager.domain.matching import Candidate, Fails, Fits, Miss, Need, judge, printable
from edge_resource_manager.domain.promises import Windows, breach, has_handed_over, is_broken
from edge_resource_manager.domain.ranking import rank

SHOWN = 3
"""How many refusals a message lists."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The provider still offers the bound flavor, and holds the contract if there is one.

    Attributes:
        candidate: the flavor as it is offered now.
        measured: of the contract's delivery, as far as the provider says.
    """

    candidate: Candidate
    measured: Measured | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The provider holds nothing for this binding any more."""

    why: str


@dataclass(frozen=True, slots=True)
class Silent:
    """The provider does not say.

    Attributes:
        why: as far as known.
        lost: it has been silent for so long that a substitute is wanted.
        known: there is still a KnownCluster for it.
    """

    why: str
    lost: bool = False
    known: bool = True


Standing = Offered | Ended | Silent
UNSEEN = Silent("not asked yet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a decision rests on.

    Attributes:
        need: what is asked.
        count: how many flavors, or All that fit.
        digest: of the endpoints and filter that providers shall hold.
        bindings: what the status says, intents included.
        standings: by flavor, how each binding stands at its provider.
        candidates: what the providers that answered list.
        providers: how many were asked.
        silent: providers that did not answer, and why.
        refused: (flavor, provider) that need not be tried now, and why.
        unconfigured: flavors whose provider did not take the configuration in this look, and why.
        unreleased: flavors whose binding could not be ended in this look, and why.
        windows: how measurements are judged.
        now: for freshness and expiry.
    """

    need: Need
    count: int | Literal["All"]
    digest: str
    bindings: tuple[Binding, ...]
    standings: Mapping[str, Standing]
    candidates: tuple[Candidate, ...]
    providers: int
    silent: Mapping[str, str]
    refused: Mapping[tuple[str, str], str]
    unconfigured: Mapping[str, str]
    unreleased: Mapping[str, str]
    windows: Windows
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do at once, and what stays.

    Attributes:
        forget: bindings of which nothing is left at the provider, and why.
        reserve: flavors to reserve and buy, intents that were interrupted first.
        configure: bindings whose provider has to be told the configuration, or that are due for renewal.
        release: bindings to end at the provider, and why.
        kept: bindings that are as asked.
        spare: bindings that are not, but better than nothing, and why.
        leaving: bindings that end as soon as their substitutes deliver.
    """

    forget: tuple[tuple[Binding, str], ...] = ()
    reserve: tuple[Candidate, ...] = ()
    configure: tuple[Binding, ...] = ()
    release: tuple[tuple[Binding, str], ...] = ()
    kept: tuple[Binding, ...] = ()
    spare: tuple[tuple[Binding, str], ...] = ()
    leaving: tuple[Binding, ...] = ()

    @property
    def settled(self) -> bool:
        """Nothing to do until something changes."""
        return not (self.forget or self.reserve or self.configure or self.release)

    @property
    def making(self) -> tuple[Binding, ...]:
        """Those of `kept` whose device is not yet what was bought."""
        return tuple(binding for binding in self.kept if binding.repurposing)

    @property
    def bound(self) -> int:
        """Flavors that deliver, and whose contract stays."""
        return len(self.kept) - len(self.making) + len(self.spare)


def decide(situation: Situation) -> Plan:
    """The next step."""
    sorted_ = _sort(situation)
    limit = MAX_BINDINGS if situation.count == "All" else situation.count
    kept, surplus = sorted_.good[:limit], sorted_.good[limit:]
    missing = limit - len(kept)
    reserve = _reserve(situation, sorted_, kept=kept, missing=missing)
    chosen = {candidate.flavor for candidate in reserve}

    release = [(binding, "more than the claim's count") for binding in surplus]
    release += [(binding, why) for binding, why in sorted_.abandoned if binding.flavor not in chosen]
    if missing == 0:
        # An intent whose purchase was not answered may have succeeded: it must not stay as one too many.
        release += [(binding, "more than the claim's count") for binding, _ in sorted_.intended]
    spare, leaving = list(sorted_.spare), list[Binding]()
    if not reserve:
        # Substitutes are bought first; what cannot be replaced by any stays as long as it is of some use.
        replaced, spare = spare[missing:], spare[:missing]
        leaving = [binding for binding, _ in replaced if _stays_for_now(binding, kept, situation)]
        release += [(binding, why) for binding, why in replaced if binding not in leaving]
        release += sorted_.unfit
    return Plan(
        forget=tuple(sorted_.ended),
        reserve=reserve,
        configure=tuple(
            binding for binding in (*kept, *(binding for binding, _ in spare)) if _outdated(binding, situation)
        ),
        release=tuple((binding, why) for binding, why in release if _releasable(binding, situation)),
        kept=tuple(kept),
        spare=tuple(spare),
        leaving=tuple(leaving),
    )


@dataclass(slots=True)
class _Sorted:
    """Bindings by what they are good for, each list in order of preference."""

    good: list[Binding] = field(default_factory=list)
    intended: list[tuple[Binding, Candidate]] = field(default_factory=list)
    abandoned: list[tuple[Binding, str]] = field(default_factory=list)
    spare: list[tuple[Binding, str]] = field(default_factory=list)
    unfit: list[tuple[Binding, str]] = field(default_factory=list)
    ended: list[tuple[Binding, str]] = field(default_factory=list)


def _sort(situation: Situation) -> _Sorted:
    found = _Sorted()
    fitting: dict[str, tuple[Binding, Candidate, Fits]] = {}
    silent: list[Binding] = []
    lost: list[tuple[Binding, str]] = []
    broken: list[tuple[Binding, str]] = []
    for binding in situation.bindings:
        standing = situation.standings.get(binding.flavor, UNSEEN)
        match standing:
            case Ended(why):
                found.ended.append((binding, why))
            case Silent(why) if _passed(binding.expiration_time, now=situation.now):
                found.ended.append((binding, f"the contract expired while {binding.provider} was silent: {why}"))
            case Silent(why, lost=True) if binding.contract:
                lost.append((binding, f"{binding.provider} is silent: {why}"))
            case Silent():
                silent.append(binding)
            case Offered(candidate):
                outcome = _judge(binding, candidate, situation)
                if isinstance(outcome, Fails):
                    _place_failing(found, binding, candidate, outcome, situation=situation)
                elif (worse := intolerable(binding, situation)) is not None:
                    broken.append((binding, worse))
                elif binding.contract:
                    fitting[binding.flavor] = (binding, candidate, outcome)
                else:
                    found.intended.append((binding, candidate))
            case _:
                assert_never(standing)
    best = rank(((candidate, fits) for _, candidate, fits in fitting.values()), bound={}, now=situation.now)
    found.good = [fitting[candidate.flavor][0] for candidate in best]
    # What became of an intent whose provider is silent, only that provider knows: it is neither good nor forgotten.
    found.good += [binding for binding in silent if binding.contract]
    found.spare = [*broken, *found.spare, *lost]
    return found


def _judge(binding: Binding, candidate: Candidate, situation: Situation) -> Fits | Fails:
    making = binding.repurposing
    if making and _passed(making.until, now=situation.now):
        return Fails((Miss(field="repurposing", asked=f"done by {making.until}", has="not done"),))
    return judge(situation.need.once_bound if binding.contract else situation.need, candidate)


def _place_failing(
    found: _Sorted, binding: Binding, candidate: Candidate, outcome: Fails, *, situation: Situation
) -> None:
    why = printable("no longer fits: " + ", ".join(str(miss) for miss in outcome.misses[:SHOWN]))
    if not binding.contract:
        found.abandoned.append((binding, why))
    elif situation.count != "All" and _paused(situation.need, candidate):
        found.spare.append((binding, "is not available"))
    else:
        found.unfit.append((binding, why))


def intolerable(binding: Binding, situation: Situation) -> str | None:
    """Why a substitute is wanted for a binding that does not keep its promise. `All` has no others to take."""
    need, limit = situation.need, situation.need.limits.latency_microseconds
    if need.on_breach == "Mark" or situation.count == "All" or limit is None:
        return None
    return breach(binding, limit=limit) if is_broken(binding, limit=limit, windows=situation.windows) else None


def _stays_for_now(binding: Binding, kept: Sequence[Binding], situation: Situation) -> bool:
    """Whether a binding that works, though badly, waits for its substitutes to work."""
    return intolerable(binding, situation) is not None and not has_handed_over(binding, kept, now=situation.now)


def _reserve(situation: Situation, sorted_: _Sorted, *, kept: Sequence[Binding], missing: int) -> tuple[Candidate, ...]:
    """Interrupted intents first, then the best of what is not bound yet."""
    resumed = [
        candidate
        for _, candidate in sorted_.intended
        if (candidate.flavor, candidate.provider) not in situation.refused
    ][:missing]
    room = min(missing - len(resumed), MAX_BINDINGS - len(situation.bindings))
    sold = Counter(binding.provider for binding in kept)
    fresh = rank(free(situation, refused=False), bound=sold, now=situation.now)
    return (*resumed, *islice(fresh, max(room, 0)))


def free(situation: Situation, *, refused: bool) -> list[tuple[Candidate, Fits]]:
    """Flavors that fit and are not bound; those that were refused, or those that were not."""
    taken = {binding.flavor for binding in situation.bindings}
    return [
        (candidate, outcome)
        for candidate in situation.candidates
        if candidate.flavor not in taken
        and ((candidate.flavor, candidate.provider) in situation.refused) is refused
        and isinstance(outcome := judge(situation.need, candidate), Fits)
    ]


def _paused(need: Need, candidate: Candidate) -> bool:
    """It fits but for its device, which is away."""
    return not candidate.available and isinstance(judge(need, replace(candidate, available=True)), Fits)


def _outdated(binding: Binding, situation: Situation) -> bool:
    if binding.flavor in situation.unconfigured or not isinstance(situation.standings.get(binding.flavor), Offered):
        return False
    due = _passed(binding.renewal_time, now=situation.now)
    return due or binding.configuration_digest != situation.digest


def _releasable(binding: Binding, situation: Situation) -> bool:
    """A provider that is silent now will be told when it answers again; one that we no longer know, never."""
    if binding.flavor in situation.unreleased:
        return False
    standing = situation.standings.get(binding.flavor, UNSEEN)
    return isinstance(standing, Offered) or (isinstance(standing, Silent) and not standing.known)


def _passed(timestamp: str | None, *, now: datetime) -> bool:
    moment = parse_timestamp(timestamp or "")
    return moment is not None and moment <= now
