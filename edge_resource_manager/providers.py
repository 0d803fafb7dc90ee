"""The clusters that a claim can buy from: KnownClusters, asked all at once, each with its own time limit.

A provider is known by its KnownCluster's name, and, where there are identities, by the SPIFFE ID that its gateway
proves; an annotation of the KnownCluster can say which one that must be. What it lists is never kept: a claim looks
again when something changed, and each provider's event stream says when.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from crds.annotations import SPIFFE_ID
from crds.conditions import parse_timestamp
from crds.errors import InvalidField
from crds.kube.queue import backoff
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.fluidos import FLUIDOS_NAMESPACE, KnownCluster
from crds.models.sensorclaim import Binding
from edge_resource_manager.adapters.rear_client import (
    Listing,
    ProviderRefused,
    ProviderSilent,
    Query,
    RearProvider,
    SomebodyElse,
)
from edge_resource_manager.adapters.rear_session import RearSession
from edge_resource_manager.domain import wire
from edge_resource_manager.domain.matching import Candidate
from spire.domain.spiffe_id import SpiffeId
from spire.identity import IdentitySource

log = structlog.get_logger(__name__)

EXPIRY_CHECK_SECONDS = 5.0
UNSERVED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What all providers said to one question.

    Attributes:
        asked: how many there are.
        candidates: the flavors that those who answered list.
        silent: those who did not answer, and why.
    """

    asked: int
    candidates: tuple[Candidate, ...] = ()
    silent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a provider is, and who it must be if that is said."""

    address: str
    pin: str = ""


@dataclass(slots=True)
class _Silence:
    """Since when a provider has not answered, when it was last asked, and why."""

    since: datetime
    tried: datetime
    why: str = ""


class Providers:
    """The known clusters.

    Args:
        seconds: limit of each request.
        grace: how long a provider may be silent before substitutes are wanted.
        retry: how long a provider that was silent is not asked again, unless it is heard of.
        clock: now, in UTC.
        changed: called when a provider says that a flavor changed, or with None when anything may have.
        withdrawn: called when a provider says that it no longer offers a flavor, and why.
        identity: the buyer's; None where nobody proves anything.
    """

    def __init__(
        self,
        *,
        seconds: float,
        grace: timedelta,
        retry: timedelta,
        clock: Callable[[], datetime],
        changed: Callable[[str, str | None], None],
        withdrawn: Callable[[str, str, str], None],
        identity: IdentitySource | None = None,
    ) -> None:
        self._seconds = seconds
        self._grace = grace
        self._retry = retry
        self._clock = clock
        self._changed = changed
        self._withdrawn = withdrawn
        self._clusters: dict[Key, KnownCluster] = {}
        self._silences: dict[str, _Silence] = {}
        self._wake = asyncio.Event()
        self._identity = identity
        self._session: RearSession | None = None

    def seen(self, change: Change) -> bool:
        """A KnownCluster appeared, changed or went; whether that makes a difference to claims."""
        before = self._places()
        match change:
            case Put(key, obj):
                try:
                    self._clusters[key] = KnownCluster.parse(obj)
                except InvalidField as error:
                    log.warning("known cluster not readable", cluster="/".join(key), error=str(error))
                    self._clusters.pop(key, None)
            case Gone(key):
                self._clusters.pop(key, None)
        after = self._places()
        for name, _ in after.items() - before.items():
            self._silences.pop(name, None)
        if after != before:
            self._wake.set()
        return after != before

    def addresses(self) -> dict[str, str]:
        """Provider to `host:port`, without those whose announcement expired; one made by hand never does."""
        return {name: place.address for name, place in self._places().items()}

    def _places(self) -> dict[str, _Place]:
        now = self._clock()
        found: dict[str, _Place] = {}
        for (namespace, name), cluster in sorted(self._clusters.items()):
            end = parse_timestamp(cluster.status.expiration_time) if cluster.status else None
            if (end is None or end > now) and (namespace == FLUIDOS_NAMESPACE or name not in found):
                found[name] = _Place(cluster.spec.address, cluster.metadata.annotations.get(SPIFFE_ID, ""))
        return found

    def of(self, binding: Binding) -> RearProvider:
        """The provider of a binding, where it is now; where it was, if it is no longer known.

        Raises:
            SomebodyElse: its KnownCluster names another one than who sold what is bound.
            ProviderSilent: its address is none.
        """
        place = self._places().get(binding.provider, _Place(binding.provider_address))
        if self._identity is not None and binding.seller and place.pin not in ("", binding.seller):
            raise SomebodyElse(f"sold by {binding.seller}, but its KnownCluster names {place.pin[:200]}")
        return self._at(_Place(place.address, binding.seller or place.pin))

    def _at(self, place: _Place) -> RearProvider:
        if self._session is None:
            self._session = RearSession(self._identity)
        seller = None
        if self._identity is not None and place.pin:
            try:
                seller = SpiffeId.parse(place.pin)
            except InvalidField as error:
                raise ProviderSilent(f"annotation {SPIFFE_ID} of its KnownCluster: {error}") from error
        return RearProvider(self._session, place.address, seconds=self._seconds, seller=seller)

    def is_lost(self, name: str) -> bool:
        """Whether a provider that does not answer has been silent for longer than the grace."""
        now = self._clock()
        silence = self._silences.setdefault(name, _Silence(since=now, tried=now))
        return now - silence.since >= self._grace

    async def ask(
        self, query: Query, *, how: Callable[[RearProvider, Query], Awaitable[Listing]] = RearProvider.sensors
    ) -> Answers:
        """Ask all for their sensors: takes as long as the slowest answer, and one time limit when one falls silent.

        Args:
            query: filters.
            how: for what there is, or for what could be made.
        """
        places = self._places()
        answers = await asyncio.gather(*(self._ask(name, place, query, how) for name, place in places.items()))
        silent: dict[str, str] = {}
        candidates: list[Candidate] = []
        for name, answer in zip(places, answers, strict=True):
            if isinstance(answer, str):
                silent[name] = answer
            else:
                candidates += answer
        return Answers(asked=len(places), candidates=tuple(candidates), silent=silent)

    async def run(self) -> None:
        """Listen to every provider's events until cancelled; closes the connections at the end."""
        listening: dict[tuple[str, _Place], asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    wanted = set(self._places().items())
                    for gone in listening.keys() - wanted:
                        listening.pop(gone).cancel()
                    for name, place in wanted - listening.keys():
                        listening[name, place] = group.create_task(self._listen(name, place))
                    try:
                        async with asyncio.timeout(EXPIRY_CHECK_SECONDS):
                            await self._wake.wait()
                    except TimeoutError:
                        continue
        finally:
            if self._session is not None:
                await self._session.close()
                self._session = None

    async def _ask(
        self, name: str, place: _Place, query: Query, how: Callable[[RearProvider, Query], Awaitable[Listing]]
    ) -> list[Candidate] | str:
        """Its candidates, or why there are none to be had."""
        silence, now = self._silences.get(name), self._clock()
        if silence is not None and now - silence.tried < self._retry:
            return silence.why
        if silence is not None:
            silence.tried = now  # one claim waits for its answer, not all
        try:
            async with asyncio.timeout(self._seconds):
                provider = self._at(place)
                try:
                    listing = await how(provider, query)
                except ProviderRefused:
                    if not query:
                        raise
                    # It does not know a filter: then we filter ourselves.
                    listing = await how(provider, ())
        except (ProviderSilent, ProviderRefused) as error:
            return self._fell_silent(name, str(error))
        except TimeoutError:
            return self._fell_silent(name, f"no answer within {self._seconds:g} s")
        self._silences.pop(name, None)
        return _candidates(listing, provider=name, address=place.address)

    def _fell_silent(self, name: str, why: str) -> str:
        now = self._clock()
        silence = self._silences.setdefault(name, _Silence(since=now, tried=now))
        silence.why = why
        return why

    async def _listen(self, name: str, place: _Place) -> None:
        """One provider's events, connected again whenever they end."""
        failures = 0
        while True:
            fresh = True
            pause = UNSERVED_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
            try:
                async for event in self._at(place).events():
                    if fresh:
                        # It is there, and whatever happened while nobody listened is unknown.
                        self._silences.pop(name, None)
                        self._changed(name, None)
                        fresh, failures = False, 0
                    match event:
                        case wire.Refresh(flavor=flavor):
                            self._changed(name, flavor.flavor_id)
                        case wire.Withdraw(flavor_id=flavor_id, reason=reason):
                            self._withdrawn(name, flavor_id, reason)
                        case wire.Heartbeat():
                            pass
                pause = backoff(1)
            except ProviderRefused as error:
                log.info("no events, will look from time to time", provider=name, error=str(error))
            except ProviderSilent as error:
                failures += 1
                pause = backoff(failures)
                log.info("events interrupted", provider=name, error=str(error), retry_in=round(pause, 1))
            if not fresh:
                self._changed(name, None)
            await asyncio.sleep(pause)


def _candidates(listing: Listing, *, provider: str, address: str) -> list[Candidate]:
    """Those that can be read; one bad flavor hides none of the others."""
    found: list[Candidate] = []
    errors = list(listing.unreadable)
    for flavor in listing.flavors:
        try:
            found.append(Candidate.of(flavor, provider=provider, address=address))
        except InvalidField as error:
            errors.append(error)
    if errors:
        log.warning("flavors not readable", provider=provider, count=len(errors), first=str(errors[0]))
    return found
