"""The catalog of firmware, as watches tell of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import structlog

from crds.errors import InvalidField
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Put
from crds.models.firmware import Firmware
from edge_resource_manager.domain.following import Entry

log = structlog.get_logger(__name__)


class Catalog:
    """Firmware by namespace."""

    def __init__(self) -> None:
        self._firmware: defaultdict[str, dict[str, Entry]] = defaultdict(dict)

    def of(self, namespace: str) -> Collection[Entry]:
        """All of a namespace, by name."""
        return self._firmware[namespace].values()

    def find(self, namespace: str, name: str) -> Entry | None:
        """One of them."""
        return self._firmware[namespace].get(name)

    def seen(self, change: Change) -> bool:
        """A Firmware appeared, changed or went; whether that makes a difference."""
        namespace, name = change.key
        known = dict(self._firmware[namespace])
        before = known.pop(name, None)
        if isinstance(change, Put):
            try:
                known[name] = Entry.of(Firmware.parse(change.obj))
            except InvalidField as error:
                REFUSED_OBJECTS.labels(Firmware.crd.kind).inc()
                log.warning("Firmware not readable", key=change.key, error=str(error))
        self._firmware[namespace] = dict(sorted(known.items()))
        return known.get(name) != before
