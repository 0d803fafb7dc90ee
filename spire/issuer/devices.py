"""The devices of the cluster: which are expected, and how each stands, on the status of its LeafDevice.

What was found of a device waits here until it is written; everything else is read from the LeafDevice itself, so that a
restart goes on from there. One LeafDevice is one device: of several that name the same, the oldest counts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from crds.conditions import stamp
from crds.errors import InvalidField
from crds.kube.client import APPLY_PATCH, Conflict, Kind, Kube, NotFound, Object, Unavailable
from crds.kube.events import emit
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Gone, Key, Put, follow
from crds.models.base import Condition, ObjectMeta, validate
from crds.models.leafdevice import LeafDevice, LeafDeviceStatus
from crds.models.trust import Trust
from spire.domain.errors import Malformed, Reason
from spire.domain.standing import (
    ATTESTED,
    Finding,
    Granted,
    Standing,
    Withdrawn,
    after,
    changed,
    device_of,
    duplicate,
    nameless,
    standing,
)
from spire.domain.ueid import Ueid
from spire.domain.verdict import Accepted
from spire.issuer.appraisal_metrics import WITHDRAWN
from spire.issuer.appraisal_policy import Policies

log = structlog.get_logger(__name__)

MANAGER = "identity-issuer"
LEAVES = Kind.of(LeafDevice.crd)
CONFLICT_SECONDS = 0.05
"""Until the watch has most likely brought what our write was in conflict with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaf:
    """What is kept of one LeafDevice.

    Attributes:
        uid: of this life of the name.
        version: of the object.
        generation: of its specification.
        created: when, as the API server writes it.
        ueid: the device that it is to be; None for none, the error where it is none that can be.
        trust: what its status says.
        condition: Attested, as its status says.
        ours: whether anything of it was written by us.
    """

    uid: str
    version: str
    generation: int | None
    created: str
    ueid: Ueid | Malformed | None
    trust: Trust | None
    condition: Condition | None
    ours: bool


