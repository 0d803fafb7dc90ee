"""The catalog: each Firmware's reference resolved, its signature verified, its content in its status.

What was found stays while a registry is away. A policy that changed is applied at once: it may withdraw trust without
the registry's help, and grant it only with that.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from crds.errors import InvalidField, Retryable, Terminal
from crds.kube.client import Kube, NotFound
from crds.kube.config_map import FollowedConfigMap
from crds.kube.events import emit
from crds.kube.metrics import REFUSED_OBJECTS
from crds.kube.queue import WorkQueue
from crds.kube.watch import Change, Gone, Key, Put
from crds.models.firmware import Firmware, FirmwareStatus
from crds.models.firmware_policy import CONFIG_MAP, FirmwarePolicy
from flash_controller.adapters.access import Missing, registry_of
from flash_controller.domain.catalog import (
    READY,
    Found,
    Look,
    Missed,
    decide,
    keys_for,
    not_to_be_asked,
    read_policy,
    release_of,
)
from flash_controller.domain.signatures import verified_by
from flash_controller.metrics import FIRMWARE_CHANGES
from flash_controller.oci.catalog import read_package, resolve, signatures
from flash_controller.reasons import FirmwareReason

log = structlog.get_logger(__name__)

REPORTER: Final = "flash-controller"
STATUS_MANAGER: Final = "flash-controller-catalog"
ASK_SECONDS: Final = 120.0
"""For everything that a registry has to say of one Firmware."""
REFUSED_SECONDS: Final = 300.0
"""Until a reference that was refused is looked at again: what is pushed tomorrow may be missing today."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """On what ground a Firmware was looked at last, and when to do it again."""

    life: tuple[str | None, int | None]
    policy: FirmwarePolicy
    due: float


class Catalog:
    """Stores what was seen, and has one queue.

    Args:
        kube: the API server.
        namespace: of the operator's policy.
        clock: the time.
        monotonic: seconds that only grow.
    """

    def __init__(
        self, kube: Kube, *, namespace: str, clock: Callable[[], datetime], monotonic: Callable[[], float]
    ) -> None:
        self._kube = kube
        self._clock = clock
        self._monotonic = monotonic
        self._config_map = FollowedConfigMap(
            kube, name=CONFIG_MAP, namespace=namespace, reporter=REPORTER, reason="PolicyRefused", action="Verify"
        )
        self._policy: FirmwarePolicy | None = None
        self._broken = False
        self._firmwares: dict[Key, Firmware] = {}
        self._looked: dict[Key, _Looked] = {}
        self.queue = WorkQueue("firmwares", self.reconcile, workers=4)

    @property
    def plain_http(self) -> tuple[str, ...]:
        """Registries that the policy lets be asked without TLS."""
        return self._policy.plain_http if self._policy else ()

    async def run_policy(self) -> None:
        """Follow the operator's policy until cancelled."""
        await self._config_map.run(self.policy_seen, listed=self._listed)

    def policy_seen(self, change: Change) -> None:
        """The operator's ConfigMap is there, or gone. One that cannot be read changes nothing."""
        match change:
            case Gone():
                self._use(FirmwarePolicy())
            case Put(_, obj):
                try:
                    self._use(read_policy(obj))
                except InvalidField as error:
                    self._broken = True
                    kept = "the last good policy stays" if self._policy else "no firmware is looked at"
                    log.error("firmware policy refused", error=str(error), consequence=kept)
                    self._config_map.complain(obj, [f"{error}; {kept}"])

    def firmware_seen(self, change: Change) -> None:
        """A Firmware appeared, changed or went."""
        match change:
            case Put(key, obj):
                before = self._firmwares.get(key)
                try:
                    now = self._firmwares[key] = Firmware.parse(obj)
                except InvalidField as error:
                    REFUSED_OBJECTS.labels("Firmware").inc()
                    log.warning("Firmware not readable", firmware="/".join(key), error=str(error))
                    return
                # Our own writes come back here too: a registry that is away is not asked at that pace.
                if before is None or _life(before) != _life(now):
                    self.queue.add(key)
            case Gone(key):
                self._firmwares.pop(key, None)
                self._looked.pop(key, None)

    async def reconcile(self, key: Key) -> float | None:
        """The Firmware's status says what its reference means by the policy of now."""
        firmware, policy = self._firmwares.get(key), self._policy
        if firmware is None or policy is None or firmware.metadata.deletion_timestamp:
            return None
        now = self._monotonic()
        last = self._looked.get(key)
        if last is not None and (last.life, last.policy) == (_life(firmware), policy) and now < last.due:
            return None if math.isinf(last.due) else last.due - now
        look, again = await self._look(firmware, policy)
        await self._write(key, firmware, decide(firmware, look, policy=policy, now=self._clock()))
        if isinstance(again, Retryable):
            raise again
        self._looked[key] = _Looked(_life(firmware), policy, due=math.inf if again is None else now + again)
        return again

    def _listed(self) -> None:
        if self._policy is None and not self._broken:
            log.warning("no policy for firmware: nobody's signature counts", config_map=CONFIG_MAP)
            self._use(FirmwarePolicy())

    def _use(self, policy: FirmwarePolicy) -> None:
        self._policy, self._broken = policy, False
        self._config_map.withdraw_complaint()
        for key in self._firmwares:
            self.queue.add(key)

    async def _look(self, firmware: Firmware, policy: FirmwarePolicy) -> tuple[Look, float | Retryable | None]:
        """What the reference means, and after how many seconds, or after which backoff, to look again."""
        spec = firmware.spec
        interval = spec.follow.interval_seconds * random.uniform(0.9, 1.0) if spec.follow else None  # noqa: S311 - jitter
        if spec.suspend:
            return Missed(FirmwareReason.SUSPENDED, "suspended: what was found stays"), None
        if (forbidden := not_to_be_asked(spec, policy)) is not None:
            return forbidden, None
        host = spec.repository.partition("/")[0]
        try:
            async with asyncio.timeout(ASK_SECONDS):
                found = await self._ask(firmware, policy)
        except TimeoutError:
            message = f"{host} took longer than {ASK_SECONDS:g} s"
            return Missed(FirmwareReason.REGISTRY_UNAVAILABLE, message), Retryable(message)
        except Missing as error:
            return Missed(error.reason, str(error)), error
        except Retryable as error:
            return Missed(FirmwareReason.REGISTRY_UNAVAILABLE, str(error)), error
        except Terminal as error:
            return Missed(error.reason, str(error)), interval or REFUSED_SECONDS
        return found, interval

    async def _ask(self, firmware: Firmware, policy: FirmwarePolicy) -> Found:
        spec = firmware.spec
        async with await registry_of(self._kube, firmware) as registry:
            resolved = await resolve(registry, digest=spec.digest, semver=spec.semver, tag=spec.tag)
            package = await read_package(registry, resolved.digest)
            signed = await signatures(registry, resolved.digest)
        signed_by, doubt = None, None
        try:
            signed_by = verified_by(resolved.digest, signed, keys_for(policy, package.facts.application or ""))
        except Terminal as error:
            doubt = error
        return Found(release=release_of(package, signed_by=signed_by), tag=resolved.tag or "", doubt=doubt)

    async def _write(self, key: Key, firmware: Firmware, status: FirmwareStatus) -> None:
        if status == firmware.status:
            return
        try:
            answer = await self._kube.apply_status(
                Firmware, name=key[1], namespace=key[0], status=status.dump(), manager=STATUS_MANAGER
            )
        except NotFound:
            return
        self._firmwares[key] = Firmware.parse(answer)
        ready = next(condition for condition in status.conditions if condition.type == READY)
        before = firmware.status.conditions if firmware.status else ()
        if any(each.type == READY and (each.status, each.reason) == (ready.status, ready.reason) for each in before):
            return
        FIRMWARE_CHANGES.labels(ready.reason).inc()
        log.info("firmware", firmware="/".join(key), ready=ready.status, reason=ready.reason, digest=status.digest)
        await emit(
            self._kube,
            firmware,
            kind="Normal" if ready.status == "True" else "Warning",
            reason=ready.reason,
            action="Resolve",
            note=ready.message or f"{status.application} {status.version} for {status.board_names}",
            reporter=REPORTER,
        )


def _life(firmware: Firmware) -> tuple[str | None, int | None]:
    """What changes with the spec and with nothing else."""
    return firmware.metadata.uid, firmware.metadata.generation
