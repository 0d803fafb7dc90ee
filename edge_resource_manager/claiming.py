"""Claims: what users of this cluster ask for becomes contracts with the clusters that have it.

Every look at a claim observes (its status, what all providers list, how its bindings stand), then decides and carries
out one step after the other until nothing is left to do. What is going to be bought is written to the status before it
is asked for, and every write names the version that it rests on: a manager that is killed at any line, or that is no
longer the leader, buys nothing twice and forgets nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from crds.conditions import Verdict, parse_timestamp
from crds.errors import InvalidField
from crds.kube.client import Conflict, Kube, NotFound
from crds.kube.events import emit
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.fluidos import NodeIdentity
from crds.models.sensorclaim import Binding, SensorClaim, SensorClaimStatus
from edge_resource_manager.claimstore import FINALIZER, ClaimStore, HeldClaim, Memory
from edge_resource_manager.domain.claims import decide
from edge_resource_manager.domain.claimstatus import no_identity, not_accepted, verdicts
from edge_resource_manager.domain.conversion import identity_to_wire
from edge_resource_manager.domain.identity import parse_identity
from edge_resource_manager.domain.matching import Candidate, Fails, Need, closest, judge, printable
from edge_resource_manager.domain.promises import Windows
from edge_resource_manager.domain.query import to_query
from edge_resource_manager.look import Look
from edge_resource_manager.metrics import CLAIM_EVENTS
from edge_resource_manager.providers import Providers
from edge_resource_manager.purchasing import Order
from edge_resource_manager.reasons import ClaimCondition, ClaimReason
from spire.identity import IdentitySource

log = structlog.get_logger(__name__)

CLOSEST_LIMIT = 200
MAX_LOST = 3
"""Lost bindings that a claim tells of until it has others."""
_TOLD = {ClaimCondition.ACCEPTED, ClaimCondition.PROMISE_KEPT}
_GOOD = {ClaimReason.BOUND, ClaimReason.BINDING_RELEASED, ClaimReason.REPURPOSING}
MAX_STEPS = 600
"""More than any look needs: two for each of 256 bindings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSettings:
    """What can be set about claims, in seconds.

    Attributes:
        request: limit of every request to a provider.
        look: how often a claim is looked at when nothing seems to happen.
        provider_grace: how long a provider may be silent before substitutes are wanted.
        refusal: how long a flavor that was refused is not asked for again.
        breach: how long a flavor that broke its promise is not taken again.
        windows: how many windows in succession, beyond the limit on latency, break it.
        release: how long a deleted claim waits for providers to end its contracts.
        workers: claims that are worked on at a time.
    """

    request: float = 2.0
    look: float = 30.0
    provider_grace: float = 60.0
    refusal: float = 30.0
    breach: float = 600.0
    windows: int = 3
    release: float = 30.0
    workers: int = 16


