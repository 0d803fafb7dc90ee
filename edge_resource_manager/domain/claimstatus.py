"""What a claim says of itself: its conditions, once what could be done for it is done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice

from crds.conditions import Verdict
from crds.models.sensorclaim import MAX_BINDINGS
from edge_resource_manager.domain.claims import SHOWN, Plan, Silent, Situation, free, intolerable
from edge_resource_manager.domain.matching import Candidate, Fails, describe
from edge_resource_manager.domain.promises import verdicts as kept_promises
from edge_resource_manager.reasons import ClaimCondition, ClaimReason


def verdicts(
    situation: Situation, plan: Plan, *, near: Sequence[tuple[Candidate, Fails]] = (), lost: Sequence[str] = ()
) -> tuple[Verdict, ...]:
    """The conditions, once a plan is settled.

    Args:
        situation: what was observed.
        plan: with nothing left to do.
        near: the flavors that came closest, if none fits.
        lost: what became of bindings, until there are others.
    """
    accepted = Verdict(type=ClaimCondition.ACCEPTED, status="True", reason=ClaimReason.ACCEPTED)
    waiting = _making(plan) or _waiting(situation, near=near)
    promise = kept_promises(
        (*plan.kept, *(binding for binding, _ in plan.spare)),
        limit=situation.need.limits.latency_microseconds,
        windows=situation.windows,
    )
    untold = sorted(f"{provider} did not answer: {why}" for provider, why in situation.silent.items())
    if situation.count == "All":
        complete = plan.bound > 0 and not (waiting and plan.bound < MAX_BINDINGS)
        tally = [f"all {plan.bound} that fit are bound" if complete else f"{plan.bound} bound"]
        tally += untold if complete else []
    else:
        complete = plan.bound >= situation.count
        tally = [f"{plan.bound} of {situation.count} bound"]
    if not complete:
        message = "; ".join([*tally, *(f"lost {each}" for each in lost), *waiting, *untold])
        reason = _unbound(situation, plan, waiting=bool(_refusals(situation)))
        return (
            accepted,
            Verdict(type=ClaimCondition.BOUND, status="False", reason=reason, message=message),
            Verdict(type=ClaimCondition.READY, status="False", reason=reason, message=message),
            *promise,
        )
    bound = Verdict(type=ClaimCondition.BOUND, status="True", reason=ClaimReason.BOUND, message="; ".join(tally))
    return accepted, bound, _ready(situation, plan, tally="; ".join(tally)), *promise


def not_accepted(message: str) -> tuple[Verdict, ...]:
    """The conditions of a claim that asks for what cannot be asked."""
    failing = (ClaimCondition.ACCEPTED, ClaimCondition.BOUND, ClaimCondition.READY)
    return _failing(failing, reason=ClaimReason.INVALID, message=message)


def no_identity(message: str) -> tuple[Verdict, ...]:
    """The conditions of a claim in a cluster that does not know who it is, so that it can buy nothing."""
    accepted = Verdict(type=ClaimCondition.ACCEPTED, status="True", reason=ClaimReason.ACCEPTED)
    failing = (ClaimCondition.BOUND, ClaimCondition.READY)
    return accepted, *_failing(failing, reason=ClaimReason.NO_IDENTITY, message=message)


def _failing(types: Iterable[ClaimCondition], *, reason: ClaimReason, message: str) -> tuple[Verdict, ...]:
    return tuple(Verdict(type=each, status="False", reason=reason, message=message) for each in types)


def _refusals(situation: Situation) -> list[str]:
    refused = free(situation, refused=True)
    intended = [
        (binding.flavor, binding.provider)
        for binding in situation.bindings
        if not binding.contract and (binding.flavor, binding.provider) in situation.refused
    ]
    flavors: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for flavor, provider in (*((candidate.flavor, candidate.provider) for candidate, _ in refused), *intended):
        flavors[provider, situation.refused[flavor, provider]].add(flavor)
    return [
        f"{provider} refused {min(which)}{f' and {len(which) - 1} more' * (len(which) > 1)}: {why}"
        for (provider, why), which in sorted(flavors.items())
    ]


def _making(plan: Plan) -> list[str]:
    """What is on its way."""
    return [
        f"a device of {binding.provider} is being made into {binding.flavor}, "
        f"expected within {binding.repurposing.expected_seconds} s, given up at {binding.repurposing.until}"
        for binding in plan.making[:SHOWN]
        if binding.repurposing
    ]


def _waiting(situation: Situation, *, near: Sequence[tuple[Candidate, Fails]]) -> list[str]:
    """What stands between the claim and (more) flavors."""
    if situation.providers == 0:
        return ["there is no KnownCluster to ask"]
    refusals = _refusals(situation)
    if refusals:
        more = len(refusals) - SHOWN
        return [*refusals[:SHOWN], *([f"and {more} more such answers"] if more > 0 else [])]
    if situation.count == "All" and any(binding.contract for binding in situation.bindings):
        return []
    answered = situation.providers - len(situation.silent)
    if answered == 0:
        return []
    asked = f"no {'other ' * bool(situation.bindings)}flavor of {answered} provider{'s' * (answered > 1)} fits"
    return [asked, *([describe(near)] if near else [])]


def _unbound(situation: Situation, plan: Plan, *, waiting: bool) -> ClaimReason:
    if plan.making:
        return ClaimReason.REPURPOSING
    if plan.bound:
        return ClaimReason.PARTLY_BOUND
    if situation.providers == 0:
        return ClaimReason.NO_PROVIDERS
    if len(situation.silent) == situation.providers:
        return ClaimReason.PROVIDERS_SILENT
    return ClaimReason.REFUSED if waiting else ClaimReason.NO_MATCH


def _ready(situation: Situation, plan: Plan, *, tally: str) -> Verdict:
    """Of a claim that is bound: whether every binding does what it should."""
    held = {binding.flavor for binding in plan.kept} | {binding.flavor for binding, _ in plan.spare}
    untold = [(flavor, why) for flavor, why in sorted(situation.unconfigured.items()) if flavor in held]
    if untold:
        return _not_ready(ClaimReason.CONFIGURATION_REFUSED, untold)
    stale = [binding for binding in plan.kept if binding.configuration_digest != situation.digest]
    if stale:
        rows = [(each.flavor, f"still delivers as before: {each.provider} is silent") for each in stale]
        return _not_ready(ClaimReason.PROVIDER_SILENT, rows)
    if plan.spare:
        broken = [row for row in plan.spare if intolerable(row[0], situation) is not None]
        if broken:
            return _not_ready(ClaimReason.LATENCY_BREACHED, [(each.flavor, why) for each, why in broken])
        silent = [isinstance(situation.standings.get(binding.flavor), Silent) for binding, _ in plan.spare]
        reason = ClaimReason.PROVIDER_SILENT if all(silent) else ClaimReason.FLAVOR_UNAVAILABLE
        return _not_ready(reason, [(binding.flavor, why) for binding, why in plan.spare])
    return Verdict(type=ClaimCondition.READY, status="True", reason=ClaimReason.READY, message=tally)


def _not_ready(reason: ClaimReason, rows: Iterable[tuple[str, str]]) -> Verdict:
    message = "; ".join(f"{flavor} {why}" for flavor, why in islice(rows, SHOWN))
    return Verdict(type=ClaimCondition.READY, status="False", reason=reason, message=message)
