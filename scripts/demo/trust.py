"""How trust is given at the beginning, and how it is lost at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crds.models.dataroute import DataRoute
from crds.models.leafdevice import LeafDevice
from scripts.demo.crew import Crew
from scripts.demo.factory import Boards
from scripts.demo.identities import Identities
from scripts.demo.observe import Offer, claims, offers
from scripts.demo.progress import ClaimProgress
from scripts.demo.report import Revoked
from scripts.demo.site import Consumer, Provider, Site
from scripts.simulator.tamper import tamper_with

QUIET_SECONDS: Final = 2.0
"""Without a reading of the device, after everything of it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostTrust:
    """What became of a device that was tampered with.

    Attributes:
        device: its name.
        reason: of the condition Attested.
        seconds: from the tampering to the last of its readings that arrived; 0 where none did.
        claims: what the claims that had it say now, by name.
    """

    device: str
    reason: str
    seconds: float
    claims: Mapping[str, str]

    @property
    def outcome(self) -> Revoked:
        """For the report."""
        return Revoked(
            device=self.device, reason=self.reason, withdrawn=True, seconds_to_last_message=round(self.seconds, 3)
        )


def identify(sites: Sequence[Site], crew: Crew, *, boards: Boards, limit: float) -> list[Identities]:
    """Start issuers and helpers, make providers and consumers known to each other, and say which boards are believed.

    Raises:
        ChildFailedError: a process ended.
        NotReachedError: somebody has no identity in time.
    """
    known = [site.identities for site in sites if site.identities is not None]
    for site in sites:
        if site.identities is not None:
            # Consumers as in a cluster, providers as on a machine without one: both ways work.
            site.identities.start(crew, keys="secrets" if isinstance(site, Consumer) else "files")
    crew.wait_ready(limit=limit)
    for site in sites:
        if site.identities is None:
            continue
        others = [each for each in sites if isinstance(each, Provider) != isinstance(site, Provider)]
        site.identities.federate(each.identities for each in others if each.identities is not None)
        if not isinstance(site, Consumer):
            site.identities.accept(boards.policy)
    return known


def tamper(victim: Offer, crew: Crew, *, boards: Boards, progress: Sequence[ClaimProgress], limit: float) -> LostTrust:
    """Tamper with a device whose readings arrive, and wait until nothing of it is left.

    Args:
        victim: a flavor of the device.
        crew: who must go on working.
        boards: where its flash is.
        progress: claims that may have it.
        limit: seconds for each wait.

    Raises:
        NotReachedError: it keeps something.
    """
    provider, device = victim.provider, victim.device
    targets = [(each, name) for each in progress for name in each.ask.endpoints]
    before = time.time()
    crew.wait(lambda: _last(targets, device) > before, what=f"readings of {device}", limit=limit)
    began = time.time()
    tamper_with(boards.flash(victim.board))
    crew.wait(lambda: _refusal(provider, device) is not None, what=f"{device} to lose its trust", limit=limit)
    crew.wait(
        lambda: not _kept(provider, device, progress),
        what=f"everything of {device} to be withdrawn",
        limit=limit,
        known=lambda: ", ".join(_kept(provider, device, progress)),
    )
    crew.wait(
        lambda: time.time() - _last(targets, device) > QUIET_SECONDS, what=f"readings of {device} to end", limit=limit
    )
    reason = _refusal(provider, device) or ""
    return LostTrust(
        device=device,
        reason=reason,
        seconds=max(0.0, _last(targets, device) - began),
        claims={each.ask.name: _says(each) for each in progress if any(it.device == device for it in each.bound)},
    )


def _last(targets: Sequence[tuple[ClaimProgress, str]], device: str) -> float:
    """When the last reading of a device arrived anywhere."""
    arrived = (
        arrival.at
        for each, name in targets
        for arrival in each.sink.received(each.ask.target(name)).arrivals.values()
        if arrival.device == device
    )
    return max(arrived, default=0.0)


def _refusal(provider: Provider, device: str) -> str | None:
    """Why a device is not trusted any more."""
    for leaf in map(LeafDevice.parse, provider.objects("/apis/edge.fluidos.eu/v1alpha1/leafdevices")):
        if leaf.spec.source.name == device and leaf.status is not None:
            for condition in leaf.status.conditions:
                if condition.type == "Attested" and condition.status == "False":
                    return condition.reason
    return None


def _says(each: ClaimProgress) -> str:
    """What a claim's condition Ready says."""
    claim = claims(each.consumer)[each.ask.name]
    for condition in claim.status.conditions if claim.status else ():
        if condition.type == "Ready":
            return f"Ready={condition.status} {condition.reason}: {condition.message}"
    return "no condition Ready"


def _kept(provider: Provider, device: str, progress: Sequence[ClaimProgress]) -> list[str]:
    """What there is of a device still: flavors, routes with a source, bindings of claims."""
    found = [f"flavor {each.name}" for each in offers(provider) if each.device == device]
    for route in map(DataRoute.parse, provider.objects("/apis/edge.fluidos.eu/v1alpha1/dataroutes")):
        sources = route.status.sources if route.status else ()
        found += [f"route {route.metadata.name}" for source in sources if source.device.endswith(device)]
    gone = {offer.name for each in progress for offer in each.bound if offer.device == device}
    for consumer in {each.consumer.name: each.consumer for each in progress}.values():
        for name, claim in claims(consumer).items():
            bindings = claim.status.bindings if claim.status else ()
            found += [f"binding of {name}" for binding in bindings if binding.flavor in gone]
    return found
