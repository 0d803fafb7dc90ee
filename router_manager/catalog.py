"""The Sensor flavors of this cluster, as routes read them.

From Flavors, and from LeafDevices where a Flavor was refused: LeafDevice is the truth, and where a webhook
of stock FLUIDOS refuses its Flavor, REAR sells the sensor all the same, and what was sold has to flow.
"""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Mapping

import structlog

from crds.errors import InvalidField
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.base import OwnerReference
from crds.models.dataroute import ResolvedSource
from crds.models.fluidos import Flavor
from crds.models.leafdevice import LeafDevice
from router_manager.domain.routes import Offered, is_flashed, offered, offered_without_flavor

log = structlog.get_logger(__name__)

Names = frozenset[str]


class Catalog:
    """Fed by watches; says which flavor names a change concerns."""

    def __init__(self) -> None:
        self._flavors: dict[str, dict[str, Offered]] = defaultdict(dict)
        self._leaves: dict[str, dict[str, Offered]] = defaultdict(dict)
        self._names_of: dict[Key, Names] = {}  # by LeafDevice
        self._flashed: defaultdict[str, set[str]] = defaultdict(set)
        # Of this life. Names come back, so these grow to what a site has ever had and no further.
        self._seen_flavors: set[Key] = set()
        self._seen_leaves: set[Key] = set()

    def of(self, namespace: str) -> Mapping[str, Offered]:
        """By flavor name; a Flavor counts more than a LeafDevice that stands in for it."""
        return ChainMap(self._flavors[namespace], self._leaves[namespace])

    def owners(self, namespace: str) -> dict[str, OwnerReference]:
        """What owns that which is made for a flavor, by its name."""
        return {name: one.owner for name, one in self.of(namespace).items()}

    def flashed(self, namespace: str) -> Names:
        """LeafDevices into which firmware is being written."""
        return frozenset(self._flashed[namespace])

    def is_sure_of(self, source: ResolvedSource, *, namespace: str) -> bool:
        """Whether a source that is not in the catalog is gone: a life that has just begun has not seen all."""
        return (namespace, source.flavor) in self._seen_flavors and (namespace, source.device) in self._seen_leaves

    def flavor_seen(self, change: Change) -> Names:
        """A Flavor appeared, changed or went; empty when that changes nothing for routes."""
        namespace, name = change.key
        self._seen_flavors.add(change.key)
        known, now = self._flavors[namespace], None
        if isinstance(change, Put):
            try:
                now = offered(Flavor.parse(change.obj))
            except InvalidField as error:
                REFUSED_OBJECTS.labels("Flavor").inc()
                log.warning("flavor not readable", flavor=f"{namespace}/{name}", error=str(error))
        if now == known.get(name):
            return frozenset()
        _set(known, name, now)
        return frozenset({name})

    def leaf_seen(self, change: Change) -> Names:
        """A LeafDevice appeared, changed or went; the same."""
        namespace, device = change.key
        self._seen_leaves.add(change.key)
        known, now, flashed = self._leaves[namespace], {}, False
        match change:
            case Put(key, obj):
                try:
                    leaf = LeafDevice.parse(obj)
                    now = {each.name: each for each in offered_without_flavor(leaf)}
                    flashed = is_flashed(leaf)
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("LeafDevice").inc()
                    log.warning("LeafDevice not readable", leaf="/".join(key), error=str(error))
            case Gone(_):
                pass
        names = self._names_of.pop(change.key, frozenset()) | now.keys()
        changed = frozenset(name for name in names if known.get(name) != now.get(name))
        for name in changed:
            _set(known, name, now.get(name))
        if now:
            self._names_of[change.key] = frozenset(now)
        if flashed != (device in self._flashed[namespace]):
            self._flashed[namespace] ^= {device}
            changed |= {name for name, one in self.of(namespace).items() if one.device == device}
        return changed


def _set(known: dict[str, Offered], name: str, now: Offered | None) -> None:
    if now is None:
        known.pop(name, None)
    else:
        known[name] = now