class Devices:
    """All LeafDevices that name a device.

    Args:
        kube: the API server.
        policies: what the site accepts; when that changes, everybody is judged again.
        clock: the time.
    """

    def __init__(self, kube: Kube, policies: Policies, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)):
        self.synced = asyncio.Event()
        self._kube = kube
        self._policies = policies
        self._clock = clock
        self._leaves: dict[Key, _Leaf] = {}
        self._keys: dict[Ueid, set[Key]] = {}
        self._findings: dict[Ueid, Finding] = {}
        self._found: Counter[Ueid] = Counter()
        self._queue: WorkQueue[Key] = WorkQueue("standing", self._look, workers=16)
        policies.on_change(self._look_at_all)

    async def run(self) -> None:
        """Follow LeafDevices and write how they stand, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(self._kube, LEAVES, changed=self.seen, synced=self.synced))
            group.create_task(self._queue.run())

    def expects(self, ueid: Ueid) -> bool:
        """Whether a LeafDevice names this device."""
        return ueid in self._keys

    def last(self, ueid: Ueid) -> Accepted | None:
        """What was accepted last of a device, whether it still is or not."""
        match self._findings.get(ueid):
            case Granted(device=device) | Withdrawn(last=Granted(device=device)):
                return device
            case _:
                return device_of(ueid, self._trust(ueid))

    def attested(self, ueid: Ueid) -> bool:
        """Whether a device is Attested on record."""
        trust = self._trust(ueid)
        return trust is not None and trust.tier == ATTESTED and device_of(ueid, trust) is not None

    def findings(self, ueid: Ueid) -> int:
        """How many findings there were of a device: two equal answers mean that there was none between them."""
        return self._found[ueid]

    def find(self, ueid: Ueid, finding: Finding) -> None:
        """Take in what was found of a device; it is written soon, and after it what is found later."""
        if ueid in self._keys:
            self._found[ueid] += 1
            self._findings[ueid] = after(finding, self._findings.get(ueid))
            self._queue.add(self._oldest(ueid))

    def seen(self, change: Change) -> None:
        """Take in what the watch, or the answer to a write of ours, says."""
        key = change.key
        before = self._leaves.get(key)
        match change:
            case Gone():
                if before is not None:
                    del self._leaves[key]
                    self._rename(key, before.ueid, None)
            case Put(_, obj):
                leaf = _leaf(obj)
                # Versions of one cluster grow: a watch may still tell of the past when our own write was answered.
                if before is None or before.uid != leaf.uid or int(before.version) < int(leaf.version):
                    self._leaves[key] = leaf
                    self._rename(key, before.ueid if before else None, leaf.ueid)
        self._queue.add(key)

    def _rename(self, key: Key, before: Ueid | Malformed | None, after: Ueid | Malformed | None) -> None:
        """Keep the index; who shares a name, or did, is worth a look."""
        if before == after:
            return
        if isinstance(before, Ueid):
            keys = self._keys[before]
            keys.discard(key)
            for other in keys:
                self._queue.add(other)
            if not keys:
                del self._keys[before]
                self._findings.pop(before, None)
                self._found.pop(before, None)
        if isinstance(after, Ueid):
            for other in self._keys.get(after, ()):
                self._queue.add(other)
            self._keys.setdefault(after, set()).add(key)

    def _look_at_all(self) -> None:
        for key in self._leaves:
            self._queue.add(key)

    def _oldest(self, ueid: Ueid) -> Key:
        return min(self._keys[ueid], key=lambda key: (self._leaves[key].created, key))

    def _trust(self, ueid: Ueid) -> Trust | None:
        return self._leaves[self._oldest(ueid)].trust if ueid in self._keys else None

    async def _look(self, key: Key) -> float | None:
        await asyncio.sleep(0)  # after a change of policy there are thousands of looks, most of which await nothing
        leaf, now = self._leaves.get(key), self._clock()
        if leaf is None:
            return None
        if leaf.ueid is None:
            if leaf.ours:  # the name was taken off: what we said of it is void
                await self._write(key, leaf, {})
            return None
        finding = self._findings.get(leaf.ueid) if isinstance(leaf.ueid, Ueid) else None
        stands = self._standing(key, leaf, finding, now=now)
        await self._record(key, leaf, stands, now=now)
        if isinstance(leaf.ueid, Ueid) and self._oldest_is(key, leaf.ueid) and self._findings.get(leaf.ueid) is finding:
            self._findings.pop(leaf.ueid, None)
        return max(0.0, (stands.until - now).total_seconds()) if stands.until else None

    def _oldest_is(self, key: Key, ueid: Ueid) -> bool:
        return ueid in self._keys and self._oldest(ueid) == key

    def _standing(self, key: Key, leaf: _Leaf, finding: Finding | None, *, now: datetime) -> Standing:
        if not isinstance(leaf.ueid, Ueid):
            return nameless(leaf.trust, str(leaf.ueid))
        oldest = self._oldest(leaf.ueid)
        if oldest != key:
            return duplicate(leaf.trust, ueid=leaf.ueid, other="/".join(oldest))
        return standing(
            leaf.ueid,
            trust=leaf.trust,
            condition=leaf.condition,
            finding=finding,
            site=self._policies.current,
            now=now,
        )

    async def _record(self, key: Key, leaf: _Leaf, stands: Standing, *, now: datetime) -> None:
        """Write how a device stands, where the status says otherwise, and an Event where people want to know."""
        before = (leaf.condition,) if leaf.condition else ()
        (condition,) = stamp((stands.verdict,), before=before, generation=leaf.generation, now=now)
        if (leaf.trust, leaf.condition) == (stands.trust, condition):
            return
        await self._write(key, leaf, {"trust": stands.trust.dump(), "conditions": [condition.dump()]})
        # That a new device has not proved itself yet is no news.
        reason = leaf.condition.reason if leaf.condition else Reason.NEVER_ATTESTED
        if reason == condition.reason and not changed(leaf.trust, stands.trust):
            return
        lost = leaf.trust is not None and leaf.trust.tier in (ATTESTED, "Legacy") and stands.trust.tier == "None"
        if lost:
            WITHDRAWN.labels(condition.reason).inc()
        log.info("device stands", device="/".join(key), tier=stands.trust.tier, reason=condition.reason)
        await emit(
            self._kube,
            LeafDevice.model_construct(metadata=ObjectMeta(name=key[1], namespace=key[0], uid=leaf.uid)),
            kind="Warning" if lost else "Normal",
            reason=condition.reason,
            action="Appraise",
            note=condition.message,
            reporter=MANAGER,
        )

    async def _write(self, key: Key, leaf: _Leaf, status: Object) -> None:
        """Apply our part of the status onto the version that was looked at: it may be another device meanwhile.

        Raises:
            Unavailable: it is not that version any more, or the API server is away.
        """
        body: dict[str, Any] = {
            "apiVersion": LeafDevice.crd.api_version,
            "kind": LeafDevice.crd.kind,
            "metadata": {"namespace": key[0], "name": key[1], "resourceVersion": leaf.version},
            "status": status,
        }
        path = LEAVES.path(namespace=key[0], name=key[1], subresource="status")
        query = {"fieldManager": MANAGER, "force": "true"}
        try:
            answer = await self._kube.request("PATCH", path, query=query, body=body, content_type=APPLY_PATCH)
        except (Conflict, NotFound) as error:
            raise Unavailable(str(error), after=CONFLICT_SECONDS) from error
        self.seen(Put(key, answer))


def _leaf(obj: Object) -> _Leaf:
    meta, spec = obj["metadata"], obj["spec"]
    try:
        status = validate(LeafDeviceStatus, obj.get("status") or {}, field="status")
    except InvalidField as error:  # of which the CRD keeps everybody
        REFUSED_OBJECTS.labels(LeafDevice.crd.kind).inc()
        log.error("status refused", device=meta["name"], error=str(error))
        status = LeafDeviceStatus()
    return _Leaf(
        uid=meta["uid"],
        version=meta["resourceVersion"],
        generation=meta.get("generation"),
        created=meta["creationTimestamp"],
        ueid=_ueid(spec.get("ueid")),
        trust=status.trust,
        condition=next((each for each in status.conditions if each.type == ATTESTED), None),
        ours=any(each["manager"] == MANAGER for each in meta.get("managedFields", ())),
    )


def _ueid(text: str | None) -> Ueid | Malformed | None:
    if text is None:
        return None
    try:
        return Ueid(bytes.fromhex(text))
    except Malformed as error:
        return error