class ClaimReconciler:
    """Feed it with what watches say, and run it.

    Args:
        kube: the consumer's API server.
        settings: see there.
        clock: now, in UTC.
        identity: who this cluster proves to be to providers; None where nobody proves anything, and no trust is asked.
    """

    def __init__(
        self, kube: Kube, settings: ClaimSettings, clock: Callable[[], datetime], *, identity: IdentitySource | None
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._clock = clock
        self._insecure = identity is None
        self._claims = ClaimStore(kube, clock, insecure=self._insecure)
        self._node: NodeIdentity | None = None
        self.providers = Providers(
            seconds=settings.request,
            grace=timedelta(seconds=settings.provider_grace),
            retry=timedelta(seconds=settings.look),
            clock=clock,
            changed=self._flavor_changed,
            withdrawn=self._flavor_withdrawn,
            identity=identity,
        )
        self.queue: WorkQueue[Key] = WorkQueue("claims", self.reconcile, workers=settings.workers)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.providers.run())
            group.create_task(self.queue.run())

    def claim_seen(self, change: Change) -> None:
        """A SensorClaim appeared, changed or went. Echoes of own writes need no second look."""
        match change:
            case Put(key, obj):
                before = self._claims.get(key)
                self._claims.take(key, obj)
                after = self._claims.get(key)
                if after is not None and (before is None or not after.asks_as(before)):
                    self.queue.add(key)
            case Gone(key):
                self._claims.forget(key)

    def known_cluster_seen(self, change: Change) -> None:
        """A KnownCluster appeared, changed or went."""
        if self.providers.seen(change):
            for held in self._claims:
                self.queue.add(held.key)

    def identity_seen(self, change: Change) -> None:
        """The ConfigMap `fluidos-node-identity` appeared, changed or went."""
        node = None
        if isinstance(change, Put):
            try:
                node = parse_identity(change.obj)
            except InvalidField as error:
                log.warning("node identity is incomplete", error=str(error))
        if node != self._node:
            self._node = node
            for held in self._claims:
                self.queue.add(held.key)

    async def reconcile(self, key: Key) -> float | None:
        """Look at one claim; the seconds until it wants another look."""
        held = self._claims.get(key)
        if held is None:
            return None
        try:
            if held.meta.deletion_timestamp:
                return await self._finish(held)
            return await self._look(held)
        except NotFound:
            return None
        except Conflict:
            # Somebody else wrote, or our store is behind: what was decided may be wrong, so decide again.
            await self._claims.refresh(key)
            return 0.05

    async def _look(self, held: HeldClaim) -> float | None:
        spec = held.spec
        try:
            if isinstance(spec, InvalidField):
                raise spec
            need = Need.of(spec, insecure=self._insecure)
        except InvalidField as error:
            await self._wait(held, not_accepted(str(error)))
            return None
        if self._node is None:
            message = "waits for the ConfigMap fluidos-node-identity, which says who buys"
            await self._wait(held, no_identity(message))
            return None
        if FINALIZER not in held.meta.finalizers:
            held = await self._claims.set_finalizers(held, [*held.meta.finalizers, FINALIZER])
        look = Look(
            need=need,
            count=spec.count,
            order=Order.of(held.meta, spec, buyer=identity_to_wire(self._node)),
            bindings=held.bindings,
            refused=self._refusals(held.memory),
            withdrawn=held.memory.withdrawn,
            providers=self.providers,
            windows=Windows(breach=self._settings.windows, seconds=self._settings.look / 3),
            clock=self._clock,
        )
        query = to_query(
            need=spec.sensor,
            limits=spec.limits,
            minimum_tier=need.minimum_tier,
            integrity=need.integrity,
            latency_basis=need.latency_basis,
        )
        await look.observe(query)
        try:
            await self._work_off(held, look, need, query)
        except Conflict:
            held.memory.unrecorded = {each.flavor: each for each in look.bindings if each.contract}
            raise
        return self._next_look(look.bindings)

    async def _wait(self, held: HeldClaim, verdicts: tuple[Verdict, ...]) -> None:
        """Nothing can be asked for; what is bound stays."""
        after = await self._claims.write(held, held.status.bindings, verdicts=verdicts)
        await self._tell(held, _transitions(held.status, after.status))

    async def _work_off(self, held: HeldClaim, look: Look, need: Need, query: Sequence[tuple[str, str]]) -> None:
        """Decide and carry out until there is nothing left to do, then say how it stands.

        Only where something is lacking then, providers are asked what they could make.
        """
        memory, considered = held.memory, not need.repurpose_seconds
        for _ in range(MAX_STEPS):
            plan = decide(look.situation)
            if plan.settled and (considered or not look.wants(plan)):
                break
            if plan.settled:
                considered = True
                await look.consider(query)
                continue
            if look.intend(plan):
                held = await self._claims.write(held, look.bindings)
            await look.carry_out(plan)
        for refused, seconds in ((look.new_refusals, self._settings.refusal), (look.breached, self._settings.breach)):
            until = self._clock() + timedelta(seconds=seconds)
            memory.refused |= {which: (why, until) for which, why in refused.items()}
        lacking = look.lacks(plan)
        near = await self._near(memory, need) if look.wants(plan) else ()
        lost = (note for reason, note in look.told if reason is not ClaimReason.REPURPOSING)
        memory.lost = (*memory.lost, *lost)[-MAX_LOST:] if lacking else ()
        outcome = verdicts(look.situation, plan, near=near, lost=memory.lost)
        after = await self._claims.write(held, look.bindings, verdicts=outcome, bound=plan.bound)
        memory.unrecorded.clear()
        await self._tell(held, [*_transitions(held.status, after.status), *look.told])

    async def _finish(self, held: HeldClaim) -> float | None:
        """End all contracts, then let the claim go: in any case when its time is up, for contracts expire too."""
        if FINALIZER not in held.meta.finalizers:
            return None
        order = None
        if self._node is not None and not isinstance(held.spec, InvalidField):
            order = Order.of(held.meta, held.spec, buyer=identity_to_wire(self._node))
        left = await Look.release_all(held.bindings, order=order, providers=self.providers, clock=self._clock)
        deleted = parse_timestamp(held.meta.deletion_timestamp or "") or self._clock()
        if left and self._clock() - deleted < timedelta(seconds=self._settings.release):
            await self._claims.write(held, tuple(left), bound=len(left))
            return 1.0
        if left:
            which = ", ".join(sorted(f"{binding.flavor} of {binding.provider}" for binding in left))
            await self._tell(held, [(ClaimReason.CONTRACTS_LEFT, f"could not be ended and will expire: {which}")])
        await self._claims.set_finalizers(held, [each for each in held.meta.finalizers if each != FINALIZER])
        return None

    async def _near(self, memory: Memory, need: Need) -> tuple[tuple[Candidate, Fails], ...]:
        """The flavors that came closest, among all: asked for once in a while, it is for people."""
        now = self._clock()
        if memory.near_until is None or memory.near_until <= now:
            answers = await self.providers.ask([("limit", str(CLOSEST_LIMIT))])
            judged = [(candidate, judge(need, candidate)) for candidate in answers.candidates]
            memory.near = closest((each, outcome) for each, outcome in judged if isinstance(outcome, Fails))
            memory.near_until = now + timedelta(seconds=min(self._settings.look / 3, 10.0))
        return memory.near

    def _refusals(self, memory: Memory) -> dict[tuple[str, str], str]:
        now = self._clock()
        memory.refused = {which: (why, until) for which, (why, until) in memory.refused.items() if until > now}
        return {which: why for which, (why, _) in memory.refused.items()}

    def _next_look(self, bindings: tuple[Binding, ...]) -> float:
        now = self._clock()
        ends = (binding.repurposing.until if binding.repurposing else binding.renewal_time for binding in bindings)
        renewals = (parse_timestamp(end or "") for end in ends)
        due = min(((moment - now).total_seconds() for moment in renewals if moment), default=self._settings.look)
        regular = self._settings.look * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret
        return max(min(regular, due), 0.5)

    def _flavor_changed(self, provider: str, flavor: str | None) -> None:
        """A flavor that is another now may be sold where it was refused."""
        if flavor is not None:
            for held in self._claims:
                held.memory.refused.pop((flavor, provider), None)
        self._look_at(provider, flavor)

    def _flavor_withdrawn(self, provider: str, flavor: str, why: str) -> None:
        """Claims that are bound to it tell why they lose it."""
        for held in self._claims:
            if why and any((each.flavor, each.provider) == (flavor, provider) for each in held.status.bindings):
                held.memory.withdrawn[flavor, provider] = printable(why)
        self._look_at(provider, flavor)

    def _look_at(self, provider: str, flavor: str | None) -> None:
        """Claims that an event may concern: bound to that flavor, or taking whatever comes."""
        for held in self._claims:
            bindings = held.status.bindings
            if flavor is None:
                concerned = any(binding.provider == provider for binding in bindings)
            else:
                concerned = any(binding.flavor == flavor for binding in bindings)
            if concerned or held.wants_more:
                # Devices come in crowds; one look is enough for all that arrive within a blink.
                self.queue.add_after(held.key, 0.05)

    async def _tell(self, held: HeldClaim, told: list[tuple[ClaimReason, str]]) -> None:
        """Events, for `kubectl describe`."""
        if isinstance(held.spec, InvalidField):
            return
        for reason, note in told:
            CLAIM_EVENTS.labels(reason).inc()
            await emit(
                self._kube,
                SensorClaim(metadata=held.meta, spec=held.spec),
                kind="Normal" if reason in _GOOD else "Warning",
                reason=reason,
                action="Bind",
                note=note,
                reporter="edge-resource-manager",
            )


def _transitions(before: SensorClaimStatus, after: SensorClaimStatus) -> list[tuple[ClaimReason, str]]:
    """Conditions whose status changed: Bound in both directions, others when they turn false.

    What is being made was told when it was bought.
    """
    was = {each.type: each.status for each in before.conditions}
    return [
        (ClaimReason(each.reason), each.message)
        for each in after.conditions
        if each.status != was.get(each.type)
        and each.reason != ClaimReason.REPURPOSING
        and (each.type == ClaimCondition.BOUND or (each.type in _TOLD and each.status == "False"))
    ]
