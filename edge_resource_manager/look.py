"""One look at a claim: what was observed in it, and the steps that its plans ask for.

It lives as long as the look does. It writes nothing to the API server: what it changed is in `bindings`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Literal, TypeVar

from crds.conditions import timestamp
from crds.errors import InvalidField
from crds.models.sensorclaim import Binding, Repurposing
from edge_resource_manager.adapters.rear_client import (
    NotThere,
    ProviderRefused,
    ProviderSilent,
    RearProvider,
    SomebodyElse,
)
from edge_resource_manager.domain.claims import Ended, Offered, Plan, Silent, Situation, Standing
from edge_resource_manager.domain.matching import Candidate, Need
from edge_resource_manager.domain.promises import Windows, heard, is_broken
from edge_resource_manager.providers import Answers, Providers
from edge_resource_manager.purchasing import Bought, NotBought, Order, buy, configure, release
from edge_resource_manager.reasons import ClaimReason

AT_ONCE = 16
"""Requests of one look that are under way at a time."""

T = TypeVar("T")


class Look:
    """State of one look.

    Args:
        need: what is asked, compiled.
        count: how many.
        order: what providers are told.
        bindings: from the claim's status.
        refused: (flavor, provider) that need not be tried now, and why.
        withdrawn: (flavor, provider) that are no longer offered, and why; taken out when the binding is found lost.
        providers: the known clusters.
        windows: how measurements are judged.
        clock: now, in UTC.
    """

    def __init__(
        self,
        *,
        need: Need,
        count: int | Literal["All"],
        order: Order,
        bindings: Iterable[Binding],
        refused: Mapping[tuple[str, str], str],
        withdrawn: MutableMapping[tuple[str, str], str],
        providers: Providers,
        windows: Windows,
        clock: Callable[[], datetime],
    ) -> None:
        self._windows = windows
        self._need = need
        self._count = count
        self._order = order
        self._providers = providers
        self._clock = clock
        self._bindings = {binding.flavor: binding for binding in bindings}
        self._resumed = set(self._bindings)
        self._refused = dict(refused)
        self._withdrawn = withdrawn
        self._standings: dict[str, Standing] = {}
        self._answers = Answers(asked=0)
        self._unconfigured: dict[str, str] = {}
        self._unreleased: dict[str, str] = {}
        self.new_refusals: dict[tuple[str, str], str] = {}
        self.breached: dict[tuple[str, str], str] = {}
        self.told: list[tuple[ClaimReason, str]] = []

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """As they are by now."""
        return tuple(self._bindings.values())

    @property
    def situation(self) -> Situation:
        """What the next decision rests on."""
        return Situation(
            need=self._need,
            count=self._count,
            digest=self._order.digest,
            bindings=self.bindings,
            standings=self._standings,
            candidates=self._answers.candidates,
            providers=self._answers.asked,
            silent=self._answers.silent,
            refused=self._refused,
            unconfigured=self._unconfigured,
            unreleased=self._unreleased,
            windows=self._windows,
            now=self._clock(),
        )

    def lacks(self, plan: Plan) -> bool:
        """Whether people want to know what came closest."""
        return plan.bound < (1 if self._count == "All" else self._count)

    def wants(self, plan: Plan) -> bool:
        """Whether more is lacking than is on its way."""
        return plan.bound + len(plan.making) < (1 if self._count == "All" else self._count)

    async def observe(self, query: Sequence[tuple[str, str]]) -> None:
        """Ask all providers, and how every binding stands."""
        self._answers = await self._providers.ask(query)
        listed = {(candidate.flavor, candidate.provider): candidate for candidate in self._answers.candidates}
        bindings = self.bindings
        standings = await _bounded(
            partial(self._stand, binding, listed.get((binding.flavor, binding.provider))) for binding in bindings
        )
        self._standings = {binding.flavor: standing for binding, standing in zip(bindings, standings, strict=True)}
        for binding, standing in zip(bindings, standings, strict=True):
            if isinstance(standing, Offered):
                self._bindings[binding.flavor] = heard(
                    self._described(binding, standing.candidate),
                    standing.measured,
                    limit=self._need.limits.latency_microseconds,
                    windows=self._windows,
                    now=self._clock(),
                )

    async def consider(self, query: Sequence[tuple[str, str]]) -> None:
        """Ask all providers what they could make, too."""
        potential = await self._providers.ask(query, how=RearProvider.potential)
        made = tuple(each for each in potential.candidates if each.view.repurpose_seconds is not None)
        self._answers = replace(self._answers, candidates=(*self._answers.candidates, *made))

    def intend(self, plan: Plan) -> bool:
        """Note down what a plan is going to buy; whether that is anything new."""
        new = [candidate for candidate in plan.reserve if candidate.flavor not in self._bindings]
        for candidate in new:
            self._standings[candidate.flavor] = Offered(candidate)
            intent = Binding(
                flavor=candidate.flavor,
                provider=candidate.provider,
                provider_address=candidate.address,
                contract="",
                transaction="",
            )
            self._bindings[candidate.flavor] = self._described(intent, candidate)
        return bool(new)

    async def carry_out(self, plan: Plan) -> None:
        """Do what a plan says, all at once, and note what came of it."""
        for binding, why in plan.forget:
            self._bindings.pop(binding.flavor, None)
            if binding.repurposing:
                self._avoid(binding, why)
            self.told.append((ClaimReason.BINDING_LOST, f"{binding.flavor} of {binding.provider}: {why}"))
        await _bounded(
            (
                *(partial(self._buy, candidate) for candidate in plan.reserve),
                *(partial(self._configure, binding) for binding in plan.configure),
                *(partial(self._release, binding, why) for binding, why in plan.release),
            )
        )

    @staticmethod
    async def release_all(
        bindings: Iterable[Binding],
        *,
        order: Order | None,
        providers: Providers,
        clock: Callable[[], datetime],
    ) -> list[Binding]:
        """End the bindings of a claim that is deleted; those that could not be ended."""

        async def end(binding: Binding) -> Binding | None:
            try:
                await release(providers.of(binding), binding, order, now=clock())
            except (ProviderSilent, ProviderRefused):
                return binding
            return None

        left = await _bounded(partial(end, binding) for binding in bindings)
        return [binding for binding in left if binding is not None]

    async def _stand(self, binding: Binding, listed: Candidate | None) -> Standing:
        name = binding.provider
        if name not in self._providers.addresses():
            lost = self._providers.is_lost(name)
            if lost and not binding.contract:
                return Ended("its provider is no longer known")
            return Silent("there is no KnownCluster of that name", lost=lost, known=False)
        if name in self._answers.silent:
            return Silent(self._answers.silent[name], lost=self._providers.is_lost(name))
        try:
            provider = self._providers.of(binding)
            candidate = listed or await self._candidate(provider, binding)
            if candidate is None:
                return self._ended(binding, "the flavor was withdrawn")
            contract = await provider.contract(binding.contract) if binding.contract else None
            if binding.contract and contract is None:
                return self._ended(binding, "the provider does not hold the contract any more")
        except SomebodyElse as error:
            return Silent(str(error), lost=True)
        except (ProviderSilent, ProviderRefused, InvalidField) as error:
            return Silent(str(error))
        return Offered(candidate, contract.measured if contract else None)

    def _ended(self, binding: Binding, how: str) -> Ended:
        why = self._withdrawn.pop((binding.flavor, binding.provider), None)
        return Ended(f"{how}: {why}" if why else how)

    async def _candidate(self, provider: RearProvider, binding: Binding) -> Candidate | None:
        """A bound flavor that the list did not hold: it may have changed, so that the query no longer finds it."""
        flavor = await provider.sensor(binding.flavor)
        if flavor is None:
            return None
        return Candidate.of(flavor, provider=binding.provider, address=binding.provider_address)

    async def _buy(self, candidate: Candidate) -> None:
        intent = self._bindings[candidate.flavor]
        resumed = candidate.flavor in self._resumed
        which = (candidate.flavor, candidate.provider)
        try:
            outcome = await buy(self._providers.of(intent), intent, self._order, resumed=resumed, now=self._clock())
        except ProviderSilent as error:
            outcome = NotBought(str(error), held=resumed)
        match outcome:
            case Bought(binding):
                self._bindings[candidate.flavor] = binding
                if binding.repurposing and not resumed:
                    note = f"a device of {binding.provider} is being made into {binding.flavor}"
                    self.told.append((ClaimReason.REPURPOSING, note))
            case NotBought(why, held):
                self._refused[which] = self.new_refusals[which] = why
                if not held:
                    del self._bindings[candidate.flavor]

    async def _configure(self, binding: Binding) -> None:
        flavor = binding.flavor
        try:
            self._bindings[flavor] = await configure(
                self._providers.of(binding), binding, self._order, now=self._clock()
            )
        except NotThere:
            self._standings[flavor] = Ended("the provider does not hold the contract any more")
        except (ProviderRefused, ProviderSilent) as error:
            self._unconfigured[flavor] = str(error)

    async def _release(self, binding: Binding, why: str) -> None:
        try:
            await release(self._providers.of(binding), binding, self._order, now=self._clock())
        except (ProviderRefused, ProviderSilent) as error:
            standing = self._standings.get(binding.flavor)
            if not (isinstance(standing, Silent) and not standing.known):
                self._unreleased[binding.flavor] = str(error)
                return
        del self._bindings[binding.flavor]
        limit = self._need.limits.latency_microseconds
        if binding.repurposing or is_broken(binding, limit=limit, windows=self._windows):
            self._avoid(binding, why)
        if binding.contract:
            self.told.append((ClaimReason.BINDING_RELEASED, f"{binding.flavor} of {binding.provider}: {why}"))

    def _avoid(self, binding: Binding, why: str) -> None:
        """Not to be taken again for long: what was promised of it did not come."""
        which = (binding.flavor, binding.provider)
        self._refused[which] = self.breached[which] = why

    def _described(self, binding: Binding, candidate: Candidate) -> Binding:
        """What its provider says of the sensor now; that a device was attested anew changes no contract."""
        view, repurposing = candidate.view, None
        if view.repurpose_seconds is not None:
            until = self._clock() + timedelta(seconds=self._need.repurpose_seconds)
            repurposing = binding.repurposing or Repurposing(
                expected_seconds=view.repurpose_seconds, until=timestamp(until)
            )
        return binding.model_copy(
            update={
                "sensor_model": view.sensor.model,
                "latency_microseconds": view.sensor.latency_microseconds,
                "spiffe_id": view.trust.spiffe_id if view.trust else None,
                "tier": view.trust.tier if view.trust else "None",
                "repurposing": repurposing,
            }
        )


async def _bounded(work: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """Do all, at most AT_ONCE at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(each: Callable[[], Awaitable[T]]) -> T:
        async with places:
            return await each()

    return await asyncio.gather(*(one(each) for each in work))
