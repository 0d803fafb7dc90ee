"""Writing what discovery decided: LeafDevice and Flavors at once, status and Events behind them.

Whether a sensor can be bought is urgent, what `kubectl` shows of it is not. A status costs the API server more than
two flavors, so statuses have a queue of their own, which takes little of its time while flavors wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import assert_never

import orjson

from crds.conditions import Verdict
from crds.kube.client import Kube, Object, Refused, Unavailable
from crds.kube.events import emit
from crds.kube.queue import WorkQueue
from crds.kube.watch import Key
from crds.models.base import ObjectMeta, OwnerReference, validate
from crds.models.fluidos import Flavor, FlavorSpec
from crds.models.leafdevice import LeafDevice, LeafDeviceStatus, Offer
from crds.naming import leaf_device_name
from edge_resource_manager.adapters.mirror import Held, Mirror
from edge_resource_manager.domain.devices import Description, ObservedDevice
from edge_resource_manager.domain.flavors import Terms, flavor_of
from edge_resource_manager.domain.leafstatus import status_of, verdicts, worth_an_event
from edge_resource_manager.domain.liveness import Outlook
from edge_resource_manager.domain.publication import Open, Paused, Publication, Withheld
from edge_resource_manager.metrics import DEVICE_CONDITIONS
from edge_resource_manager.reasons import LeafCondition

MANAGER = "edge-resource-manager-discovery"
REPORTER = "edge-resource-manager"
SOURCE = "KubeEdgeDevice"
STATUS_WORKERS = 2
CROWD = 64
"""Devices waiting to be offered; statuses wait then."""
CROWD_SECONDS = 0.5
CROWD_TURNS = 20
REFUSED_AGAIN = timedelta(minutes=5)
"""A webhook that refused a flavor may be gone by then: nothing else tells us."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A Flavor that the API server did not take, and until when it is not asked again for the same one."""

    flavor: Flavor
    message: str
    until: datetime

    def __str__(self) -> str:
        return self.message


_Failure = _Refusal | Unavailable


@dataclass(slots=True, kw_only=True)
class _Facts:
    """What the status of a LeafDevice is made of."""

    leaf: LeafDevice
    verdicts: tuple[Verdict, ...]
    offers: tuple[Offer, ...]
    seen: datetime | None
    now: datetime
    patience: int = CROWD_TURNS
    """How many more times this status may wait for others' offers."""


