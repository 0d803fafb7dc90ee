"""Reference values out of the catalog: what a Firmware that was verified holds is known, and so is what it held before.

Only the flash controller may write a Firmware's status, and it writes there what the operator's keys signed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import structlog

from crds.errors import InvalidField
from crds.kube.client import Kind, Kube
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.watch import Change, Gone, Key, Put, follow
from crds.models.appraisal import KnownFirmware
from crds.models.firmware import Firmware
from spire.observers import Observers

log = structlog.get_logger(__name__)


class FirmwareCatalog:
    """All Firmware of the cluster; `ReferenceValues` of an appraisal policy.

    Args:
        kube: the API server.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._known: dict[Key, tuple[KnownFirmware, ...]] = {}
        self._synced = asyncio.Event()
        self._observers: Observers[[]] = Observers()

    @property
    def current(self) -> tuple[KnownFirmware, ...] | None:
        """What is known, each once and in order; None until the first list has come."""
        if not self._synced.is_set():
            return None
        found = {(each.measurement, each.application): each for known in self._known.values() for each in known}
        return tuple(found[key] for key in sorted(found))

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever it may be another."""
        self._observers.add(callback)

    async def run(self) -> None:
        """Follow the Firmware of all namespaces until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(self._kube, Kind.of(Firmware.crd), changed=self.seen, synced=self._synced))
            await self._synced.wait()
            self._observers.tell()

    def seen(self, change: Change) -> None:
        """A Firmware appeared, changed or went. One that cannot be read is known for nothing."""
        known: tuple[KnownFirmware, ...] = ()
        match change:
            case Put(key, obj):
                try:
                    known = tuple(references(Firmware.parse(obj)))
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("Firmware").inc()
                    log.warning("Firmware not readable", firmware="/".join(key), error=str(error))
            case Gone():
                pass
        before = self._known.pop(change.key, ())
        if known:
            self._known[change.key] = known
        if known != before and self._synced.is_set():
            self._observers.tell()


def references(firmware: Firmware) -> Iterator[KnownFirmware]:
    """What a device may run by the word of this Firmware: all that was verified, whatever its tag means by now.

    The measurement says which code it is; how the device's certificate writes the version does not count.
    """
    status = firmware.status
    if status is None:
        return
    verified = any(each.type == "Verified" and each.status == "True" for each in status.conditions)
    # What the policy took unsigned may be flashed, but nobody vouches for it.
    current = (status.current,) if verified and status.current else ()
    for release in (*current, *(each for each in status.history if each.signed_by)):
        for image in release.boards:
            if release.application and image.measurement:
                yield KnownFirmware(measurement=image.measurement, application=release.application)
