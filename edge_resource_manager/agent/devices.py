"""The LeafDevices of one node, as a watch tells of them, and what is known before their status says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime

import structlog

from crds.errors import InvalidField
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.leafdevice import LeafDevice
from crds.models.trust import Trust
from edge_resource_manager.agent.domain.accounts import Plan, is_distrusted, plan
from edge_resource_manager.agent.domain.trust import needs_reminder
from spire.domain.spiffe_id import SpiffeId

log = structlog.get_logger(__name__)


class Devices:
    """All of a node.

    Args:
        node: its name.
        changed: called with the key of each that changed.
    """

    def __init__(self, node: str, *, changed: Callable[[Key], None]) -> None:
        self._node = node
        self._changed = changed
        self._leaves: dict[Key, LeafDevice] = {}
        self._expected: Counter[str] = Counter()
        self._distrusted: dict[str, Trust] = {}

    def seen(self, change: Change) -> None:
        """Take in what the watch says; a LeafDevice that cannot be read is as one that is gone."""
        leaf = _readable(change)
        before = self._leaves.pop(change.key, None)
        if before is not None and before.spec.ueid is not None:
            self._expected -= Counter([before.spec.ueid])
        if leaf is not None:
            self._leaves[change.key] = leaf
            if leaf.spec.ueid is not None:
                self._expected[leaf.spec.ueid] += 1
        for each in (before, leaf):
            if each is not None and each.spec.ueid is not None:
                self._forget_distrust(each.spec.ueid)
        self._changed(change.key)

    def get(self, key: Key) -> LeafDevice | None:
        """One of them."""
        return self._leaves.get(key)

    def expects(self, ueid: str) -> bool:
        """Whether one of them is to be this device."""
        return ueid in self._expected

    def distrust(self, ueid: str) -> None:
        """What the status of this device says now does not count any more."""
        for key, leaf in self._leaves.items():
            trust = leaf.status.trust if leaf.status else None
            if leaf.spec.ueid == ueid and trust is not None:
                self._distrusted[ueid] = trust
                self._changed(key)

    def believe(self, ueid: str) -> None:
        """What its status says counts again."""
        self._distrusted.pop(ueid, None)

    def plan(self, *, agent: SpiffeId, now: datetime) -> Plan:
        """The accounts that the node's broker is to have."""
        return plan(self._leaves.values(), node=self._node, agent=agent, distrusted=self._distrusted, now=now)

    def unproven(self, *, now: datetime) -> set[str]:
        """UEIDs of those that should be asked to attest."""
        return {
            leaf.spec.ueid
            for leaf in self._leaves.values()
            if leaf.spec.ueid is not None and needs_reminder(leaf, now=now)
        }

    def _forget_distrust(self, ueid: str) -> None:
        """As soon as no status says any more what was distrusted."""
        leaves = (leaf for leaf in self._leaves.values() if leaf.spec.ueid == ueid)
        if ueid in self._distrusted and not any(is_distrusted(leaf, self._distrusted) for leaf in leaves):
            del self._distrusted[ueid]


def _readable(change: Change) -> LeafDevice | None:
    match change:
        case Gone():
            return None
        case Put(key, obj):
            try:
                return LeafDevice.parse(obj)
            except InvalidField as error:
                REFUSED_OBJECTS.labels(LeafDevice.crd.kind).inc()
                log.error("cannot read a LeafDevice", leaf="/".join(key), error=str(error))
                return None