class Offering:
    """The LeafDevices and Flavors of KubeEdge's Devices, as the API server holds them and as they should be."""

    def __init__(self, kube: Kube, *, terms: Terms, insecure: bool, crowded: Callable[[], bool]) -> None:
        self.leaves = Mirror(kube, LeafDevice, manager=MANAGER)
        self.flavors = Mirror(kube, Flavor, manager=MANAGER)
        self._kube = kube
        self._terms = terms
        self._insecure = insecure
        self._crowded = crowded
        self._refusals: dict[Key, dict[str, _Refusal]] = {}
        self._untold: dict[Key, _Facts] = {}
        self.statuses = WorkQueue("statuses", self._tell, workers=STATUS_WORKERS)

    async def offer(
        self,
        device: ObservedDevice,
        description: Description,
        view: Outlook,
        *,
        publication: Publication,
        seen: datetime | None,
        now: datetime,
    ) -> float | None:
        """Make LeafDevice and Flavors what they should be, and the status soon.

        What may not be offered is withdrawn first, whatever becomes of the LeafDevice.

        Returns:
            Seconds after which something refused is to be tried again.

        Raises:
            Refused: the API server does not want the LeafDevice.
            Unavailable: it is away, or somebody else was faster.
        """
        leaf = _leaf(device, description)
        key = (device.namespace, leaf.metadata.name)
        withheld = publication.verdict if isinstance(publication, Withheld) else None
        if withheld:
            await self._retract(key)
        held = await self.leaves.ensure(leaf)
        leaf = leaf.model_copy(update={"metadata": leaf.metadata.model_copy(update={"uid": held.uid})})
        flavors: dict[str, Flavor] = {}
        match publication:
            case Open(trust):
                flavors = {
                    sensor.uid: flavor_of(leaf, sensor, terms=self._terms, available=view.available, trust=trust)
                    for sensor in leaf.spec.sensors
                }
            case Paused():
                flavors = dict(self._paused(leaf))
            case Withheld():
                pass
            case _:
                assert_never(publication)
        failures = await self._publish(key, flavors, now=now)
        self._untold[key] = _Facts(
            leaf=leaf,
            verdicts=verdicts(
                online=view.online,
                sensors=len(leaf.spec.sensors),
                errors=description.errors,
                refusals={uid: str(failure) for uid, failure in failures.items()},
                withheld=withheld,
                insecure=self._insecure,
            ),
            offers=tuple(Offer(sensor=uid, flavor=flavor.metadata.name) for uid, flavor in flavors.items()),
            seen=seen,
            now=now,
            # Why a device lost its flavors is the one thing that people want to know at once.
            patience=0 if withheld and withheld.status == "False" else CROWD_TURNS,
        )
        self.statuses.add(key)
        return _again(failures, now=now)

    async def withdraw(self, key: Key) -> None:
        """Delete the Flavors of a LeafDevice, then itself.

        Raises:
            Refused: the API server does not let us delete the LeafDevice.
            Unavailable: it is away, or does not let us delete a Flavor.
        """
        self._untold.pop(key, None)
        await self._retract(key)
        await self.leaves.remove(key)

    async def _retract(self, key: Key) -> None:
        """Delete the Flavors of a LeafDevice; each is tried, whatever becomes of the others."""
        self._refusals.pop(key, None)
        removals = (self.flavors.remove(flavor) for flavor in self._flavors_of(key))
        for outcome in await asyncio.gather(*removals, return_exceptions=True):
            if isinstance(outcome, Refused):
                # Given up, it would stay on offer.
                raise Unavailable(f"a flavor could not be withdrawn: {outcome}") from outcome
            if outcome is not None:
                raise outcome

    def _paused(self, leaf: LeafDevice) -> Iterator[tuple[str, Flavor]]:
        """By sensor, the flavors that there are, unavailable and otherwise unchanged."""
        for sensor in leaf.spec.sensors:
            flavor = flavor_of(leaf, sensor, terms=self._terms, available=False)
            held = self.flavors.get((flavor.metadata.namespace or "", flavor.metadata.name))
            if held is not None:
                spec = validate(FlavorSpec, held.spec, field="spec")
                yield sensor.uid, flavor.model_copy(update={"spec": spec.model_copy(update={"availability": False})})

    async def _publish(self, key: Key, flavors: Mapping[str, Flavor], *, now: datetime) -> dict[str, _Failure]:
        """Make the Flavors of a LeafDevice these and no others; by sensor, why one could not be made."""
        wanted = {(key[0], flavor.metadata.name) for flavor in flavors.values()}
        for surplus in self._flavors_of(key) - wanted:
            await self.flavors.remove(surplus)
        refused = self._refusals.get(key, {})
        outcomes = await asyncio.gather(
            *(self._ensure(flavor, refused.get(uid), now=now) for uid, flavor in flavors.items())
        )
        failures = {uid: outcome for uid, outcome in zip(flavors, outcomes, strict=True) if outcome is not None}
        refused = {uid: failure for uid, failure in failures.items() if isinstance(failure, _Refusal)}
        if refused:
            self._refusals[key] = refused
        else:
            self._refusals.pop(key, None)
        return failures

    async def _ensure(self, flavor: Flavor, refused: _Refusal | None, *, now: datetime) -> _Failure | None:
        if refused is not None and refused.flavor == flavor and now < refused.until:
            return refused
        try:
            await self.flavors.ensure(flavor)
        except Unavailable as error:  # also the answer where a webhook is down
            return error
        except Refused as error:
            # What an earlier, accepted form still promises is not so any more.
            await self.flavors.remove((flavor.metadata.namespace or "", flavor.metadata.name))
            return _Refusal(flavor, str(error), now + REFUSED_AGAIN)
        return None

    def _flavors_of(self, key: Key) -> frozenset[Key]:
        return self.flavors.owned_by((LeafDevice.crd.kind, key[1]), namespace=key[0])

    async def _tell(self, key: Key) -> float | None:
        """Write the status, where it is another, and post Events of what turned over; later, while a crowd arrives."""
        facts, held = self._untold.get(key), self.leaves.get(key)
        if facts is None or held is None:
            return None
        if facts.patience > 0 and self._crowded():
            facts.patience -= 1
            return CROWD_SECONDS
        before = own_status(held)
        after = status_of(
            facts.verdicts,
            models=[sensor.model for sensor in facts.leaf.spec.sensors],
            offers=facts.offers,
            seen=facts.seen,
            generation=held.generation,
            before=before,
            now=facts.now,
        )
        if after != before:
            await self.leaves.write_status(key, after.dump())
            for condition in worth_an_event(after.conditions, before=before.conditions):
                if condition.status == "False":
                    DEVICE_CONDITIONS.labels(condition.reason).inc()
                await emit(
                    self._kube,
                    facts.leaf,
                    kind="Warning" if condition.status == "False" else "Normal",
                    reason=condition.reason,
                    action="Discover",
                    note=condition.message or f"{condition.type} is {condition.status}",
                    reporter=REPORTER,
                )
        if self._untold.get(key) is facts:
            del self._untold[key]
        return None


@lru_cache(maxsize=8192)
def leaf_key(device: Key) -> Key:
    """Where the LeafDevice of a Device is."""
    return device[0], leaf_device_name(source=SOURCE, namespace=device[0], device=device[1])


def device_key(leaf: Object) -> Key | None:
    """The Device of a LeafDevice; None where something else found it."""
    source = leaf["spec"]["source"]
    return (leaf["metadata"]["namespace"], source["name"]) if source["kind"] == SOURCE else None


def own_status(held: Held) -> LeafDeviceStatus:
    """The part of a LeafDevice's status that discovery writes."""
    status = whole_status(held)
    ours = tuple(condition for condition in status.conditions if condition.type in set(LeafCondition))
    return status.model_copy(update={"conditions": ours, "trust": None})


def whole_status(held: Held) -> LeafDeviceStatus:
    """The status of a LeafDevice, whoever wrote it."""
    return validate(LeafDeviceStatus, orjson.loads(held.status), field="status")


def _leaf(device: ObservedDevice, description: Description) -> LeafDevice:
    namespace, name = leaf_key((device.namespace, device.name))
    owner = OwnerReference(
        api_version=device.api_version,
        kind="Device",
        name=device.name,
        uid=device.uid,
        controller=True,
        block_owner_deletion=False,
    )
    return LeafDevice(
        metadata=ObjectMeta(name=name, namespace=namespace, owner_references=(owner,)), spec=description.spec
    )


def _again(failures: Mapping[str, _Failure], *, now: datetime) -> float | None:
    """When to try again what was refused; what was not answered is left to the queue, which backs off."""
    for failure in failures.values():
        if isinstance(failure, Unavailable):
            raise failure
    return min(
        ((failure.until - now).total_seconds() for failure in failures.values() if isinstance(failure, _Refusal)),
        default=None,
    )
