"""The provider's policy on buyers as it stands: the newest that could be read."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import structlog

from crds.errors import InvalidField
from crds.kube.watch import Change, Gone, Put
from edge_resource_manager.domain.buyers import EVERYBODY, NOBODY, May, parse_buyers
from edge_resource_manager.gateway import metrics
from edge_resource_manager.gateway.offers import Listed
from spire.domain.spiffe_id import TrustDomain

log = structlog.get_logger(__name__)


class Permissions:
    """By the ConfigMap `fluidos-edge-buyers`.

    One that is broken changes nothing; when the gateway starts with it, nobody may do anything.

    Args:
        changed: called after it changed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._buyers = EVERYBODY
        self._read = False
        # Selectors take their time, lists are long and asked for often; flavors seldom change.
        self._decided: WeakKeyDictionary[Listed, dict[TrustDomain, May]] = WeakKeyDictionary()

    def seen(self, change: Change) -> None:
        """The ConfigMap is there, or gone."""
        before = self._buyers
        match change:
            case Put(_, obj):
                try:
                    self._buyers = parse_buyers(obj)
                except InvalidField as error:
                    if not self._read:
                        self._buyers = NOBODY
                    consequence = "the one before still holds" if self._read else "nobody may see or buy anything"
                    log.error("buyers' policy cannot be read", error=str(error), consequence=consequence)
                    metrics.BUYERS_POLICY_BROKEN.set(1)
                else:
                    self._read = True
                    metrics.BUYERS_POLICY_BROKEN.set(0)
            case Gone():
                self._buyers, self._read = EVERYBODY, False
                metrics.BUYERS_POLICY_BROKEN.set(0)
        if self._buyers is not before:
            self._decided.clear()
            self._changed()

    def may(self, buyer: TrustDomain | None, listed: Listed | None) -> May:
        """What somebody may do with a flavor; where nobody proves anything, everybody may do everything."""
        if listed is None:
            return May.NOTHING
        if buyer is None:
            return May.BUY
        decided = self._decided.setdefault(listed, {})
        if buyer not in decided:
            decided[buyer] = self._buyers.may(buyer, listed.device)
        return decided[buyer]
