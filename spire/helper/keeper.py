"""Keeps identities fresh: trades tokens at half life, follows the bundles, has files written."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from crds.errors import Retryable, Terminal
from crds.kube.queue import backoff
from spire.domain.errors import Untrusted
from spire.domain.svid import renewal_seconds, verify_svid
from spire.helper import files, metrics
from spire.helper.held import Granted, Held, Latest, Refused, Waiting
from spire.helper.issuer import Bundles
from spire.helper.settings import Workload
from spire.identity import Identity

_log = structlog.get_logger(__name__)

_SHORTEST_PAUSE = 0.2


class Issuing(Protocol):
    """What is needed of the issuer (`issuer.Issuer`); both raise `Retryable` and `Terminal`."""

    async def trade(self, token_file: Path) -> Identity:
        """An identity for whom the token is for."""

    async def bundles(self, *, after: str | None) -> tuple[Bundles, str]:
        """The bundles and their version, when it is another one than `after` or after a while."""


class Keeper:
    """Keeps the identity of one workload.

    Attributes:
        workload: whose.
        held: what it has.
    """

    def __init__(self, workload: Workload, issuer: Issuing) -> None:
        self.workload = workload
        self.held: Latest[Held] = Latest(Waiting("the issuer was not asked yet"))
        self._issuer = issuer
        self._learnt: Bundles = {}
        self._again = asyncio.Event()

    async def keep(self) -> None:
        """Renew at half life, for ever; what is held stays until it ends, whatever the issuer does."""
        failures = 0
        while True:
            try:
                identity = await self._issuer.trade(self.workload.token_file)
            except (Retryable, Terminal) as error:
                failures += 1
                pause = self._missed(error, failures=failures)
            else:
                failures = 0
                pause = self._granted(identity)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(pause, _SHORTEST_PAUSE)):
                    await self._again.wait()
            self._again.clear()

    async def keep_files(self, folder: Path) -> None:
        """Write each new identity and tell the program, for ever."""
        async for held in self.held.follow():
            if isinstance(held, Granted):
                await self._write(folder, held.identity)

    def learn(self, bundles: Bundles) -> None:
        """Take newer bundles; an SVID that has no root among them any more is renewed at once."""
        self._learnt = bundles
        if isinstance(self.held.value, Granted):
            identity = replace(self.held.value.identity, bundles=bundles)
            if not _fits(identity):
                self._again.set()
            self.held.set(Granted(identity))

    def _granted(self, identity: Identity) -> float:
        """Hold it; seconds until it is to be renewed."""
        now = datetime.now(UTC)
        # The answer may have been under way while newer bundles came, and may be signed by a root newer than those.
        newest = replace(identity, bundles=self._learnt)
        self.held.set(Granted(newest if _fits(newest) else identity))
        metrics.TRADES.labels(self.workload.name, "granted").inc()
        metrics.SVID_END.labels(self.workload.name).set(identity.svid.expires.timestamp())
        _log.info(
            "identity",
            workload=self.workload.name,
            spiffe_id=str(identity.svid.spiffe_id),
            expires=identity.svid.expires.isoformat(),
        )
        return renewal_seconds(identity.svid.expires, now=now, jitter=random.random())  # noqa: S311 - jitter

    def _missed(self, error: Retryable | Terminal, *, failures: int) -> float:
        """Hold what is valid still; seconds until the next try."""
        now = datetime.now(UTC)
        refused = isinstance(error, Terminal)
        held = without_answer(self.held.value, refused=refused, problem=str(error), now=now)
        if held != self.held.value:
            self.held.set(held)
        metrics.TRADES.labels(self.workload.name, "refused" if refused else "retry").inc()
        pause = backoff(failures) if isinstance(error, Terminal) or error.after is None else error.after
        _log.warning("no new identity", workload=self.workload.name, problem=str(error), retry_in=round(pause, 1))
        if isinstance(held, Granted):
            return min(pause, (held.identity.svid.expires - now).total_seconds())
        metrics.SVID_END.labels(self.workload.name).set(0)
        return pause

    async def _write(self, folder: Path, identity: Identity) -> None:
        failures = 0
        while True:
            try:
                await asyncio.to_thread(files.write, folder, identity)
            except OSError as error:
                failures += 1
                _log.error("files not written", workload=self.workload.name, folder=str(folder), error=str(error))
                await asyncio.sleep(backoff(failures))
            else:
                break
        if self.workload.signal_pid_file is not None:
            files.tell(self.workload.signal_pid_file)


async def follow_bundles(issuer: Issuing, keepers: Sequence[Keeper]) -> None:
    """Tell all keepers of each change of the bundles, for ever."""
    version: str | None = None
    failures = 0
    while True:
        pause = _SHORTEST_PAUSE
        try:
            bundles, newest = await issuer.bundles(after=version)
        except (Retryable, Terminal) as error:
            failures += 1
            pause = backoff(failures) if isinstance(error, Terminal) or error.after is None else error.after
            _log.warning("no news of bundles", problem=str(error), retry_in=round(pause, 1))
        else:
            failures = 0
            if newest != version:
                version = newest
                metrics.BUNDLE_CHANGES.inc()
                _log.info("bundles", version=version, trust_domains=sorted(map(str, bundles)))
                for keeper in keepers:
                    keeper.learn(bundles)
        await asyncio.sleep(pause)


def without_answer(held: Held, *, refused: bool, problem: str, now: datetime) -> Held:
    """What is held after the issuer gave nothing: what is valid stays, also when the issuer refuses to renew it."""
    if isinstance(held, Granted) and now < held.identity.svid.expires:
        return held
    return Refused(problem) if refused else Waiting(problem)


def _fits(identity: Identity) -> bool:
    try:
        verify_svid(identity.svid.chain, bundles=identity.bundles, now=datetime.now(UTC))
    except Untrusted:
        return False
    return True
