"""A runner put together: the device becomes its own, the attempt runs, and what came of it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar, assert_never

import structlog

from crds.conditions import parse_timestamp
from crds.errors import Retryable, Stopped, Terminal
from crds.kube.client import Kube
from crds.kube.lease import Lost
from crds.kube.queue import backoff
from crds.models.base import Resource
from crds.models.firmware import Firmware, Release
from crds.models.flash_report import FlashReport, FlashState, Goal
from crds.models.leafdevice import LeafDevice
from flash_controller.adapters.agent_link import EdgeAgent
from flash_controller.adapters.device_lease import DeviceLease, holder_of
from flash_controller.domain.flash import Back, Kept, Stuck, Wanted
from flash_controller.domain.preflight import part_for, proves, release_for, way_to
from flash_controller.protocols import open_updater
from flash_controller.protocols.base import Updater
from flash_controller.reasons import FlashReason
from flash_controller.runner.attempt import Attempt, GaveUp, Outcome, reason_of
from flash_controller.runner.device import Device
from flash_controller.runner.dial_in import DialInTrust
from flash_controller.runner.images import Images
from flash_controller.runner.leaf import FollowedLeaf
from flash_controller.runner.reporter import Reporter
from flash_controller.runner.settings import RunnerSettings
from spire.domain.authorization import exactly
from spire.identity import IdentitySource
from spire.tls import client_context

log = structlog.get_logger(__name__)

API_SECONDS: Final = 60.0
"""How long an API server that is away, or a Lease of somebody who is gone, is waited for before there is anything."""
LONGEST_PAUSE: Final = 5.0

R = TypeVar("R", bound=Resource)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended, as it is reported."""

    state: FlashState
    reason: str
    message: str = ""
    retryable: bool = False


def verdict_of(outcome: Outcome, goal: Goal) -> Verdict:
    """What an outcome means for the goal."""
    match outcome:
        case Kept():
            return Verdict("RolledBack" if goal == "RollBack" else "Confirmed", FlashReason.CONFIRMED)
        case Back(refusal):
            stopped = refusal.reason == FlashReason.STOPPED
            state: FlashState = "Failed" if stopped or goal == "RollBack" else "RolledBack"
            message = f"{refusal.message}; the device runs what it ran before"
            return Verdict(state, refusal.reason, message, retryable=stopped)
        case Stuck(refusal):
            message = f"{refusal.message}; the device cannot go back by itself"
            return Verdict("Failed", refusal.reason, message, retryable=refusal.reason == FlashReason.STOPPED)
        case GaveUp(refusal):
            return Verdict("Failed", refusal.reason, refusal.message, retryable=True)
        case _:
            assert_never(outcome)


