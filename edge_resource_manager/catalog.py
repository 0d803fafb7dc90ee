"""The catalog of firmware, as watches tell of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import structlog

from crds.errors import InvalidField
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Put
from crds.models.firmware import Firmware

log = structlog.get_logger(__name__)


class Catalog:
    """Firmware by namespace."""

    def __init__(self) -> None:
        self._firmware: defaultdict[str, dict[str, Firmware]] = defaultdict(dict)

    def of(self, namespace: str) -> Collection[Firmware]:
        """All of a namespace."""
        return self._firmware[namespace].values()

    def seen(self, change: Change) -> bool:
        """A Firmware appeared, changed or went; whether that makes a difference."""
        namespace, name = change.key
        known = self._firmware[namespace]
        before, now = known.get(name), None
        if isinstance(change, Put):
            try:
                now = Firmware.parse(change.obj)
            except InvalidField as error:
                REFUSED_OBJECTS.labels(Firmware.crd.kind).inc()
                log.warning("Firmware not readable", key=change.key, error=str(error))
        if now is None:
            known.pop(name, None)
        else:
            known[name] = now
        return (now and now.status) != (before and before.status)