class Runner:
    """One attempt.

    Args:
        kube: the API server.
        identity: the runner's own.
        settings: flags.
        clock: the time.
    """

    def __init__(
        self,
        kube: Kube,
        identity: IdentitySource,
        settings: RunnerSettings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._identity = identity
        self._settings = settings
        self._clock = clock
        self._lease = DeviceLease(
            kube,
            namespace=settings.namespace,
            device=settings.device,
            holder=holder_of(settings.rollout_uid, settings.attempt),
            clock=clock,
        )
        self._reporter = Reporter(self._lease, settings, clock=clock)

    async def run(self, stop: asyncio.Event) -> None:
        """Until the attempt has ended and that is told.

        Raises:
            Terminal: the device does not run what it shall, or another attempt has it.
            Retryable: the API server is away and nothing was begun, or stays away and nothing can be told.
            Stopped: told to before anything was begun.
        """
        try:
            earlier = await _patiently(self._reporter.take, stop=stop)
            verdict = await self._held(earlier, stop)
            await self._reporter.conclude(verdict.state, verdict.reason, verdict.message, retryable=verdict.retryable)
        except Lost as error:
            raise Terminal(f"another attempt has the device: Lease {error}", reason="LeaseLost") from error
        if verdict.reason != FlashReason.CONFIRMED:
            raise Terminal(f"{verdict.reason}: {verdict.message}", reason=verdict.reason)

    async def _held(self, earlier: FlashReport | None, stop: asyncio.Event) -> Verdict:
        """The attempt, for as long as the device is ours."""
        flashing, holding = asyncio.create_task(self._flash(earlier, stop)), asyncio.create_task(self._lease.hold())
        try:
            await asyncio.wait((flashing, holding), return_when=asyncio.FIRST_COMPLETED)
            if holding.done():
                holding.result()
            return flashing.result()
        except Stopped as error:
            return Verdict("Failed", FlashReason.STOPPED, str(error), retryable=True)
        except Terminal as error:
            return Verdict("Failed", error.reason, str(error))
        except Retryable as error:
            return Verdict("Failed", reason_of(error), str(error), retryable=True)
        finally:
            for task in (flashing, holding):
                task.cancel()
            await asyncio.wait((flashing, holding))

    async def _flash(self, earlier: FlashReport | None, stop: asyncio.Event) -> Verdict:
        settings = self._settings
        leaf = await _patiently(lambda: self._read(LeafDevice, settings.device), stop=stop)
        self._lease.belong_to(leaf)
        firmware, release = await _patiently(self._offered, stop=stop)
        part, proving = part_for(leaf, release), proves(leaf)
        followed = FollowedLeaf(self._kube, leaf)
        images = Images(
            self._kube,
            settings,
            firmware=firmware,
            release=release,
            part=part,
            leaf=followed,
            proves=proving,
            reporter=self._reporter,
            clock=self._clock,
        )
        wanted = Wanted(
            application=release.application,
            version=part.version or release.version,
            measurement=await images.measurement(),
            proven=settings.attestation == "Required",
        )
        async with AsyncExitStack() as stack:
            following = asyncio.create_task(followed.run())
            stack.callback(following.cancel)
            connect = await self._way(leaf, stack)
            attempt = Attempt(
                wanted,
                device=Device(connect, within=settings.return_seconds),
                leaf=followed,
                proves=proving,
                fetch=images.fetch,
                reporter=self._reporter,
                tried=parse_timestamp(earlier.tried_time or "") if earlier else None,
                patience=timedelta(seconds=settings.evidence_seconds),
                clock=self._clock,
            )
            return verdict_of(await attempt.run(stop), settings.goal)

    async def _way(self, leaf: LeafDevice, stack: AsyncExitStack) -> Callable[[], Awaitable[Updater]]:
        """How the device is reached each time."""
        update, settings = way_to(leaf), self._settings
        of_node = self._identity.current.svid.spiffe_id.trust_domain.spiffe_id("agent", leaf.spec.node_name)
        agent = await stack.enter_async_context(
            EdgeAgent(settings.agent, context=client_context(self._identity, authorize=exactly(of_node)))
        )
        trust = await DialInTrust.of(self._kube, leaf, settings)

        async def connect() -> Updater:
            link = await agent.lease(settings.namespace, settings.device)
            return open_updater(update.protocol, link, tls=trust.context, judge=trust.judge)

        return connect

    async def _offered(self) -> tuple[Firmware, Release]:
        firmware = await self._read(Firmware, self._settings.firmware)
        return firmware, release_for(firmware, self._settings.digest)

    async def _read(self, kind: type[R], name: str) -> R:
        found = await self._kube.get(kind, name, namespace=self._settings.namespace)
        if found is None:
            raise Terminal(f"there is no {kind.crd.kind} {name}", reason=FlashReason.NOT_FOUND)
        return found


async def _patiently(ask: Callable[[], Awaitable[T]], *, stop: asyncio.Event) -> T:
    """Ask until there is an answer.

    Raises:
        Retryable: there is none in API_SECONDS.
        Stopped: `stop` was set before there was one.
    """
    loop = asyncio.get_running_loop()
    until, failures = loop.time() + API_SECONDS, 0
    while True:
        try:
            return await ask()
        except Retryable as error:
            failures += 1
            pause = min(error.after or backoff(failures), LONGEST_PAUSE)
            if loop.time() + pause > until:
                raise
            log.info("not yet", error=str(error))
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()
            raise Stopped("told to stop")
